"""Tables 1 and 2 of Permutation-COMQ: masks from boxes by FP32 and by 8, 4 and 2 bits, method by method.

Table 1 compares methods. Table 2 is the paper's ablation of its "Per-Channel Weight-Aware" step: one scale for each
layer against a scale for each channel with permutation. Each row is kept in a file of its own as it comes, so a
run that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from medquant.bench.identity import code_version, fingerprint, key_of
from medquant.bench.permutation_comq.material import Material, scores
from medquant.bench.records import Records
from medquant.errors import UserError, one_of
from medquant.granularity import PerChannel, PerGroup, PerTensor, WeightGranularity
from medquant.models.base import Model, device_of
from medquant.models.catalogue import DEMONSTRATES
from medquant.progress import Progress
from medquant.published_recipes import PLAIN
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import IntWeights, Method, Recipe

_DECIDING = tuple(
    f"bench/{name}.py"
    for name in ("quality", "reference_boxes", "permutation_comq/material", "permutation_comq/tables")
)


def _alike(method: Method, bits: int, grain: WeightGranularity = PerChannel(), scope: str = "rows") -> Recipe:  # noqa: B008 - frozen
    """The paper's terms: an integer zero point, the same bits in every layer, the solver and nothing else."""
    return Recipe(
        weights=IntWeights(bits, grain, zero_point="integer"),
        method=method,
        scope=scope,
        ends_bits=None,
        extra_bits=0.0,
        drop_dead_channels=False,
        calibration=PLAIN,
    )


@dataclass(frozen=True)
class Contender:
    """A method as the tables name it: its recipe by bits, and what the paper prints for MedSAM."""

    title: str
    tables: tuple[int, ...]
    recipe: Callable[[int], Recipe | None]
    published: dict[int, tuple[float, float]]
    """Bits -> DSC and NSD in per cent (Tables 1 and 2)."""


_THEIRS = {2: (86.939, 78.935), 4: (93.434, 93.089), 8: (93.615, 93.204)}
CONTENDERS = {
    "fp32": Contender("FP32", (1,), lambda bits: None, {32: (93.505, 92.969)}),
    "rtn": Contender(
        "RTN", (1,), partial(_alike, "rtn"), {2: (29.79, 30.221), 4: (90.526, 86.755), 8: (93.499, 92.936)}
    ),
    "comq": Contender(
        "COMQ", (1, 2), partial(_alike, "comq"), {2: (71.8, 53.733), 4: (91.874, 90.011), 8: (93.486, 92.938)}
    ),
    "per-layer": Contender(
        "COMQ, a scale for each layer",
        (2,),
        partial(_alike, "comq", grain=PerTensor()),
        {2: (74.46, 54.825), 4: (55.439, 43.685), 8: (93.282, 92.461)},
    ),
    "layer": Contender("Permutation-COMQ (b)", (1, 2), partial(_alike, "permutation-comq", scope="layer"), _THEIRS),
    "rows": Contender("Permutation-COMQ (d)", (1, 2), partial(_alike, "permutation-comq", grain=PerGroup(64)), _THEIRS),
    "default": Contender("medquant's default", (1,), lambda bits: Recipe(weights=IntWeights(bits)), {}),
}


@dataclass(frozen=True)
class TableRow:
    """One method at one width. DSC and NSD are means over all organs of all cases, 0 to 1."""

    model: str
    data: str
    calibration: str
    method: str
    title: str
    tables: tuple[int, ...]
    bits: int
    effective_bits: float
    """Codes, scales, zero points and group or run numbers, as the saved file has them."""
    dsc: float
    nsd: float
    by_organ: dict[str, dict[str, tuple[float, float]]]
    """Case -> organ -> DSC and NSD."""
    published_dsc: float | None
    """The paper's, in the same unit: MedSAM on AbdomenCT-1K, another model and other scans unless these are given."""
    published_nsd: float | None
    device: str
    note: str
    """What must be said wherever the row is shown; empty for a model that is not for demonstration."""


def run(
    model: Model,
    material: Material,
    folder: Path,
    *,
    bits: Sequence[int] = (2, 4, 8),
    methods: Sequence[str] = tuple(CONTENDERS),
    tracker: Progress | None = None,
) -> list[TableRow]:
    """The rows of both tables; those that `folder` has of the same run are not measured again.

    Raises `UserError` for an unknown method.
    """
    odd = [name for name in methods if name not in CONTENDERS]
    if odd:
        raise UserError(f"Unknown method {odd[0]!r}. Choose {one_of(CONTENDERS)}.")
    tracker = tracker or Progress()
    records = Records(folder)
    plan = [(name, width) for name in methods for width in (bits if name != "fp32" else (32,))]
    rows = []
    for number, (name, width) in enumerate(plan):
        part = tracker.span(number / len(plan), (number + 1) / len(plan))
        recipe = CONTENDERS[name].recipe(width)
        key = _key(model, material, recipe)
        kept = records.get(key)
        if kept is None:
            kept = {"key": key, "row": asdict(_measured(model, material, name, width, recipe, part))}
            records.put(kept)
        rows.append(TableRow(**kept["row"]))
    return rows


def _measured(
    model: Model, material: Material, name: str, bits: int, recipe: Recipe | None, tracker: Progress
) -> TableRow:
    contender = CONTENDERS[name]
    contestant: Model | QuantizedModel = model
    if recipe is not None:
        part = tracker.span(0, 0.3).callbacks(f"{contender.title}, {bits} bits")
        contestant = quantize(model, material.calibration(), recipe=recipe, **part)
    by_organ = {}
    for number, case in enumerate(material.cases):
        start, share = 0.3 + 0.7 * number / len(material.cases), 0.7 / len(material.cases)
        by_organ[case.name] = scores(contestant, case, tracker.span(start, start + share))
        getattr(contestant, "model", contestant).forget()
    found = [pair for organs in by_organ.values() for pair in organs.values()]
    dsc, nsd = (sum(values) / len(found) for values in zip(*found))
    published = contender.published.get(bits, (None, None))
    return TableRow(
        model=model.name,
        data=material.title,
        calibration=material.calibration_name,
        method=name,
        title=contender.title,
        tables=contender.tables,
        bits=bits,
        effective_bits=32.0 if recipe is None else contestant.report.effective_bits,
        dsc=dsc,
        nsd=nsd,
        by_organ=by_organ,
        published_dsc=None if published[0] is None else published[0] / 100,
        published_nsd=None if published[1] is None else published[1] / 100,
        device=device_of(model.network).type,
        note=DEMONSTRATES.get(model.name, ""),
    )


def _key(model: Model, material: Material, recipe: Recipe | None) -> str:
    """Of all that decides a row's figures."""
    facts = [code_version(*_DECIDING), model.name, model.identity, device_of(model.network).type]
    facts += [[fingerprint(case) for case in material.cases], recipe and recipe.to_dict()]
    return key_of([*facts, recipe and fingerprint(material.calibration_path)])

"""The numbers of a comparison, and the files they are written to."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medquant.files import atomic_path

MEAN = "(mean)"
"""What stands in the structure column of a CSV line that holds a model's means."""


@dataclass(frozen=True)
class ModelFacts:
    """What a model is, beside its masks. None: not known."""

    name: str = ""
    """Empty: the segmentation's own `model_name`."""
    weight_bits: int | None = None
    """Nominal bits of a weight, 32 for FP32."""
    effective_bits: float | None = None
    """Bits stored per weight: codes, scales, zero points, indices, layers kept in floating point. 32 for FP32, whatever
    its file holds."""
    bytes_on_disk: int | None = None
    """Of the file(s) that the model was loaded from, or saved to."""
    bytes_fp32: int | None = None
    """What its parameters take in FP32, 4 bytes each."""
    simulated: bool | None = None
    """True: quantized weights, floating-point arithmetic. False: integer kernels. None: not quantized."""
    device: str = ""
    """Where it ran: "CPU", "CUDA". This, `simulated`, `runtime` and `precision` are taken from what a segmentation says
    of its own run, where it does."""
    recipe: str = ""
    """The recipe in one line."""
    runtime: str = ""
    """What computed it: "pytorch", "openvino" ..."""
    precision: str = ""
    """What the arithmetic was done in: "fp32", "int8" ..."""
    layers: int | None = None
    """How many layers the compiled network has, and below how many of them run in floating point; None: not known."""
    floating_layers: int | None = None


@dataclass(frozen=True)
class StructureRow:
    """One structure as one model sees it. Where both masks are empty they agree; see `metrics`."""

    model: str
    structure: str
    label: int
    dsc_vs_fp32: float
    nsd_vs_fp32: float
    hd95_mm_vs_fp32: float
    """Infinite where only one of the masks is empty."""
    dsc_vs_reference: float | None
    """None here and below where the reference does not know the structure."""
    nsd_vs_reference: float | None
    hd95_mm_vs_reference: float | None
    volume_ml: float
    fp32_volume_ml: float
    reference_volume_ml: float | None
    volume_change_ml: float
    """Against FP32."""
    volume_change_percent: float | None
    """Against FP32; None where FP32 has no such structure and this model has."""
    verdict: str
    """See `verdict.judge`."""
    verdict_reason: str
    verdict_slice: int | None


@dataclass(frozen=True)
class ModelSummary:
    """One model over all structures.

    Means run over the structures that at least one of the two masks shows; without any they are 1 by definition.
    Means of HD95 run over those that both show, and `missed_...` counts the others.
    """

    name: str
    weight_bits: int | None
    effective_bits: float | None
    bytes_on_disk: int | None
    bytes_fp32: int | None
    simulated: bool | None
    device: str
    recipe: str
    runtime: str
    precision: str
    layers: int | None
    floating_layers: int | None
    dsc_vs_fp32: float
    nsd_vs_fp32: float
    hd95_mm_vs_fp32: float | None
    worst_dsc_vs_fp32: float
    worst_structure: str
    missed_vs_fp32: int
    dsc_vs_reference: float | None
    nsd_vs_reference: float | None
    hd95_mm_vs_reference: float | None
    missed_vs_reference: int | None
    volume_ml: float
    volume_change_ml: float
    volume_change_percent: float | None
    seconds: float | None
    stages: dict[str, float]
    peak_memory_mb: float | None
    """Of the whole process while the model segmented: other models that are held and caches count too."""
    verdict: str
    """That of its worst structure."""
    verdict_reason: str
    """The structure and what decided: "liver, slice 39: 2693 voxels only in FP32"; empty: nothing was lost."""
    verdict_slice: int | None
    """Index of the slice to look at, where it was a slice that decided."""


@dataclass(frozen=True)
class Comparison:
    """The numbers behind every table: `rows`, one for each model and structure, and `summary`, one for each model.

    The first model is FP32; its rows agree with themselves.
    """

    rows: tuple[StructureRow, ...]
    summary: tuple[ModelSummary, ...]
    tolerance_mm: float
    has_reference: bool
    not_in_reference: tuple[str, ...] = ()
    """Structures that the reference does not know."""

    @property
    def structures(self) -> tuple[str, ...]:
        """Structure names in order."""
        return tuple(dict.fromkeys(row.structure for row in self.rows))

    def rows_of(self, model: str) -> tuple[StructureRow, ...]:
        """The rows of one model, by name."""
        return tuple(row for row in self.rows if row.model == model)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; an infinite distance becomes None."""
        return {
            "tolerance_mm": self.tolerance_mm,
            "has_reference": self.has_reference,
            "not_in_reference": list(self.not_in_reference),
            "models": [_finite(asdict(model)) for model in self.summary],
            "structures": [_finite(asdict(row)) for row in self.rows],
        }

    def write_json(self, path: str | Path) -> None:
        """Write `to_dict` as JSON, whole or not at all. Raises `UserError` where `path` cannot be written."""
        with atomic_path(Path(path)) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def write_csv(self, path: str | Path) -> None:
        """Write one line for each model and structure, and one with each model's means, whole or not at all.

        The same numbers as in JSON; an empty field stands for None. Raises `UserError` where `path` cannot be
        written.
        """
        data = self.to_dict()
        facts = {model["name"]: model for model in data["models"]}
        per_model = [name for name in _MODEL_COLUMNS if name not in ("name", "stages")]
        columns = ["model", "structure", *(c for c in _ROW_COLUMNS if c not in ("model", "structure")), *per_model]
        with atomic_path(Path(path)) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, columns, extrasaction="ignore")
            table.writeheader()
            for row in data["structures"]:
                model = facts[row["model"]]
                # Means share their names with a structure's own numbers: they stand in the line of means only.
                table.writerow({**{name: model[name] for name in _FACT_COLUMNS}, **row})
            for name, model in facts.items():
                table.writerow({**model, "model": name, "structure": MEAN})


_FACT_COLUMNS = (
    "weight_bits",
    "effective_bits",
    "bytes_on_disk",
    "bytes_fp32",
    "simulated",
    "device",
    "recipe",
    "runtime",
    "precision",
    "layers",
    "floating_layers",
    "seconds",
    "peak_memory_mb",
)
_ROW_COLUMNS = tuple(StructureRow.__dataclass_fields__)
_MODEL_COLUMNS = tuple(name for name in ModelSummary.__dataclass_fields__ if name not in _ROW_COLUMNS)


def _finite(data: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in data.items()}

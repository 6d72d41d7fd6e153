"""Tables 1 and 2 of Permutation-COMQ: masks from boxes by FP32 and by 8, 4 and 2 bits, method by method.

Table 1 compares methods. Table 2 is the paper's ablation of its "Per-Channel Weight-Aware" step: one scale for each
layer against a scale for each channel with permutation. A row is made of the cells of its cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medquant.bench.permutation_comq.contenders import CONTENDERS, Setting
from medquant.bench.permutation_comq.material import ORGANS, Material
from medquant.errors import UserError, one_of
from medquant.models.catalogue import DEMONSTRATES


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


def table_rows(measured: Sequence[dict[str, Any]], chosen: Sequence[Setting], material: Material) -> list[TableRow]:
    """The row of each setting whose cells are there for all cases: a mean over some would not compare with the others.

    Raises `UserError` where no case shows an organ that counts.
    """
    of_settings = [
        [cell for cell in measured if (cell["method"], cell["bits"]) == (one.method, one.bits)] for one in chosen
    ]
    return [_row(cells, material) for cells in of_settings if len(cells) == len(material.cases)]


def _row(cells: Sequence[dict[str, Any]], material: Material) -> TableRow:
    first = cells[0]
    contender = CONTENDERS[first["method"]]
    by_organ = {cell["case"]: {name: tuple(pair) for name, pair in cell["organs"].items()} for cell in cells}
    found = [pair for organs in by_organ.values() for pair in organs.values()]
    if not found:
        raise UserError(f"No reference shows {one_of(ORGANS)}, which the tables are of. Give other cases.")
    dsc, nsd = (sum(values) / len(found) for values in zip(*found))
    published = contender.published.get(first["bits"], (None, None))
    return TableRow(
        model=first["model"],
        data=material.title,
        calibration=material.calibration_name,
        method=first["method"],
        title=contender.title,
        tables=contender.tables,
        bits=first["bits"],
        effective_bits=first["effective_bits"],
        dsc=dsc,
        nsd=nsd,
        by_organ=by_organ,
        published_dsc=None if published[0] is None else published[0] / 100,
        published_nsd=None if published[1] is None else published[1] / 100,
        device=first["device"],
        note=DEMONSTRATES.get(first["model"], ""),
    )

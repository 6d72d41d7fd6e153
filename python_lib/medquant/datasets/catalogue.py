"""The data sets that can be opened by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from medquant.datasets import layouts
from medquant.datasets.case import Case, Dataset
from medquant.errors import UserError


@dataclass(frozen=True)
class Layout:
    """A data set's published layout."""

    title: str
    find: Callable[[Path], list[Case]]
    looked_for: str


DATASETS = {
    "btcv": Layout("BTCV", layouts.btcv, layouts.BTCV_LOOKED_FOR),
    "totalsegmentator": Layout("TotalSegmentator V2", layouts.totalsegmentator, layouts.TOTALSEGMENTATOR_LOOKED_FOR),
    "abdomenatlas": Layout("AbdomenAtlas 1.1", layouts.abdomen_atlas, layouts.ABDOMEN_ATLAS_LOOKED_FOR),
    "abdomenct-1k": Layout("AbdomenCT-1K", layouts.abdomenct_1k, layouts.ABDOMENCT_1K_LOOKED_FOR),
    "wholebrain": Layout("WholeBrain", layouts.whole_brain, layouts.WHOLE_BRAIN_LOOKED_FOR),
    "nnunet": Layout("a raw folder of nnU-Net", layouts.nnunet_raw, layouts.NNUNET_RAW_LOOKED_FOR),
}
"""By the name that `open_dataset` takes."""


def open_dataset(name: str, folder: str | Path) -> Dataset:
    """The cases of a data set in its published layout, none of them read yet.

    `name`: one of `DATASETS`. `folder`: where it was unpacked. Cases come split by split, in the order of their names.
    Raises `UserError` for an unknown name, and for a folder that has another layout, with what was looked for.
    """
    layout = DATASETS.get(name.lower())
    if layout is None:
        raise UserError(f"There is no data set {name!r}. Choose one of {', '.join(DATASETS)}.")
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Give the folder where {layout.title} was unpacked.")
    cases = layout.find(folder)
    if not cases:
        raise UserError(f"{folder} does not hold {layout.title} in its published layout. It needs {layout.looked_for}.")
    cases = [replace(case, dataset=layout.title) for case in cases]
    return Dataset(name.lower(), layout.title, folder, cases, layout.looked_for)

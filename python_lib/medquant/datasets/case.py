"""One scan of a data set, its reference, and the sequence of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np

from medquant.errors import UserError
from medquant.imaging.labels import read_labels
from medquant.imaging.reading import read_volume
from medquant.imaging.volume import Volume
from medquant.segmentation import Segmentation, Structure


@dataclass(frozen=True)
class Case:
    """A scan and its reference on disk; nothing is read before it is asked for.

    The reference is one label map (`labels`), or one mask for each structure (`masks`), or missing.
    """

    name: str
    image: Path
    structures: Mapping[int, str]
    """Names of the reference's label numbers."""
    labels: Path | None = None
    masks: Mapping[int, Path] = field(default_factory=dict)
    """Label number -> the file of that structure's mask; what is not 0 belongs to it."""
    split: str = ""
    """ "train", "val", "test", or "" where the layout has no split."""
    modality: str = ""
    """What the data set holds ("CT", "MR"); "": guessed from the voxels."""
    dataset: str = ""
    """Its data set's title."""

    @property
    def has_reference(self) -> bool:
        """Whether the layout has a reference for this case."""
        return self.labels is not None or bool(self.masks)

    def volume(self) -> Volume:
        """The scan. Raises `UserError` where its file cannot be read."""
        volume = read_volume(self.image)
        return replace(volume, name=self.name, modality=self.modality or volume.modality)

    def reference(self) -> Segmentation:
        """The reference on the scan's own grid, with the names of its structures.

        Masks of single structures become one label map; where two of them overlap, the larger number wins. All
        structures that the data set names are listed, those that this scan does not show too. Raises `UserError`
        where there is no reference, where a file cannot be read, and where it does not lie on the scan.
        """
        if not self.has_reference:
            raise UserError(f"The case {self.name} has no reference. Choose cases that have one.")
        volume = self.volume()
        if self.labels is None:
            return self._merged(volume)
        found = read_labels(self.labels, volume, names=self.structures)
        named = {s.label: s for s in found.structures} | {n: Structure(n, name) for n, name in self.structures.items()}
        return replace(found, structures=tuple(named[number] for number in sorted(named)))

    def _merged(self, volume: Volume) -> Segmentation:
        merged = np.zeros(volume.shape, dtype=np.uint8 if max(self.masks) < 256 else np.uint16)
        for number in sorted(self.masks):
            np.copyto(merged, number, where=read_labels(self.masks[number], volume).labels > 0)
        structures = tuple(Structure(number, self.structures[number]) for number in sorted(self.masks))
        return Segmentation(merged, volume, structures, model_name=f"reference of {self.name}")


class Dataset(Sequence[Case]):
    """The cases of a data set, in the order of their names."""

    def __init__(self, name: str, title: str, folder: Path, cases: Sequence[Case], layout: str = "") -> None:
        """`layout`: in words, where scans and references lie in the folder."""
        self.name, self.title, self.folder, self.layout = name, title, folder, layout
        self._cases = tuple(cases)

    def _of(self, cases: Sequence[Case]) -> Dataset:
        return Dataset(self.name, self.title, self.folder, cases, self.layout)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    def __getitem__(self, index: int | slice) -> Case | Dataset:
        if isinstance(index, slice):
            return self._of(self._cases[index])
        return self._cases[index]

    def __len__(self) -> int:
        return len(self._cases)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the layout, in the order of the cases; empty where it has none."""
        return tuple(dict.fromkeys(case.split for case in self if case.split))

    def of_split(self, split: str) -> Dataset:
        """The cases of one split. Raises `UserError` where there is no such split."""
        if split not in self.splits:
            known = f"Choose one of {', '.join(self.splits)}" if self.splits else "Its layout has none: take all cases"
            raise UserError(f"{self.title} in {self.folder} has no split {split!r}. {known}.")
        return self._of([case for case in self if case.split == split])

    def with_reference(self) -> Dataset:
        """The cases that have a reference."""
        return self._of([case for case in self if case.has_reference])

    def require_reference(self) -> Dataset:
        """The cases that have a reference. Raises `UserError` where there are none, with where they are looked for."""
        if not (known := self.with_reference()):
            scans = "the scan" if len(self) == 1 else f"none of the {len(self)} scans"
            lacking = "has no" if len(self) == 1 else "has a"
            raise UserError(
                f"{self.title} in {self.folder} lacks its masks: {scans} {lacking} reference. "
                f"Unpack them there as they were published: {self.layout}."
            )
        return known

    def to_test_on(self) -> Dataset:
        """The cases that have a reference and were not published to train on; where there are none, also those.

        Raises `UserError` where no case has a reference.
        """
        known = self.require_reference()
        others = [case for case in known if case.split != "train"]
        return self._of(others) if others else known

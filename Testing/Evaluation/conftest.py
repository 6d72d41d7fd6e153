"""Segmentations made to measure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from medquant.embedded.phantom import make_phantom
from medquant.imaging.volume import Volume
from medquant.segmentation import Segmentation, Structure

Make = Callable[..., Segmentation]


@pytest.fixture
def make_segmentation() -> Make:
    """Builds a segmentation from a label array (k, j, i), a spacing (k, j, i) in mm, and names by label."""

    def make(
        labels: np.ndarray,
        names: dict[int, str] | None = None,
        *,
        spacing: tuple[float, float, float] = (3.0, 1.0, 1.0),
        name: str = "model",
        **extra: object,
    ) -> Segmentation:
        affine = np.diag([spacing[2], spacing[1], spacing[0], 1.0])
        names = names or {int(n): f"structure {n}" for n in np.unique(labels) if n}
        structures = tuple(Structure(label, text) for label, text in names.items())
        scan = np.where(labels > 0, 60, -80).astype(np.int16)
        return Segmentation(labels, Volume(scan, affine, modality="CT"), structures, model_name=name, **extra)

    return make


@pytest.fixture
def two_organs() -> np.ndarray:
    """Labels (12, 40, 44): a block of liver (1) and a small block of spleen (2)."""
    labels = np.zeros((12, 40, 44), dtype=np.uint8)
    labels[2:10, 8:30, 4:24] = 1
    labels[4:9, 12:22, 30:40] = 2
    return labels


@pytest.fixture(scope="session")
def a_reference() -> Make:
    """Builds a phantom with labels in another order than any model's; `turned`: stored the other way round in two."""

    def make(shape: tuple[int, int, int] = (40, 126, 162), *, turned: bool = False) -> Segmentation:
        array, labels, names, affine = make_phantom(905, shape, (3.0, 2.0, 2.0))
        last = max(names)
        labels = np.where(labels > 0, last + 1 - labels, 0).astype(np.uint8)
        if turned:
            ends = affine @ [shape[2] - 1, shape[1] - 1, 0, 1]
            array, labels = array[:, ::-1, ::-1].copy(), labels[:, ::-1, ::-1].copy()
            affine = affine @ np.diag([-1.0, -1.0, 1.0, 1.0])
            affine[:, 3] = ends
        structures = tuple(Structure(last + 1 - value, name) for value, name in names.items())
        return Segmentation(labels, Volume(array, affine, name="phantom", modality="CT"), structures)

    return make

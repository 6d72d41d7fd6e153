"""What lies under the mouse, for the status bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def describe_place(volume: Any, ras: Sequence[float]) -> str:
    """Where a place is and what the scan has there: "R 31.2  A 8.0  I 784.5 mm   voxel 224, 250, 10   61 HU"."""
    from MedQuantSlicerLib import scene

    image = volume.GetImageData()
    if image is None:
        return ""
    index = scene.inverted(scene.ijk_to_world(volume)).MultiplyPoint([*ras, 1.0])[:3]
    voxel = [round(value) for value in index]
    letters = ("RL", "AP", "SI")
    where = "  ".join(f"{pair[0] if value >= 0 else pair[1]} {abs(value):.1f}" for pair, value in zip(letters, ras))
    if not all(0 <= value < size for value, size in zip(voxel, image.GetDimensions())):
        return f"{where} mm"
    value = image.GetScalarComponentAsDouble(*voxel, 0)
    unit = " HU" if volume.GetAttribute(scene.MODALITY_ATTRIBUTE) == "CT" else ""
    return f"{where} mm      voxel {voxel[0]}, {voxel[1]}, {voxel[2]}      {value:g}{unit}"

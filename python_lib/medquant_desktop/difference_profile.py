"""In how many voxels the masks differ, slice by slice, in the order in which a view goes through them."""

from __future__ import annotations

import numpy as np

from medquant_desktop.slice_view import SliceView


def profile(file: str, view: SliceView) -> tuple[float, ...]:
    """Counts for each slice of the view, from the labels (k, j, i) of the difference on the scan's own grid.

    Empty where the view's planes are not the scan's.
    """
    from MedQuantSlicerLib import scene

    volume = view.volume()
    if volume is None:
        return ()
    slice_to_ras, ijk_to_world = view.node.GetSliceToRAS(), scene.ijk_to_world(volume)
    normal = np.array([slice_to_ras.GetElement(row, 2) for row in range(3)])
    axes = np.array([[ijk_to_world.GetElement(row, axis) for row in range(3)] for axis in range(3)])
    along = axes @ normal / np.linalg.norm(axes, axis=1)
    axis = int(np.abs(along).argmax())
    if abs(along[axis]) < 0.999:
        return ()
    labels = np.load(file, mmap_mode="r")
    counts = np.count_nonzero(labels, axis=tuple(other for other in range(3) if other != 2 - axis))
    return tuple(float(count) for count in (counts if along[axis] > 0 else counts[::-1]))

"""In how many voxels the masks differ, slice by slice, in the order in which a view goes through them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medquant_desktop.slice_view import SliceView


def profile(per_slice: Sequence[Sequence[int]], view: SliceView) -> tuple[float, ...]:
    """Counts for each slice of the view, from those along the scan's own axes (k, j, i).

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
    counts = per_slice[2 - axis]
    return tuple(float(count) for count in (counts if along[axis] > 0 else counts[::-1]))

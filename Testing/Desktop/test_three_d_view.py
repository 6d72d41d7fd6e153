"""The 3-D view fits what is new until the user turns or zooms it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")


@pytest.fixture
def segment(tidy, hands, tmp_path: Path):
    """Show masks of so many blocks, and wait for their surface."""
    import slicer
    from MedQuantSlicerLib.host import QUANTIZED, Masks

    def show(blocks: int) -> None:
        labels = np.zeros((12, 60, 80), np.uint8)
        labels[3:8, 20:30, 10:20] = 1
        if blocks > 1:
            labels[2:10, 30:50, 40:75] = 2
        file, made = tmp_path / "masks.npy", []
        np.save(file, labels)
        tidy.views.surfaces.make, make = (
            lambda *pair: make(*pair[:-1], lambda: (pair[-1](), made.append(1))),
            tidy.views.surfaces.make,
        )
        names = {number: f"block {number}" for number in range(1, blocks + 1)}
        tidy.frame.module.host.show_masks(QUANTIZED, Masks(str(file), names), partial=False)
        if not tidy.bar.three_d.isChecked():
            tidy.bar.three_d.click()
        hands.until(lambda: made)
        del tidy.views.surfaces.make
        assert slicer.util.getNode("MedQuant surface").GetPolyData().GetNumberOfPoints()

    return show


def reach(view: Any) -> float:
    """How far from the middle the surface goes: 1 is the edge of the view."""
    import slicer

    surface = slicer.util.getNode("MedQuant surface").GetPolyData()
    width, height = view.render_window.GetSize()
    camera = view.renderer.GetActiveCamera().GetCompositeProjectionTransformMatrix(width / height, -1.0, 1.0)
    rows = np.array([[camera.GetElement(row, column) for column in range(4)] for row in range(4)])
    points = np.array([(*surface.GetPoint(number), 1.0) for number in range(surface.GetNumberOfPoints())]) @ rows.T
    return float(np.abs(points[:, :2] / points[:, 3:]).max())


def test_what_is_new_is_fitted_until_the_user_turns_the_view(tidy, hands, segment) -> None:
    from medquant_desktop.pane import DIFFERENCE, THREE_D

    segment(1)
    hands.wait(0.1)
    view = tidy.views.panes[THREE_D].view
    assert 0.85 < reach(view) < 1.0
    segment(2)
    assert 0.85 < reach(view) < 1.0, "a structure was added"
    wide = view.width
    tidy.views.show_optional(DIFFERENCE, True)
    hands.until(lambda: view.width < 0.6 * wide)
    assert 0.85 < reach(view) < 1.0, "the view has become narrow"
    hands.drag(view, (0.4, 0.5), (0.6, 0.6))
    turned = view.renderer.GetActiveCamera().GetPosition()
    tidy.views.show_optional(DIFFERENCE, False)
    hands.until(lambda: view.width == wide)
    segment(1)
    assert view.renderer.GetActiveCamera().GetPosition() == turned, "as the user has turned it"
    tidy.views.fit()
    assert 0.85 < reach(view) < 1.0

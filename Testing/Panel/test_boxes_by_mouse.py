"""Boxes drawn and dragged by the mouse in a real slice view."""

from __future__ import annotations

import numpy as np
import panel_geometries as geometries
import pytest
from panel_hands import settle


@pytest.fixture
def drawn(slicer, scene, request):
    """A host, the left view, and what the presenter was told."""
    import qt
    from MedQuantSlicerLib.parameters import MedQuantSlicerParameterNode
    from MedQuantSlicerLib.scene_host import SceneHost

    from medquant_desktop import mrml_application
    from medquant_desktop.linked_views import LinkedViews

    parameters = MedQuantSlicerParameterNode(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    voxels = np.random.default_rng(0).integers(0, 100, (20, 64, 64)).astype(np.int16)
    volume = geometries.add_volume(request.param, voxels)
    volume.CreateDefaultDisplayNodes()
    parameters.inputVolume = volume
    views = LinkedViews(mrml_application.start())
    views.resize(900, 500)
    views.show()
    views.show_volume(volume)
    views.show_pair()
    host, told = SceneHost(parameters), []
    host.boxes_changed = lambda: told.append(host.boxes())
    settle(200)
    yield host, views.left, told
    host.close()
    views.close_views()
    views.close()
    qt.QApplication.processEvents()


def _drag(view, start, end):
    from PySide6.QtCore import QPoint, Qt
    from PySide6.QtTest import QTest

    QTest.mouseMove(view, QPoint(*start))
    settle(60)
    QTest.mousePress(view, Qt.LeftButton, Qt.NoModifier, QPoint(*start))
    settle(30)
    for part in np.linspace(0, 1, 9)[1:] if start != end else ():
        QTest.mouseMove(view, QPoint(*(round(a + (b - a) * part) for a, b in zip(start, end))))
        settle(15)
    QTest.mouseRelease(view, Qt.LeftButton, Qt.NoModifier, QPoint(*end))
    settle(60)


def _voxels(host):
    """First and last voxel (i, j, k) of the only box."""
    inverse = np.linalg.inv(np.array(host.volume().ijk_to_lps))
    (box,) = host.boxes()
    corners = np.array([inverse @ [*corner, 1.0] for corner in box.corners])[:, :3]
    return corners.min(axis=0), corners.max(axis=0)


@pytest.mark.parametrize("drawn", ["left-handed"], indirect=True)
def test_two_clicks_draw_and_a_handle_drags(drawn, slicer):
    host, view, told = drawn
    middle = view.width // 2, view.height // 2
    first, second = ((middle[0] - 60, middle[1] - 50), (middle[0] + 60, middle[1] + 50))
    assert not host.is_placing()
    host.start_box()
    assert host.is_placing()
    _drag(view, first, first)
    assert host.boxes() == (), "half a box is none"
    assert host.is_placing()
    _drag(view, second, second)
    settle(250)
    assert not host.is_placing()
    lower, upper = _voxels(host)
    plane = view.node.GetSliceOffset()
    (node,) = host.box_nodes()
    assert abs(node.GetCenter()[2] - plane) < 1e-3
    assert node.GetSize()[2] > 0, "it crosses some slices"
    assert len(told[-1]) == 1

    handle = (middle[0] + 60, middle[1])
    _drag(view, handle, (handle[0] + 40, handle[1]))
    settle(250)
    after = _voxels(host)
    moved = np.abs(np.concatenate(after) - np.concatenate((lower, upper)))
    assert np.count_nonzero(moved > 1) == 1, "one side has moved, along one axis"
    grown = (after[1] - after[0])[0] / (upper - lower)[0]
    assert grown == pytest.approx(160 / 120, abs=0.05)
    assert told[-1] == host.boxes(), "the presenter knows"

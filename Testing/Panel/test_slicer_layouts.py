"""Slicer's layouts and views, with stand-ins for its layout manager: which are shown when, with which scan."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import panel_geometries as geometries
import pytest
from layout_fakes import LEFT, RIGHT, background, choose_with_masks, show_pair, shown_in, views_of


def test_the_layout_comes_and_goes(host, manager):
    from MedQuantSlicerLib.slicer_layouts import PAIR

    volume = choose_with_masks(host)
    show_pair(host, "FP32  375 MB  7.7 s", "4-bit  52 MB  1.0 s")
    assert manager.layout == PAIR
    assert [manager.sliceWidget(tag).title for tag in (LEFT, RIGHT)] == ["FP32  375 MB  7.7 s", "4-bit  52 MB  1.0 s"]
    for tag in (LEFT, RIGHT):
        composite = manager.sliceWidget(tag).logic.GetSliceCompositeNode()
        assert composite.GetLinkedControl()
        assert composite.GetHotLinkedControl()
        assert background(manager, tag) == volume.GetID()
    view = manager.sliceWidget(LEFT).logic.GetSliceNode()
    view.SetFieldOfView(10, 7.5, 1)
    show_pair(host, "FP32", "8-bit")
    assert view.GetFieldOfView()[0] == 10, "a user's zoom stays"
    host.restore_layout()
    assert manager.layout == 3


def test_another_scan_is_shown_as_soon_as_it_is_chosen(host, manager):
    first = choose_with_masks(host)
    show_pair(host, "FP32", "4-bit")
    assert {background(manager, tag) for tag in (LEFT, RIGHT)} == {first.GetID()}
    second = choose_with_masks(host, "coronal")
    assert {background(manager, tag) for tag in (LEFT, RIGHT)} == {second.GetID()}
    for kind, tag in (("fp32", LEFT), ("quantized", RIGHT)):
        assert shown_in(kind, second) == [tag]
        assert shown_in(kind, first) == [], "masks of the former scan are not drawn over this one"
    host.parameters.inputVolume = first
    host.watch_volume(first)
    assert {background(manager, tag) for tag in (LEFT, RIGHT)} == {first.GetID()}
    assert shown_in("fp32", first) == [LEFT]


def test_the_scan_fills_views_that_get_their_size_a_moment_later(host, manager):
    import qt

    choose_with_masks(host)
    show_pair(host, "", "")
    logic = manager.sliceWidget(LEFT).logic
    logic.SetSliceOffset(logic.GetSliceOffset() + 5)
    view, offset = logic.GetSliceNode(), logic.GetSliceOffset()
    logic.ResizeSliceNode(150, 900)
    at_once = view.GetFieldOfView()[:2]
    qt.QApplication.processEvents()
    fitted = view.GetFieldOfView()[:2]
    assert fitted != pytest.approx(at_once), "MRML keeps what it can of the former view"
    logic.FitSliceToBackground()
    assert fitted == pytest.approx(view.GetFieldOfView()[:2])
    logic.SetSliceOffset(offset)
    assert view.GetFieldOfView()[:2] == pytest.approx(fitted)


@pytest.mark.parametrize("name", ["oblique", "left-handed oblique"])
def test_the_views_show_the_scans_own_slices(host, manager, name):
    choose_with_masks(host, name)
    show_pair(host, "", "")
    across = np.asarray(geometries.DIRECTIONS[name])[:, 2]
    for tag in (LEFT, RIGHT):
        matrix = manager.sliceWidget(tag).logic.GetSliceNode().GetSliceToRAS()
        normal = [matrix.GetElement(row, 2) for row in range(3)]
        assert abs(np.dot(normal, across)) == pytest.approx(1)


def test_a_scene_that_came_with_our_layout_does_not_leave_it_behind(host, manager):
    from MedQuantSlicerLib.slicer_layouts import PAIR

    volume = choose_with_masks(host)
    manager.setLayout(PAIR)
    assert shown_in("fp32", volume) == [LEFT]
    host.restore_layout()
    assert manager.layout == 3
    assert views_of("fp32", volume) == []


def test_a_layout_that_the_user_chose_meanwhile_stays(host, manager):
    show_pair(host, "a", "b")
    manager.setLayout(6)
    host.restore_layout()
    assert manager.layout == 6


def test_placing_a_box_shows_the_views_and_keeps_their_titles(host, manager, slicer):
    choose_with_masks(host)
    show_pair(host, "FP32", "4-bit")
    manager.setLayout(3)
    host.start_box()
    assert manager.layout != 3
    assert manager.sliceWidget(LEFT).title == "FP32"
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    host.start_box()
    assert len(_boxes(slicer)) == 1, "a box that was not drawn is taken away"


def _boxes(slicer):
    nodes = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
    return [node for node in nodes if node.GetAttribute("MedQuant.Box")]


def test_a_box_that_was_given_up_is_taken_away(host, manager, slicer):
    """As with the Escape key, which ends placing and nothing else."""
    choose_with_masks(host)
    host.start_box()
    host._boxes_rest()
    assert len(_boxes(slicer)) == 1, "it is still being placed"
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    host._boxes_rest()
    assert _boxes(slicer) == []


def test_the_layouts_are_such_as_slicer_reads(manager, scene):
    from MedQuantSlicerLib import slicer_layouts
    from MedQuantSlicerLib.mask_views import VIEWS
    from MedQuantSlicerLib.slicer_layouts import KINDS, LAYOUTS, QUAD

    slicer_layouts.register(manager)
    for number in LAYOUTS:
        manager.setLayout(number)
        views = manager.layoutLogic().GetViewNodes()
        found = {view.GetID(): view for view in (views.GetItemAsObject(n) for n in range(views.GetNumberOfItems()))}
        slices = [found.pop(f"vtkMRMLSliceNode{VIEWS[kind]}") for kind in KINDS[number]]
        assert list(found) == (["vtkMRMLViewNodeMedQuant3D"] if number == QUAD else [])
        assert {view.GetOrientation() for view in slices} == {"Axial"}
        (group,) = {view.GetViewGroup() for view in slices}
        assert group != 0, "that of Slicer's own views"


def test_the_layouts_are_known_from_the_start(manager, slicer, monkeypatch):
    """A scene may ask for them before the module was opened; Slicer's menu offers them once."""
    import qt
    from MedQuantSlicer import register_layouts
    from MedQuantSlicerLib.slicer_layouts import LAYOUTS

    bar, button, menu = qt.QToolBar(), qt.QToolButton(), qt.QMenu()
    button.setMenu(menu)
    bar.addWidget(button)
    window = SimpleNamespace(findChild=lambda kind, name: bar if (kind, name) == ("QToolBar", "ViewToolBar") else None)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: window)
    register_layouts()
    register_layouts()
    node = manager.layoutLogic().GetLayoutNode()
    assert all(node.IsLayoutDescription(number) for number in LAYOUTS)
    assert [action.data() for action in menu.actions()] == list(LAYOUTS)


def test_without_a_window_nothing_is_laid_out(slicer, scene, monkeypatch, tmp_path):
    from MedQuantSlicer import register_layouts
    from MedQuantSlicerLib.parameters import MedQuantSlicerParameterNode
    from MedQuantSlicerLib.slicer_host import SlicerHost

    monkeypatch.setattr(slicer.app, "layoutManager", lambda: None, raising=False)
    register_layouts()
    made = SlicerHost(MedQuantSlicerParameterNode(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")), str(tmp_path))
    volume = choose_with_masks(made)
    show_pair(made, "a", "b")
    made.flip()
    assert views_of("fp32", volume) == []
    made.restore_layout()
    made.close()


def test_a_volume_without_voxels_is_no_obstacle(host, manager, scene):
    show_pair(host, "", "")
    for name in ("vtkMRMLScalarVolumeNode", "vtkMRMLVectorVolumeNode"):
        empty = scene.AddNewNodeByClass(name, "nothing in it")
        host.parameters.inputVolume = empty
        host.watch_volume(empty)
        assert background(manager, LEFT) == empty.GetID()
    choose_with_masks(host)
    host.parameters.inputVolume = None
    host.watch_volume(None)
    assert background(manager, LEFT) is None, "nor is one shown that is not chosen any longer"

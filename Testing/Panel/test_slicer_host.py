"""What is Slicer's alone, with stand-ins for its layout manager: the layouts, the views, the masks in them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import panel_fakes as fakes
import panel_geometries as geometries
import pytest

vtk = pytest.importorskip("vtk", reason="slicer-core is not installed")

LEFT, RIGHT, THIRD = "MedQuantFP32", "MedQuantQuantized", "MedQuantDifference"


class FakeSignal:
    def __init__(self):
        self._connected = []
        self.connect, self.disconnect = self._connected.append, self._connected.remove

    def emit(self, *told):
        for function in list(self._connected):
            function(*told)


class FakeView:
    """A real slice logic and a real slice node behind a view that draws nothing."""

    def __init__(self, slicer, node):
        self.logic, self.annotation = slicer.vtkMRMLSliceLogic(), vtk.vtkCornerAnnotation()
        self.logic.SetMRMLScene(slicer.mrmlScene)
        node.SetDimensions(400, 300, 1)
        self.logic.SetSliceNode(node)

    def sliceLogic(self):
        return self.logic

    def sliceView(self):
        return SimpleNamespace(cornerAnnotation=lambda: self.annotation, scheduleRender=lambda: None)

    @property
    def title(self):
        return self.annotation.GetText(vtk.vtkCornerAnnotation.UpperEdge)


class FakeLayoutManager:
    """With Slicer's own layout logic, which makes the views that a layout describes."""

    def __init__(self, slicer):
        from MedQuantSlicerLib.slicer_layouts import LAYOUTS

        self._slicer, self._logic, self._views = slicer, slicer.vtkMRMLLayoutLogic(), {}
        self._logic.SetMRMLScene(slicer.mrmlScene)
        node = self._logic.GetLayoutNode()
        node.SetViewArrangement(3)
        for number in LAYOUTS:  # the node outlives the scenes of other tests
            if node.IsLayoutDescription(number):
                node.SetLayoutDescription(number, "")
        self.fitted_3d = 0
        self.layoutChanged = FakeSignal()
        self.setLayout(3)

    def layoutLogic(self):
        return self._logic

    @property
    def layout(self):
        return self._logic.GetLayoutNode().GetViewArrangement()

    def setLayout(self, layout):
        self._logic.GetLayoutNode().SetViewArrangement(layout)
        self.layoutChanged.emit(layout)

    def resetThreeDViews(self):
        self.fitted_3d += 1

    def sliceWidget(self, tag):
        node = self._slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNode{tag}")
        if tag not in self._views and node is not None:
            self._views[tag] = FakeView(self._slicer, node)
        return self._views.get(tag)


@pytest.fixture
def manager(slicer, scene, monkeypatch):
    made = FakeLayoutManager(slicer)
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: made, raising=False)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: None)
    yield made
    made.layoutLogic().GetLayoutNode().SetSaveWithScene(True)


@pytest.fixture
def host(slicer, scene, manager, tmp_path):
    from MedQuantSlicerLib.parameters import MedQuantSlicerParameterNode
    from MedQuantSlicerLib.slicer_host import SlicerHost

    parameters = MedQuantSlicerParameterNode(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    made = SlicerHost(parameters, str(tmp_path / "requirements.txt"))
    yield made
    made.close()


def _choose(host, name="axial"):
    """Another scan in the panel, with its own masks of both kinds."""
    from MedQuantSlicerLib import masks

    volume = geometries.add_volume(name)
    host.parameters.inputVolume = volume
    host.watch_volume(volume)
    for kind in ("fp32", "quantized"):
        masks.show(kind, np.ones((9, 12, 16), np.uint8), {1: "liver"}, volume, title=kind)
    host.place_masks()
    return volume


def _shown_in(kind, volume, tags=(LEFT, RIGHT)):
    """Which of the views draw the masks of a kind."""
    from MedQuantSlicerLib import masks

    display = masks.segmentation_of(kind, volume).GetDisplayNode()
    return [tag for tag in tags if display.IsDisplayableInView(f"vtkMRMLSliceNode{tag}")]


def _views_of(kind, volume):
    from MedQuantSlicerLib import masks

    return list(masks.segmentation_of(kind, volume).GetDisplayNode().GetViewNodeIDs())


def _show_pair(host, left, right):
    host.show_pair()
    host.show_results(left, right, False)


def _background(manager, tag):
    return manager.sliceWidget(tag).logic.GetSliceCompositeNode().GetBackgroundVolumeID()


def test_the_layout_comes_and_goes(host, manager):
    from MedQuantSlicerLib.slicer_layouts import PAIR

    volume = _choose(host)
    _show_pair(host, "FP32  375 MB  7.7 s", "4-bit  52 MB  1.0 s")
    assert manager.layout == PAIR
    assert [manager.sliceWidget(tag).title for tag in (LEFT, RIGHT)] == ["FP32  375 MB  7.7 s", "4-bit  52 MB  1.0 s"]
    for tag in (LEFT, RIGHT):
        composite = manager.sliceWidget(tag).logic.GetSliceCompositeNode()
        assert composite.GetLinkedControl()
        assert composite.GetHotLinkedControl()
        assert _background(manager, tag) == volume.GetID()
    view = manager.sliceWidget(LEFT).logic.GetSliceNode()
    view.SetFieldOfView(10, 7.5, 1)
    _show_pair(host, "FP32", "8-bit")
    assert view.GetFieldOfView()[0] == 10, "a user's zoom stays"
    host.restore_layout()
    assert manager.layout == 3


def test_another_scan_is_shown_as_soon_as_it_is_chosen(host, manager):
    first = _choose(host)
    _show_pair(host, "FP32", "4-bit")
    assert {_background(manager, tag) for tag in (LEFT, RIGHT)} == {first.GetID()}
    second = _choose(host, "coronal")
    assert {_background(manager, tag) for tag in (LEFT, RIGHT)} == {second.GetID()}
    for kind, tag in (("fp32", LEFT), ("quantized", RIGHT)):
        assert _shown_in(kind, second) == [tag]
        assert _shown_in(kind, first) == [], "masks of the former scan are not drawn over this one"
    host.parameters.inputVolume = first
    host.watch_volume(first)
    assert {_background(manager, tag) for tag in (LEFT, RIGHT)} == {first.GetID()}
    assert _shown_in("fp32", first) == [LEFT]


def test_the_scan_fills_views_that_get_their_size_a_moment_later(host, manager):
    import qt

    _choose(host)
    _show_pair(host, "", "")
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
    _choose(host, name)
    _show_pair(host, "", "")
    across = np.asarray(geometries.DIRECTIONS[name])[:, 2]
    for tag in (LEFT, RIGHT):
        matrix = manager.sliceWidget(tag).logic.GetSliceNode().GetSliceToRAS()
        normal = [matrix.GetElement(row, 2) for row in range(3)]
        assert abs(np.dot(normal, across)) == pytest.approx(1)


def test_a_scene_that_came_with_our_layout_does_not_leave_it_behind(host, manager):
    from MedQuantSlicerLib.slicer_layouts import PAIR

    volume = _choose(host)
    manager.setLayout(PAIR)
    assert _shown_in("fp32", volume) == [LEFT]
    host.restore_layout()
    assert manager.layout == 3
    assert _views_of("fp32", volume) == []


def test_a_layout_that_the_user_chose_meanwhile_stays(host, manager):
    _show_pair(host, "a", "b")
    manager.setLayout(6)
    host.restore_layout()
    assert manager.layout == 6


def test_placing_a_box_shows_the_views_and_keeps_their_titles(host, manager, slicer):
    _choose(host)
    _show_pair(host, "FP32", "4-bit")
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
    _choose(host)
    host.start_box()
    host._boxes_rest()
    assert len(_boxes(slicer)) == 1, "it is still being placed"
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    host._boxes_rest()
    assert _boxes(slicer) == []


# -- where masks are drawn


def test_outside_the_pair_masks_are_ordinary_segmentations(host, manager):
    volume = _choose(host)
    assert _views_of("fp32", volume) == [], "before the pair is shown every view draws them"
    _show_pair(host, "FP32", "4-bit")
    assert (_shown_in("fp32", volume), _shown_in("quantized", volume)) == ([LEFT], [RIGHT])
    manager.setLayout(6)
    assert (_views_of("fp32", volume), _views_of("quantized", volume)) == ([], [])
    _show_pair(host, "FP32", "4-bit")
    assert (_shown_in("fp32", volume), _shown_in("quantized", volume)) == ([LEFT], [RIGHT])
    host.restore_layout()
    assert (_views_of("fp32", volume), _views_of("quantized", volume)) == ([], [])


def test_what_the_user_binds_to_a_view_stays_bound(host, manager):
    from MedQuantSlicerLib import masks

    volume = _choose(host)
    _show_pair(host, "FP32", "4-bit")
    host.restore_layout()
    masks.segmentation_of("fp32", volume).GetDisplayNode().SetViewNodeIDs(["vtkMRMLSliceNodeRed"])
    manager.setLayout(6)
    assert _views_of("fp32", volume) == ["vtkMRMLSliceNodeRed"]


def test_masks_that_come_while_another_layout_is_shown_are_drawn_everywhere(host, manager, tmp_path):
    from MedQuantSlicerLib.host import Masks

    volume = geometries.add_volume()
    host.parameters.inputVolume = volume
    np.save(tmp_path / "m.npy", np.ones((9, 12, 16), np.uint8))
    host.show_masks("fp32", Masks(str(tmp_path / "m.npy"), {1: "liver"}, shown_as="FP32"), True)
    assert _views_of("fp32", volume) == []


def test_a_scene_saved_beside_the_pair_shows_its_masks_anywhere(host, manager, slicer, scene, tmp_path):
    """Nothing tells a module that Slicer saves: what is in the scene must do as it is."""
    volume = _choose(host)
    _show_pair(host, "FP32", "4-bit")
    path = tmp_path / "scene.mrml"
    scene.SetURL(str(path))
    scene.Commit()
    other = slicer.vtkMRMLScene()
    other.SetURL(str(path))
    other.Import()
    assert other.GetNumberOfNodesByClass("vtkMRMLLayoutNode") == 0, "whoever opens it keeps the layout there is"
    displays = [
        other.GetNthNodeByClass(n, "vtkMRMLSegmentationDisplayNode")
        for n in range(other.GetNumberOfNodesByClass("vtkMRMLSegmentationDisplayNode"))
    ]
    assert len(displays) == 2
    for display in displays:
        for view in ("SliceNodeRed", "SliceNodeYellow", "SliceNodeGreen", "ViewNode1"):
            assert display.IsDisplayableInView(f"vtkMRML{view}")
    assert _shown_in("fp32", volume) == [LEFT], "and here nothing has changed"
    host.restore_layout()
    scene.Commit()
    assert 'currentViewArrangement="3"' in path.read_text(encoding="utf-8")


def test_flipping_takes_the_titles_along(host, manager):
    volume = _choose(host)
    _show_pair(host, "FP32  7.7 MB", "4-bit  2.5 MB")

    def seen():
        views = [manager.sliceWidget(tag) for tag in (LEFT, RIGHT)]
        labels = [view.logic.GetSliceNode().GetLayoutLabel() for view in views]
        return [view.title for view in views], labels, _shown_in("fp32", volume), _shown_in("quantized", volume)

    before = seen()
    assert before == (["FP32  7.7 MB", "4-bit  2.5 MB"], ["FP32", "Quantized"], [LEFT], [RIGHT])
    host.flip()
    assert seen() == (["4-bit  2.5 MB", "FP32  7.7 MB"], ["Quantized", "FP32"], [RIGHT], [LEFT])
    color = manager.sliceWidget(LEFT).logic.GetSliceNode().GetLayoutColor()
    assert color == pytest.approx((0xF2 / 255, 0xA3 / 255, 0x3A / 255))
    host.flip()
    assert seen() == before


@pytest.mark.parametrize("change", ["masks", "removed", "layout", "scan"])
def test_a_flip_ends_when_something_else_comes(host, manager, tmp_path, change):
    from MedQuantSlicerLib.host import Masks
    from MedQuantSlicerLib.slicer_layouts import TRIPLE

    volume = _choose(host)
    _show_pair(host, "FP32", "4-bit")
    host.flip()
    assert _shown_in("fp32", volume) == [RIGHT]
    if change == "masks":
        np.save(tmp_path / "m.npy", np.ones((9, 12, 16), np.uint8))
        host.show_masks("quantized", Masks(str(tmp_path / "m.npy"), {1: "liver"}, shown_as="4-bit"), False)
    elif change == "removed":
        host.remove_masks("quantized")
    elif change == "layout":
        manager.setLayout(TRIPLE)
    else:
        volume = _choose(host, "sagittal")
    assert _shown_in("fp32", volume) == [LEFT]
    assert [manager.sliceWidget(tag).title for tag in (LEFT, RIGHT)] == ["FP32", "4-bit"]
    if change != "removed":
        assert _shown_in("quantized", volume) == [RIGHT]


def test_the_difference_has_a_view_of_its_own(host, manager, tmp_path):
    from MedQuantSlicerLib.host import Masks
    from MedQuantSlicerLib.slicer_layouts import PAIR, TRIPLE

    volume = _choose(host)
    _show_pair(host, "FP32", "4-bit")
    left = manager.sliceWidget(LEFT).logic
    left.SetSliceOffset(left.GetSliceOffset() + 5)
    left.GetSliceNode().SetFieldOfView(20, 15, 1)
    np.save(tmp_path / "difference.npy", np.ones((9, 12, 16), np.uint8))
    told = Masks(str(tmp_path / "difference.npy"), {1: "FP32 only", 2: "4-bit only"}, shown_as="Difference")
    host.show_masks("difference", told, False)
    host.show_results("FP32", "4-bit", True)
    assert manager.layout == TRIPLE
    assert _shown_in("difference", volume, (LEFT, RIGHT, THIRD)) == [THIRD]
    assert [manager.sliceWidget(tag).title for tag in (LEFT, RIGHT, THIRD)] == ["FP32", "4-bit", "Difference"]
    assert left.GetSliceNode().GetFieldOfView()[0] == 20, "the views that were there stay as they are"
    third = manager.sliceWidget(THIRD).logic
    assert third.GetSliceOffset() == pytest.approx(left.GetSliceOffset())
    host.remove_masks("difference")
    host.show_results("FP32", "4-bit", False)
    assert manager.layout == PAIR
    manager.setLayout(3)
    host.show_results("FP32", "4-bit", True)
    assert manager.layout == 3, "the user looks at something else"


def test_surfaces_stand_in_the_layout_that_has_3d(host, manager):
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.slicer_layouts import QUAD

    volume = _choose(host)
    _show_pair(host, "FP32", "4-bit")
    nodes = [masks.segmentation_of(kind, volume) for kind in ("fp32", "quantized")]
    assert not any(node.GetSegmentation().ContainsRepresentation("Closed surface") for node in nodes)
    manager.setLayout(QUAD)
    for node in nodes:
        assert node.GetSegmentation().ContainsRepresentation("Closed surface")
        assert node.GetDisplayNode().IsDisplayableInView("vtkMRMLViewNodeMedQuant3D")
    assert manager.fitted_3d == 1
    fp32, quantized = (node.GetDisplayNode() for node in nodes)
    host.style()
    assert fp32.GetOpacity3D() < quantized.GetOpacity3D()


def test_closing_leaves_ordinary_segmentations(host, manager):
    volume = _choose(host)
    _show_pair(host, "FP32", "4-bit")
    host.close()
    assert _views_of("fp32", volume) == []
    manager.setLayout(6)  # nobody hears it
    host.close = lambda: None


# -- layouts


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
    volume = _choose(made)
    _show_pair(made, "a", "b")
    made.flip()
    assert _views_of("fp32", volume) == []
    made.restore_layout()
    made.close()


# -- the module


@pytest.fixture
def module(slicer, scene, manager, tmp_path):
    """The module's widget as Slicer makes it, not entered yet, with an engine that only listens."""
    import qt
    from MedQuantSlicer import MedQuantSlicerLogic, MedQuantSlicerWidget

    class Logic(MedQuantSlicerLogic):
        def __init__(self):
            super().__init__()
            self.moduleName = "MedQuantSlicer"

        def make_engine(self):
            return fakes.FakeEngine(tmp_path)

    class Widget(MedQuantSlicerWidget):
        def make_logic(self):
            return Logic()

    for node in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode"):
        scene.RemoveNode(node)  # one of a kind: it outlives the scenes of other tests
    holder = qt.QWidget()
    qt.QVBoxLayout(holder)
    made = Widget(holder)
    made.setup()
    yield made
    made.cleanup()


def test_leaving_the_module_leaves_ordinary_segmentations(module, manager):
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.slicer_layouts import PAIR

    module.enter()
    assert manager.layout == 3, "there is nothing to compare"
    volume = geometries.add_volume()
    module.parameters.inputVolume = volume
    for kind in ("fp32", "quantized"):
        masks.show(kind, np.ones((9, 12, 16), np.uint8), {1: "liver"}, volume, title=kind)
    module.exit()
    module.enter()
    assert manager.layout == PAIR
    assert (_shown_in("fp32", volume), _shown_in("quantized", volume)) == ([LEFT], [RIGHT])
    module.exit()
    assert manager.layout == 3
    assert (_views_of("fp32", volume), _views_of("quantized", volume)) == ([], [])
    module.enter()
    assert (_shown_in("fp32", volume), _shown_in("quantized", volume)) == ([LEFT], [RIGHT])
    other = geometries.add_volume("oblique")
    module.parameters.inputVolume = other
    assert _background(manager, LEFT) == _background(manager, RIGHT) == other.GetID()
    assert _shown_in("fp32", volume) == []


def test_a_scene_gets_the_choices_only_once_the_module_is_entered(module, slicer, scene):
    def choices():
        return slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")

    assert choices() == []
    scene.Clear(0)
    scene.StartState(scene.ImportState)
    scene.EndState(scene.ImportState)
    assert choices() == [], "another module is open"
    geometries.add_volume()
    module.enter()
    assert len(choices()) == 1
    module.exit()
    scene.Clear(0)
    assert module.parameters is None, "while another module is open nothing is looked after"
    module.enter()
    assert module.parameters is not None


def test_a_volume_without_voxels_is_no_obstacle(host, manager, scene):
    _show_pair(host, "", "")
    for name in ("vtkMRMLScalarVolumeNode", "vtkMRMLVectorVolumeNode"):
        empty = scene.AddNewNodeByClass(name, "nothing in it")
        host.parameters.inputVolume = empty
        host.watch_volume(empty)
        assert _background(manager, LEFT) == empty.GetID()
    _choose(host)
    host.parameters.inputVolume = None
    host.watch_volume(None)
    assert _background(manager, LEFT) is None, "nor is one shown that is not chosen any longer"

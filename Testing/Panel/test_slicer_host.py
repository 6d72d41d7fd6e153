"""What is Slicer's alone, with stand-ins for its layout manager and its package installer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import panel_geometries as geometries
import pytest

vtk = pytest.importorskip("vtk", reason="slicer-core is not installed")


class FakeView:
    def __init__(self, slicer):
        self.composite = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
        self.annotation = vtk.vtkCornerAnnotation()
        self.fitted = 0

    def sliceLogic(self):
        def fit():
            self.fitted += 1

        return SimpleNamespace(GetSliceCompositeNode=lambda: self.composite, FitSliceToAll=fit)

    def sliceView(self):
        return SimpleNamespace(cornerAnnotation=lambda: self.annotation, scheduleRender=lambda: None)


class FakeLayoutManager:
    """With a real layout node, so that a description that Slicer would refuse is refused here."""

    def __init__(self, slicer):
        self._slicer, self.layout, self.views = slicer, 3, {}
        self._node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLayoutNode")

    def layoutLogic(self):
        return SimpleNamespace(GetLayoutNode=lambda: self._node)

    def setLayout(self, layout):
        self.layout = layout

    def sliceWidget(self, tag):
        return self.views.setdefault(tag, FakeView(self._slicer))


@pytest.fixture
def manager(slicer, scene, monkeypatch):
    made = FakeLayoutManager(slicer)
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: made, raising=False)
    return made


@pytest.fixture
def host(slicer, scene, manager, tmp_path):
    from MedQuantSlicerLib.parameters import MedQuantSlicerParameterNode
    from MedQuantSlicerLib.slicer_host import SlicerHost

    parameters = MedQuantSlicerParameterNode(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# a comment\nnumpy>=1\nno-such-package-of-medquant>=2\n")
    made = SlicerHost(parameters, str(requirements))
    yield made
    made.close()


def test_the_layout_comes_and_goes(host, manager):
    from MedQuantSlicerLib.slicer_host import PAIR

    host.parameters.inputVolume = geometries.add_volume()
    host.show_pair("FP32  375 MB  7.7 s", "4-bit  52 MB  1.0 s")
    assert manager.layout == PAIR
    left, right = manager.views["MedQuantFP32"], manager.views["MedQuantQuantized"]
    titles = [view.annotation.GetText(vtk.vtkCornerAnnotation.UpperEdge) for view in (left, right)]
    assert titles == ["FP32  375 MB  7.7 s", "4-bit  52 MB  1.0 s"]
    for view in (left, right):
        assert view.composite.GetLinkedControl()
        assert view.composite.GetHotLinkedControl()
        assert view.composite.GetBackgroundVolumeID() == host.parameters.inputVolume.GetID()
        assert view.fitted == 1
    host.show_pair("FP32", "8-bit")
    assert left.fitted == 1, "a user's zoom stays"
    host.restore_layout()
    assert manager.layout == 3


def test_a_layout_that_the_user_chose_meanwhile_stays(host, manager):
    host.show_pair("a", "b")
    manager.setLayout(6)
    host.restore_layout()
    assert manager.layout == 6


def test_placing_a_box_shows_the_views_and_keeps_their_titles(host, manager, slicer):
    host.parameters.inputVolume = geometries.add_volume()
    host.show_pair("FP32", "4-bit")
    manager.setLayout(3)
    host.start_box()
    assert manager.layout != 3
    assert manager.views["MedQuantFP32"].annotation.GetText(vtk.vtkCornerAnnotation.UpperEdge) == "FP32"
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    host.start_box()
    boxes = [n for n in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode") if n.GetAttribute("MedQuant.Box")]
    assert len(boxes) == 1, "a box that was not drawn is taken away"


def test_the_difference_has_a_view_of_its_own(host, manager, tmp_path):
    import numpy as np
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.host import Masks
    from MedQuantSlicerLib.slicer_host import PAIR, TRIPLE, VIEWS

    host.parameters.inputVolume = geometries.add_volume()
    host.show_pair("FP32", "4-bit")
    np.save(tmp_path / "difference.npy", np.ones((9, 12, 16), np.uint8))
    told = Masks(str(tmp_path / "difference.npy"), {1: "FP32 only", 2: "4-bit only"}, shown_as="Difference")
    host.show_masks("difference", told, False)
    assert manager.layout == TRIPLE
    node = masks.segmentation_of("difference", host.node)
    shown = [node.GetDisplayNode().IsDisplayableInView(f"vtkMRMLSliceNode{tag}") for tag in VIEWS[TRIPLE]]
    assert shown == [False, False, True]
    titles = [view.annotation.GetText(vtk.vtkCornerAnnotation.UpperEdge) for view in manager.views.values()]
    assert titles == ["FP32", "4-bit", "Difference"]
    host.remove_masks("difference")
    assert manager.layout == PAIR
    manager.setLayout(3)
    host.show_masks("difference", told, False)
    assert manager.layout == 3, "the user looks at something else"


def test_the_layouts_are_such_as_slicer_reads(slicer, scene):
    from MedQuantSlicerLib.slicer_host import LAYOUTS, VIEWS

    logic = slicer.vtkMRMLLayoutLogic()
    logic.SetMRMLScene(scene)
    node = logic.GetLayoutNode()
    for number, description in LAYOUTS.items():
        assert node.AddLayoutDescription(number, description)
        node.SetViewArrangement(number)
        for tag in VIEWS[number]:
            view = scene.GetNodeByID(f"vtkMRMLSliceNode{tag}")
            assert view is not None, "the layout makes its views"
            assert view.GetOrientation() == "Axial"


# -- packages


class FakePackaging:
    """As of `slicer.packaging`, with what it was asked for."""

    def __init__(self, code=0):
        self.code, self.calls = code, []

    def pip_check(self, requirement):
        return requirement.startswith("numpy")

    def pip_install(self, packages, **options):
        self.calls.append((packages, options))
        options["logCallback"]("Collecting no-such-package-of-medquant>=2")
        options["logCallback"]("ERROR: no network")
        options["completedCallback"](self.code)


@pytest.fixture
def torch_there(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    found = SimpleNamespace(origin="torch")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: found if name == "torch" else real(name, *a))


def test_what_is_missing_is_named_with_its_size_and_source(host, monkeypatch, slicer, torch_there):
    monkeypatch.setattr(slicer, "packaging", FakePackaging(), raising=False)
    text = host.missing().text
    assert "no-such-package-of-medquant" in text
    assert "numpy" not in text
    assert "PyTorch" not in text
    assert "400 MB" in text
    assert "Python Package Index" in text


def test_without_torch_the_extension_is_named(host, monkeypatch, slicer):
    import importlib.util

    real = importlib.util.find_spec
    absent = ("torch", "PyTorchUtils")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in absent else real(name, *a))
    assert "PyTorch extension" in host.missing().text
    monkeypatch.setattr(slicer.app, "extensionsManagerModel", lambda: None, raising=False)
    told = []
    host.install(told.append, lambda: told.append("done"), lambda text, log: told.append((text, log)))
    assert told[-1][0].startswith("The PyTorch extension is missing. Install it")
    assert "done" not in told


def test_nothing_is_missing_while_slicer_tests(host, monkeypatch, slicer):
    monkeypatch.setattr(slicer.app, "testingEnabled", lambda: True)
    assert host.missing() is None


def test_packages_are_installed_beside_slicers_own(host, monkeypatch, slicer, torch_there):
    packaging = FakePackaging()
    monkeypatch.setattr(slicer, "packaging", packaging, raising=False)
    told = []
    host.install(told.append, lambda: told.append("done"), lambda *problem: told.append(problem))
    assert told == ["Fetching no", "Installing packages", "done"] or told[-1] == "done"
    ((packages, options),) = packaging.calls
    assert packages == ["no-such-package-of-medquant>=2"]
    assert not options["blocking"]
    pinned = Path(options["constraints"]).read_text(encoding="utf-8").split()
    import SimpleITK

    assert f"SimpleITK=={SimpleITK.Version_VersionString()}".split(".post")[0] in [p.split(".post")[0] for p in pinned]


def test_a_failure_shows_the_log(host, monkeypatch, slicer, torch_there):
    monkeypatch.setattr(slicer, "packaging", FakePackaging(code=1), raising=False)
    told = []
    host.install(told.append, lambda: told.append("done"), lambda *problem: told.append(problem))
    text, log = told[-1]
    assert "network" in text
    assert "ERROR: no network" in Path(log).read_text(encoding="utf-8")


def test_a_cancelled_installation_tells_nothing_more(host, monkeypatch, slicer, torch_there):
    class Slow(FakePackaging):
        def pip_install(self, packages, **options):
            self.end = options["completedCallback"]

    packaging = Slow()
    monkeypatch.setattr(slicer, "packaging", packaging, raising=False)
    told = []
    host.install(told.append, lambda: told.append("done"), lambda *problem: told.append(problem))
    host.cancel_install()
    packaging.end(1)
    assert told == []


def test_packages_are_looked_for_once_they_are_there(host, monkeypatch, slicer, torch_there):
    packaging = FakePackaging()
    monkeypatch.setattr(packaging, "pip_check", lambda requirement: seen.append(requirement) or True)
    monkeypatch.setattr(slicer, "packaging", packaging, raising=False)
    seen = []
    assert [host.missing(), host.missing()] == [None, None]
    assert len(seen) == 2, "two requirements, each once"

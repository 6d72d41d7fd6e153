"""Slicer's module is entered and left, with stand-ins for its layout manager."""

from __future__ import annotations

import numpy as np
import panel_fakes as fakes
import panel_geometries as geometries
import pytest
from layout_fakes import LEFT, RIGHT, background, shown_in, views_of


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
    assert (shown_in("fp32", volume), shown_in("quantized", volume)) == ([LEFT], [RIGHT])
    module.exit()
    assert manager.layout == 3
    assert (views_of("fp32", volume), views_of("quantized", volume)) == ([], [])
    module.enter()
    assert (shown_in("fp32", volume), shown_in("quantized", volume)) == ([LEFT], [RIGHT])
    other = geometries.add_volume("oblique")
    module.parameters.inputVolume = other
    assert background(manager, LEFT) == background(manager, RIGHT) == other.GetID()
    assert shown_in("fp32", volume) == []


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

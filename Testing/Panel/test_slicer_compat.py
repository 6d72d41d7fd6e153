"""The stand-ins behave as what they stand in for."""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Annotated

import pytest


def test_properties_are_values(slicer):
    import qt

    button = qt.QPushButton("Quantize")
    assert (button.text, button.enabled, button.checkable) == ("Quantize", True, False)
    button.text = "Cancel"
    button.setEnabled(False)
    assert (button.text, button.enabled) == ("Cancel", False)
    with pytest.raises(TypeError):
        button.text()
    spin = qt.QSpinBox()
    spin.value = 7
    assert spin.value == 7
    assert spin.sizeHint.width() > 0
    box = qt.QComboBox()
    box.addItem("CT", "ct")
    assert (box.count, box.currentText, box.currentData) == (1, "CT", "ct")


def test_what_is_not_there_cannot_be_written(slicer):
    import qt

    class Own(qt.QLabel):
        pass

    button, own = qt.QPushButton(), Own()
    with pytest.raises(AttributeError, match="tooltip"):
        button.tooltip = "misspelt"
    button.toolTip = "spelt"
    own.anything = 1
    assert (button.toolTip, own.anything) == ("spelt", 1)


def test_methods_that_python_overrides_are_called_by_qt(slicer):
    import qt

    class Fixed(qt.QLabel):
        def sizeHint(self):
            return qt.QSize(123, 45)

    label, outer = Fixed("x"), qt.QWidget()
    layout = qt.QHBoxLayout(outer)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.addWidget(label)
    assert layout.sizeHint() == qt.QSize(123, 45)


def test_a_file_dialog_answers_with_a_path_alone(slicer, monkeypatch):
    import qt

    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", staticmethod(lambda *a: "chosen"))
    assert qt.QFileDialog.getOpenFileName(None, "x") == "chosen"


def test_a_folded_section_hides_what_comes_later(slicer):
    import ctk
    import qt

    with pytest.raises((TypeError, ValueError)):
        ctk.ctkCollapsibleButton("Layers")
    section = ctk.ctkCollapsibleButton()
    section.text = "Layers"
    layout = qt.QVBoxLayout(section)
    shown, hidden = qt.QLabel("shown"), qt.QLabel("hidden")
    layout.addWidget(shown)
    layout.addWidget(hidden)
    hidden.setVisible(False)
    section.show()
    told = []
    section.contentsCollapsed.connect(told.append)
    section.collapsed = True
    shown.setVisible(True)
    qt.QApplication.processEvents()
    assert not shown.isVisible()
    section.collapsed = False
    assert (shown.isVisible(), hidden.isVisible()) == (True, False)
    assert told == [True, False]


def test_the_node_selector_follows_the_scene(slicer, scene):
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.noneEnabled = True
    selector.setMRMLScene(scene)
    told = []
    selector.currentNodeChanged.connect(told.append)
    first = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "first")
    second = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "second")
    scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "another kind")
    assert selector.nodeCount() == 2
    assert selector.currentNode() is None
    selector.setCurrentNode(second)
    scene.RemoveNode(first)
    assert selector.currentNode() is second
    scene.RemoveNode(second)
    assert selector.currentNode() is None
    assert told == [second, None]


class _Kind(enum.Enum):
    A = "a"
    B = "b"


def _wrapper(slicer):
    from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

    class Parameters:
        volume: slicer.vtkMRMLScalarVolumeNode
        kind: _Kind = _Kind.A
        count: Annotated[int, WithinRange(1, 5)] = 3
        filled: bool = False

    Parameters.__annotations__ = {
        "volume": slicer.vtkMRMLScalarVolumeNode,
        "kind": _Kind,
        "count": Annotated[int, WithinRange(1, 5)],
        "filled": bool,
    }
    return parameterNodeWrapper(Parameters)


def test_parameters_are_written_as_slicer_writes_them(slicer, scene):
    node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    parameters = _wrapper(slicer)(node)
    assert (parameters.volume, parameters.kind, parameters.count, parameters.filled) == (None, _Kind.A, 3, False)
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    parameters.volume, parameters.kind, parameters.count, parameters.filled = volume, _Kind.B, 5, True
    assert node.GetNodeReference("volume") is volume
    assert [node.GetParameter(name) for name in ("kind", "count", "filled")] == ["B", "5", "True"]
    with pytest.raises(ValueError, match="within"):
        parameters.count = 6
    with pytest.raises(TypeError):
        parameters.filled = "yes"


def test_widgets_and_parameters_follow_each_other(slicer, scene):
    import qt

    parameters = _wrapper(slicer)(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    ui = SimpleNamespace(kind=qt.QComboBox(), count=qt.QSpinBox(), filled=qt.QCheckBox())
    for name, widget in vars(ui).items():
        widget.setProperty("SlicerParameterName", name)
    tag = parameters.connectGui(ui)
    assert [ui.kind.itemText(row) for row in range(ui.kind.count)] == ["A", "B"]
    assert (ui.count.value, ui.count.minimum, ui.count.maximum) == (3, 1, 5)
    ui.count.value = 4
    ui.kind.setCurrentIndex(1)
    assert (parameters.count, parameters.kind) == (4, _Kind.B)
    parameters.filled = True
    assert ui.filled.checked
    parameters.disconnectGui(tag)
    ui.count.value = 2
    assert parameters.count == 4
    ui.count.setProperty("SlicerParameterName", "no such field")
    with pytest.raises(ValueError, match="no such field"):
        parameters.connectGui(ui)


def test_starting_twice_changes_nothing(slicer):
    import qt

    from medquant_desktop.slicer_compat import bootstrap

    before, scene = qt.QPushButton, slicer.mrmlScene
    bootstrap.start()
    import qt as again

    assert again.QPushButton is before
    assert slicer.mrmlScene is scene

"""The `.ui` file and the code that uses it agree."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

MODULE = Path(__file__).resolve().parents[2] / "MedQuantSlicer"
UI = ElementTree.parse(MODULE / "Resources" / "UI" / "MedQuantSlicer.ui").getroot()
CLASSES = {widget.get("name"): widget.get("class") for widget in UI.iter("widget")}
PARAMETERS = {
    widget.get("name"): "".join(found.itertext()).strip()
    for widget in UI.iter("widget")
    if (found := widget.find("property[@name='SlicerParameterName']")) is not None
}
# What `connectGui` of Slicer binds to which kind of field.
BINDINGS = {
    "qMRMLNodeComboBox": "node",
    "QSpinBox": "int",
    "QSlider": "int",
    "QDoubleSpinBox": "float",
    "ctkSliderWidget": "float",
    "QCheckBox": "bool",
    "QLineEdit": "str",
    "QComboBox": "enum",
}


def _used_names():
    """Every `ui.name` of the module, with those that are made up of a prefix and a section or a number of bits."""
    for path in [MODULE / "MedQuantSlicer.py", *(MODULE / "MedQuantSlicerLib").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in (
                "ui",
                "self.ui",
                "self._ui",
                "widget.ui",
            ):
                yield node.attr, path.name


def test_every_name_that_the_code_uses_is_there():
    used = dict(_used_names())
    assert len(used) > 50, "the code was not understood"
    missing = {name: path for name, path in used.items() if name not in CLASSES}
    assert not missing
    from MedQuantSlicerLib.state import BITS, SECTIONS

    made = [f"{s}{end}" for s in SECTIONS for end in ("Section", "Messages")] + [f"bits{bits}Button" for bits in BITS]
    assert not [name for name in made if name not in CLASSES]


def test_every_widget_to_press_or_read_is_used():
    used = {name for name, _path in _used_names()} | set(PARAMETERS)
    kinds = ("QPushButton", "QComboBox", "QTreeWidget", "QCheckBox", "QSpinBox", "ctkSliderWidget", "ctkSearchBox")
    idle = {name for name, kind in CLASSES.items() if kind in kinds and not re.fullmatch(r"bits\dButton", name)} - used
    assert not idle


def test_every_parameter_name_is_a_field_of_a_kind_that_its_widget_shows(slicer):
    import enum
    import typing

    from MedQuantSlicerLib.parameters import MedQuantSlicerParameterNode

    hints = typing.get_type_hints(MedQuantSlicerParameterNode)

    def kind_of(field):
        if issubclass(field, slicer.vtkMRMLNode):
            return "node"
        return "enum" if issubclass(field, enum.Enum) else field.__name__

    assert len(PARAMETERS) > 10
    for widget, name in PARAMETERS.items():
        assert name in hints, f"{widget} names {name}, which is no field"
        assert BINDINGS[CLASSES[widget]] == kind_of(hints[name]), widget
    assert len(set(PARAMETERS.values())) == len(PARAMETERS)


def test_words_of_the_combo_boxes_are_those_of_the_engine(slicer):
    from MedQuantSlicerLib import parameters
    from MedQuantSlicerLib.state import OPTION_VALUES, Options

    fields = parameters.MedQuantSlicerParameterNode
    for name, values in OPTION_VALUES.items():
        kind = fields.dataType(name)
        assert {word.value for word in kind} == set(values), name
        assert all(word.label() for word in kind)
        assert fields.allParameters[name].default.value.value == getattr(Options(), name)
    assert set(parameters.OPTIONS) == set(vars(Options()))

"""Typed choices in a MRML node, bound to widgets: what the panel uses of `slicer.parameterNodeWrapper`.

The strings that are written are those that Slicer writes, so that a session saved by the window opens in Slicer with
its choices.
"""

from __future__ import annotations

import enum
import typing
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import ctk
import qt
import slicer
import vtk

PROPERTY = "SlicerParameterName"


@dataclass(frozen=True)
class Default:
    """The value before anything was chosen."""

    value: Any


@dataclass(frozen=True)
class WithinRange:
    """A number between two others."""

    minimum: float
    maximum: float


@dataclass(frozen=True)
class Choice:
    """One of these."""

    choices: tuple[Any, ...]


def parameterNodeWrapper(cls: type) -> type:
    """Class decorator: every annotated field becomes a property that lives in the MRML node given at construction."""
    fields = {name: _Field(name, hint, cls) for name, hint in typing.get_type_hints(cls, include_extras=True).items()}
    for name, field in fields.items():
        setattr(cls, name, property(field.read, field.write))
    cls.allParameters = fields
    cls.dataType = staticmethod(lambda name: fields[name].unalteredType)
    cls.__init__ = _construct
    for method in (connectGui, disconnectGui, AddObserver, RemoveObserver, StartModify, EndModify, Modified):
        setattr(cls, method.__name__, method)
    return cls


class _Field:
    """One choice: how it is written into the node, and read."""

    def __init__(self, name: str, hint: Any, cls: type) -> None:
        plain, *notes = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
        self.name, self.unalteredType, self.type, self.notes = name, hint, plain, notes
        if not (self.is_node or plain in (bool, int, float, str) or issubclass(plain, enum.Enum)):
            raise TypeError(f"{cls.__name__}.{name}: {plain} cannot be kept in a parameter node.")
        self.default = Default(getattr(cls, name)) if name in vars(cls) else self._noted_default()

    @property
    def is_node(self) -> bool:
        return issubclass(self.type, slicer.vtkMRMLNode)

    def note(self, kind: type) -> Any:
        return next((note for note in self.notes if isinstance(note, kind)), None)

    def _noted_default(self) -> Default:
        noted = self.note(Default)
        if noted is not None:
            return noted
        if self.is_node:
            return Default(None)
        return Default(next(iter(self.type)) if issubclass(self.type, enum.Enum) else self.type())

    def read(self, wrapper: Any) -> Any:
        return wrapper._values[self.name]

    def read_node(self, node: Any) -> Any:
        if self.is_node:
            return node.GetNodeReference(self.name)
        if not node.HasParameter(self.name):
            return self.default.value
        text = node.GetParameter(self.name)
        if self.type is bool:
            return text == "True"
        return self.type[text] if issubclass(self.type, enum.Enum) else self.type(text)

    def write(self, wrapper: Any, value: Any) -> None:
        self._check(value)
        node = wrapper.parameterNode
        was_modifying = node.StartModify()
        if self.is_node:
            node.SetParameter(self.name, "")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        else:
            node.SetParameter(self.name, value.name if isinstance(value, enum.Enum) else str(value))
        wrapper._values[self.name] = self.read_node(node)
        node.EndModify(was_modifying)

    def _check(self, value: Any) -> None:
        accepted = (int, float) if self.type is float else self.type
        if not isinstance(value, accepted) and not (self.is_node and value is None):
            raise TypeError(f"{self.name}: {value!r} is no {self.type.__name__}.")
        within, choice = self.note(WithinRange), self.note(Choice)
        if within is not None and not within.minimum <= value <= within.maximum:
            raise ValueError(f"{self.name}: {value} is not within {within.minimum} and {within.maximum}.")
        if choice is not None and value not in choice.choices:
            raise ValueError(f"{self.name}: {value!r} is none of {choice.choices}.")


def _construct(self: Any, parameterNode: Any) -> None:
    self.parameterNode = parameterNode
    self._connected: dict[int, tuple[list[Any], int]] = {}
    self._updating = False
    self._values: dict[str, Any] = {}
    for name, field in self.allParameters.items():
        if not parameterNode.HasParameter(name):
            field.write(self, field.default.value)
        self._values[name] = field.read_node(parameterNode)
    tag = parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, partial(_remember, weakref.ref(self)))
    weakref.finalize(self, parameterNode.RemoveObserver, tag).atexit = False


def _remember(wrapper: weakref.ref, node: Any, event: Any) -> None:
    """As in Slicer, values are read when the node says that it changed, and only then.

    A node that is referred to may come into the scene, or go, without a word: then the wrapper still tells the old.
    """
    alive = wrapper()
    if alive is not None:
        for name, field in alive.allParameters.items():
            alive._values[name] = field.read_node(node)


def connectGui(self: Any, gui: Any) -> int:
    """Bind every widget of `gui` that names a field in its property `SlicerParameterName`, both ways."""
    widgets = {w.property(PROPERTY): w for w in vars(gui).values() if w.property(PROPERTY)}
    unknown = sorted(set(widgets) - set(self.allParameters))
    if unknown:
        raise ValueError(f"Cannot find a param with the given name: {', '.join(unknown)}")
    bindings = [_Binding(self, self.allParameters[name], widget) for name, widget in widgets.items()]
    for binding in bindings:
        binding.show()
        binding.changed.connect(binding.keep)

    def show_all(caller: Any = None, event: Any = None) -> None:
        if not self._updating:
            self._updating = True
            try:
                for binding in bindings:
                    binding.show()
            finally:
                self._updating = False

    tag = max(self._connected, default=-1) + 1
    self._connected[tag] = (bindings, self.AddObserver(vtk.vtkCommand.ModifiedEvent, show_all))
    return tag


def disconnectGui(self: Any, tag: int) -> None:
    """Undo `connectGui`."""
    bindings, observer = self._connected.pop(tag, ([], None))
    for binding in bindings:
        binding.changed.disconnect(binding.keep)
    if observer is not None:
        self.RemoveObserver(observer)


def AddObserver(self: Any, event: Any, callback: Callable, priority: float = 0.0) -> int:
    """Observe the MRML node."""
    return self.parameterNode.AddObserver(event, callback, priority)


def RemoveObserver(self: Any, tag: int) -> None:
    """Observe the MRML node no longer."""
    self.parameterNode.RemoveObserver(tag)


def StartModify(self: Any) -> int:
    """Changes are told together at `EndModify`."""
    return self.parameterNode.StartModify()


def EndModify(self: Any, previous: int) -> None:
    """See `StartModify`."""
    self.parameterNode.EndModify(previous)


def Modified(self: Any) -> None:
    """Tell a change."""
    self.parameterNode.Modified()


class _Binding:
    """One widget and the field that it shows. As in Slicer, the widget must be of exactly the class that is listed."""

    def __init__(self, wrapper: Any, field: _Field, widget: Any) -> None:
        self._wrapper, self._field, self._widget = wrapper, field, widget
        kind = type(widget)
        if field.is_node and kind is slicer.qMRMLNodeComboBox:
            widget.nodeTypes = [field.type.__name__]
            self._wire(widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode)
        elif field.type is bool and kind in (qt.QCheckBox, qt.QPushButton):
            self._wire(widget.toggled, lambda: widget.checked, widget.setChecked)
        elif field.type is int and kind in (qt.QSpinBox, qt.QSlider):
            self._bound(kind is qt.QSlider)
            self._wire(widget.valueChanged, lambda: widget.value, widget.setValue)
        elif field.type is float and kind in (qt.QDoubleSpinBox, ctk.ctkSliderWidget):
            self._bound(kind is ctk.ctkSliderWidget)
            self._wire(widget.valueChanged, lambda: widget.value, widget.setValue)
        elif field.type is str and kind is qt.QLineEdit:
            self._wire(widget.textChanged, lambda: widget.text, widget.setText)
        elif kind is qt.QComboBox:
            self._bind_choices()
        else:
            raise RuntimeError(f"Unable to create GUI connector from datatype '{field.type}' to widget type '{kind}'")

    def _wire(self, changed: Any, get: Callable[[], Any], put: Callable[[Any], None]) -> None:
        self.changed, self._get, self._put = changed, get, put

    def _bound(self, needed: bool) -> None:
        within = self._field.note(WithinRange)
        if within is not None:
            self._widget.minimum, self._widget.maximum = within.minimum, within.maximum
        elif needed:
            raise RuntimeError(f"{self._field.name}: a slider needs a number that is bounded.")

    def _bind_choices(self) -> None:
        widget, field = self._widget, self._field
        if issubclass(field.type, enum.Enum):
            values = list(field.type)
            words = [getattr(field.type, "label", lambda value: value.name)(value) for value in values]
        elif field.note(Choice) is not None:
            values = list(field.note(Choice).choices)
            words = [str(value) for value in values]
        else:
            raise RuntimeError(f"{field.name}: a combo box needs an Enum or a Choice.")
        widget.clear()
        for word in words:
            widget.addItem(word)
        self._wire(
            widget.currentIndexChanged,
            lambda: values[widget.currentIndex],
            lambda value: widget.setCurrentIndex(values.index(value)),
        )

    def show(self) -> None:
        """Node to widget."""
        value = self._field.read(self._wrapper)
        if self._get() != value:
            self._put(value)

    def keep(self, *_: Any) -> None:
        """Widget to node."""
        if not self._wrapper._updating:
            self._field.write(self._wrapper, self._get())

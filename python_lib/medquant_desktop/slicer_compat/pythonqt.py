"""Gives PySide6's classes the manners of PythonQt: properties are values, setters stay.

In Slicer a panel reads ``button.text`` and writes ``button.text = "..."`` or ``button.setText("...")``; in PySide6
``button.text`` is a method. Every class gets one Python property for each property of its meta object, so that a panel
written for Slicer runs as it is, and one that calls ``button.text()`` or writes to a name that the widget does not
have fails as it would there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from PySide6 import QtCore, QtGui, QtSvg, QtUiTools, QtWidgets

_MODULES: tuple[ModuleType, ...] = (QtCore, QtGui, QtWidgets, QtSvg, QtUiTools)
# A property of the same name as a static function that everybody calls: `QTimer.singleShot(0, f)`.
_LEFT_ALONE = {("QTimer", "singleShot")}
_done: set[type] = set()


def adopt() -> dict[str, Any]:
    """Change PySide6's classes once; return all public names of the modules, as Slicer's `qt` offers them."""
    # `dir`, not `vars`: PySide6 makes its classes when they are asked for.
    names = {name: getattr(module, name) for module in _MODULES for name in dir(module) if not name.startswith("_")}
    for value in list(names.values()):
        if isinstance(value, type) and issubclass(value, QtCore.QObject):
            give_properties(value)
    _give_old_names()
    return names


def give_properties(cls: type) -> None:
    """Give a class, after those it derives from, a Python property for each property that it adds to them."""
    if cls in _done:
        return
    _done.add(cls)
    cls.__setattr__ = _write_what_is_there
    for base in cls.__bases__:
        if issubclass(base, QtCore.QObject):
            give_properties(base)
    meta = cls.staticMetaObject
    for index in range(meta.propertyCount()):
        described = meta.property(index)
        name = described.name()
        # An inherited property hides again behind a method that the class writes anew (`QSpinBox.sizeHint`).
        inherited = index < meta.propertyOffset() and name not in cls.__dict__
        if inherited or (cls.__name__, name) in _LEFT_ALONE or isinstance(cls.__dict__.get(name), property):
            continue
        setattr(cls, name, property(_getter(cls, name), _setter(cls, name) if described.isWritable() else None))


_NOTHING = object()
_write = QtCore.QObject.__base__.__setattr__


def _write_what_is_there(self: Any, name: str, value: Any) -> None:
    """Writing to what is not there (`button.tooltip = "..."`) fails, but for classes that Python adds."""
    there = getattr(type(self), name, _NOTHING)
    if there is _NOTHING and type(self).__module__.startswith("PySide6."):
        raise AttributeError(f"'{name}' does not exist on {type(self).__name__}")
    if isinstance(there, QtCore.Property):
        there.fset(self, value)
    else:
        _write(self, name, value)


def _getter(cls: type, name: str) -> Callable[[Any], Any]:
    for candidate in (name, f"is{name[0].upper()}{name[1:]}"):
        method = getattr(cls, candidate, None)
        if callable(method) and not isinstance(method, QtCore.Signal):
            return lambda self: method(self)
    return lambda self: QtCore.QObject.property(self, name)


def _setter(cls: type, name: str) -> Callable[[Any, Any], Any]:
    method = getattr(cls, f"set{name[0].upper()}{name[1:]}", None)
    if callable(method):
        return lambda self, value: method(self, value)
    return lambda self, value: QtCore.QObject.setProperty(self, name, value)


def _give_old_names() -> None:
    """What PythonQt, and Qt 5 under it, call otherwise than PySide6."""
    for cls in (QtWidgets.QDialog, QtWidgets.QMenu, QtWidgets.QMessageBox, QtCore.QEventLoop, QtCore.QCoreApplication):
        cls.exec_ = cls.exec
    # PythonQt returns what was chosen; PySide6 a pair with the filter.
    _answer_alone(QtWidgets.QFileDialog, ("getOpenFileName", "getOpenFileNames", "getSaveFileName"))


def _answer_alone(cls: type, names: Iterable[str]) -> None:
    for name in names:
        pair = getattr(cls, name)
        setattr(cls, name, staticmethod(lambda *args, _pair=pair, **named: _pair(*args, **named)[0]))

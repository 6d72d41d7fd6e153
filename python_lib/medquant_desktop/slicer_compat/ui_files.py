"""Loads Slicer's `.ui` files: Qt's own loader with the stand-ins for the widgets of CTK and Slicer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

from PySide6.QtCore import QBuffer, QByteArray
from PySide6.QtUiTools import QUiLoader
from PySide6.QtWidgets import QWidget

from medquant_desktop.slicer_compat import ctk_widgets, qmrml_widgets


def load_ui(path: str) -> QWidget:
    """The widget that a `.ui` file describes (`slicer.util.loadUI`).

    Connections inside the file are left out: they name C++ signatures, and what they do in Slicer's files, handing the
    scene on, `qMRMLWidget` does by itself.
    """
    tree = ElementTree.fromstring(Path(path).read_bytes())
    for connections in tree.findall("connections"):
        tree.remove(connections)
    loader = QUiLoader()
    for widget in (*ctk_widgets.WIDGETS.values(), *qmrml_widgets.WIDGETS.values()):
        loader.registerCustomWidget(widget)
    buffer = QBuffer()
    buffer.setData(QByteArray(ElementTree.tostring(tree)))
    buffer.open(QBuffer.ReadOnly)
    widget = loader.load(buffer)
    if widget is None:
        raise RuntimeError(f"Could not load {path}: {loader.errorString()}")
    return widget


def child_widget_variables(widget: QWidget) -> SimpleNamespace:
    """All named widgets inside, as attributes (`slicer.util.childWidgetVariables`)."""
    children = {child.objectName: child for child in widget.findChildren(QWidget)}
    return SimpleNamespace(**{name: child for name, child in children.items() if name.isidentifier()})

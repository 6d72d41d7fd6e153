"""The about box and the list of shortcuts."""

from __future__ import annotations

import platform

import slicer
import vtk
from PySide6.QtCore import Qt, qVersion
from PySide6.QtWidgets import QDialog, QDialogButtonBox, QLabel, QVBoxLayout, QWidget

from medquant import __version__

NOT_CLINICAL = "Not for clinical use."
SHORTCUTS = (
    ("Wheel, Up, Down", "next slice"),
    ("Shift and wheel, Page Up, Page Down", "ten slices"),
    ("Left drag", "window and level"),
    ("Right drag, Ctrl and wheel", "zoom"),
    ("Middle drag, shift and left drag", "pan"),
    ("Shift and move", "crosshair"),
    ("B", "place a box"),
    ("S", "segment"),
    ("D", "difference"),
    ("Space", "flip FP32 and quantized in place"),
    ("R", "fit the scan into the views"),
    ("1, 2, 3", "axial, coronal, sagittal"),
    ("Ctrl and +, -, 0", "larger, smaller, usual text"),
)


def about_text() -> str:
    """What the about box says, as rich text."""
    libraries = f"MRML of Slicer {_slicer_version()}, VTK {vtk.vtkVersion.GetVTKVersion()}, Qt {qVersion()}"
    return (
        f"<h3>MedQuantSlicer {__version__}</h3>"
        "<p>Makes medical image segmentation models smaller and shows what that costs.</p>"
        f"<p><b>{NOT_CLINICAL}</b> The embedded models demonstrate and diagnose nothing.</p>"
        "<p>Your scans stay on this machine: nothing is sent anywhere. Only a model that you ask for is downloaded.</p>"
        f"<p>{libraries}, Python {platform.python_version()}. Apache License 2.0.</p>"
    )


def shortcuts_text() -> str:
    """The keys and the mouse, as a table of rich text."""
    rows = "".join(f"<tr><td><b>{keys}</b>&nbsp;&nbsp;&nbsp;</td><td>{what}</td></tr>" for keys, what in SHORTCUTS)
    return f"<h3>Keys and mouse</h3><table cellpadding='3'>{rows}</table>"


def show(parent: QWidget, title: str, text: str) -> QDialog:
    """Show a box with rich text; it does not stop the window."""
    box = QDialog(parent)
    box.setWindowTitle(title)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    column = QVBoxLayout(box)
    column.setContentsMargins(24, 16, 24, 16)
    label = QLabel(text)
    label.setWordWrap(True)
    label.setMinimumWidth(420)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    column.addWidget(label)
    buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
    buttons.rejected.connect(box.close)
    column.addWidget(buttons)
    box.show()
    return box


def _slicer_version() -> str:
    from importlib import metadata

    try:
        return metadata.version("slicer-core")
    except metadata.PackageNotFoundError:
        return str(getattr(slicer, "__version__", ""))

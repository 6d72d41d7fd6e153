"""The panel: sections that paint what the presenter shows, and what the user does handed on to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import vtk

from MedQuantSlicerLib import parameters as fields
from MedQuantSlicerLib import scene, style
from MedQuantSlicerLib.portable import local, portable
from MedQuantSlicerLib.presenter import Presenter
from MedQuantSlicerLib.section_compare import CompareSection
from MedQuantSlicerLib.section_export import ExportSection
from MedQuantSlicerLib.section_layers import LayersSection
from MedQuantSlicerLib.section_model import ModelSection
from MedQuantSlicerLib.section_path import SectionPath
from MedQuantSlicerLib.section_quantize import QuantizeSection
from MedQuantSlicerLib.section_scan import ScanSection
from MedQuantSlicerLib.section_segment import SegmentSection
from MedQuantSlicerLib.state import SECTIONS, Shown
from MedQuantSlicerLib.widgets import Messages, show_text

TICK_MS = 500


class Panel:
    """`ui` has the widgets of the `.ui` file, `root` is the widget around them."""

    def __init__(self, root: Any, ui: Any, engine: Any, host: Any, open_sample: Callable[[], None]) -> None:
        self._root, self._ui, self._host = root, ui, host
        self._parameters: Any = None
        self._observer: int | None = None
        self._chosen: dict[str, Any] = {}
        self._reading = False
        """While choices are told one after the other: what is shown meanwhile is not yet all of them."""
        self.presenter = Presenter(engine, host, self.show)
        host.boxes_changed = self.presenter.boxes_changed
        host.volume_changed = self.presenter.volume_chosen
        host.masks_changed = self.presenter.masks_changed
        host.is_busy = lambda: not self.presenter.facts.rests
        presenter = self.presenter
        self.sections = [
            ScanSection(ui, presenter, host, open_sample),
            ModelSection(ui, presenter),
            QuantizeSection(ui, presenter, lambda: self._parameters),
            SegmentSection(ui, presenter, host),
            CompareSection(ui, presenter),
            LayersSection(ui, presenter),
            ExportSection(ui, presenter),
        ]
        self.messages = {
            name: Messages(getattr(ui, f"{name}Messages"), presenter.open_log, presenter.dismiss) for name in SECTIONS
        }
        self._path = SectionPath(ui, lambda: self.show(self.presenter.shown))
        for button in root.findChildren(qt.QPushButton):
            # After a click the space bar flips the masks again; whoever goes by Tab presses with it.
            button.setFocusPolicy(qt.Qt.TabFocus)
        style.mark(ui.hintLabel, "hint")
        for quiet in (ui.machineLabel, ui.disclaimerLabel):
            style.mark(quiet, "small")
        style.apply(root)
        self._timer = qt.QTimer(root)
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self.presenter.tick)
        # The application may turn dark. Its widgets hear of it first.
        self._dress = qt.QTimer(root)
        self._dress.setSingleShot(True)
        self._dress.setInterval(0)
        self._dress.timeout.connect(self._apply_style)
        qt.QApplication.instance().paletteChanged.connect(self._palette_changed)
        self._shortcuts = {keys: self._shortcut(keys, does) for keys, does in self.keys().items()}

    # -- life

    def start(self) -> None:
        """Begin, without any choices yet."""
        self.presenter.start()
        self._timer.start()

    def use(self, parameters: Any) -> None:
        """Follow another parameter node; None: none, while a scene closes."""
        if self._observer is not None:
            self._parameters.RemoveObserver(self._observer)
            self._observer = None
        self._parameters, self._chosen = parameters, {}
        self._host.parameters = parameters
        if parameters is not None:
            self._observer = parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, self._parameters_changed)
            self._parameters_changed()
            self.presenter.choices_loaded()

    def close(self) -> None:
        """Stop everything."""
        self._timer.stop()
        self._dress.stop()
        qt.QApplication.instance().paletteChanged.disconnect(self._palette_changed)
        for shortcut in self._shortcuts.values():
            shortcut.setEnabled(False)
            shortcut.deleteLater()
        self._shortcuts = {}
        self.use(None)
        self.presenter.close()
        self._host.close()

    def _palette_changed(self, palette: Any = None) -> None:
        self._dress.start()

    def _apply_style(self) -> None:
        style.apply(self._root)

    # -- what the user chose

    def _parameters_changed(self, caller: Any = None, event: Any = None) -> None:
        """Tell the presenter of every choice that is another now."""
        chosen = {name: fields.option(self._parameters, name) for name in fields.OPTIONS}
        chosen |= {
            name: getattr(self._parameters, name)
            for name in ("inputVolume", "referenceSegmentation", "model", "bits", "safe", "opacity", "filled")
        }
        changed = {
            name: value for name, value in chosen.items() if name not in self._chosen or self._chosen[name] != value
        }
        self._chosen = chosen
        before, self._reading = self._reading, True
        try:
            self._tell(changed)
        finally:
            self._reading = before
        if not self._reading:
            self._write_back(self.presenter.shown)
        if "inputVolume" in changed and scene.is_of_another_scan(
            self._parameters.referenceSegmentation, chosen["inputVolume"]
        ):
            self._parameters.referenceSegmentation = None  # which comes back here

    def _tell(self, changed: dict[str, Any]) -> None:
        """Tell the presenter of these choices."""
        for name, value in changed.items():
            if name in fields.OPTIONS:
                self.presenter.set_option(name, value)
        if changed.get("model"):
            self.presenter.model_chosen(local(changed["model"]))
        if "bits" in changed:
            self.presenter.bits_chosen(changed["bits"])
        if "safe" in changed:
            self.presenter.safe_chosen(changed["safe"])
        if "inputVolume" in changed:
            self._host.watch_volume(changed["inputVolume"])
            self.presenter.volume_chosen(changed["inputVolume"])
        if "referenceSegmentation" in changed:
            reference = changed["referenceSegmentation"]
            self.presenter.reference_chosen(reference.GetName() if reference is not None else "")
        if changed.keys() & {"opacity", "filled"}:
            self._host.style()

    # -- what is shown

    def show(self, shown: Shown) -> None:
        """Paint."""
        for section in self.sections:
            section.show(shown)
        for name, messages in self.messages.items():
            messages.show(
                shown.waiting if shown.waiting is not None and shown.waiting.section == name else None,
                shown.problem if shown.problem is not None and shown.problem.section == name else None,
                shown.notice if shown.notice_section == name else "",
            )
        show_text(self._ui.hintLabel, shown.hint or (shown.waiting.text if shown.waiting is not None else ""))
        show_text(self._ui.machineLabel, shown.machine)
        self._path.follow(shown)
        if not self._reading:
            self._write_back(shown)

    def _write_back(self, shown: Shown) -> None:
        """What the presenter has chosen itself is the scene's choice, too."""
        model = portable(shown.model)
        if self._parameters is not None and model and model != self._parameters.model:
            self._chosen["model"] = model
            self._parameters.model = model
        if self._parameters is not None and shown.safe != self._parameters.safe:
            self._chosen["safe"] = shown.safe
            self._parameters.safe = shown.safe

    # -- keys

    def keys(self) -> dict[str, Callable[[], None]]:
        """Keyboard shortcuts: B places a box, S segments, D shows the difference, space flips the masks."""
        return {
            "B": lambda: self._press("place_box"),
            "S": lambda: self._press("segment"),
            "D": lambda: self._press("difference"),
            "Space": self._flip,
        }

    def _flip(self) -> None:
        """Swap the masks, unless the space bar is meant for what has the focus in the panel: a list, a button."""
        focused = qt.QApplication.focusWidget()
        if focused is not None and self._root.isAncestorOf(focused):
            shortcut = self._shortcuts["Space"]
            shortcut.setEnabled(False)  # it would take this key, too
            for kind in (qt.QEvent.KeyPress, qt.QEvent.KeyRelease):
                qt.QApplication.sendEvent(focused, qt.QKeyEvent(kind, qt.Qt.Key_Space, qt.Qt.NoModifier, " "))
            shortcut.setEnabled(True)
        else:
            self._host.flip()

    def _press(self, name: str) -> None:
        action = self.presenter.shown.actions.get(name)
        if action is not None and action.enabled:
            getattr(self.presenter, name)()

    def _shortcut(self, keys: str, function: Callable[[], None]) -> Any:
        shortcut = qt.QShortcut(qt.QKeySequence(keys), self._root.window())
        shortcut.setContext(qt.Qt.WindowShortcut)
        shortcut.activated.connect(lambda *_: function())
        shortcut.setEnabled(False)
        return shortcut

    def enable_keys(self, enabled: bool) -> None:
        """The keys work while the module is entered; elsewhere in Slicer they mean other things."""
        for shortcut in self._shortcuts.values():
            shortcut.setEnabled(enabled)

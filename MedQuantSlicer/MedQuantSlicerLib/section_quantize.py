"""The section "Quantize": three large choices, the button, and what came of it."""

from __future__ import annotations

from typing import Any

import qt

from MedQuantSlicerLib import style
from MedQuantSlicerLib.heatmap import unbroken, within
from MedQuantSlicerLib.layer_showing import block_of
from MedQuantSlicerLib.messages import COMPARE_DECIDES, NOT_MEASURED, SAFE_MISSING, _
from MedQuantSlicerLib.state import BITS, BitsChoice, Shown
from MedQuantSlicerLib.widgets import Fold, label, show_action, show_text

NAMED = 3
"""So many layers are told by name."""


class BitsButton:
    """One of the three: the number large, below it size, seconds and what the masks lose."""

    def __init__(self, button: Any, bits: int) -> None:
        self.button = button
        style.mark(button, "bits")
        self._figure, self._unit = label(str(bits), figure=True), label(_("bits"), quiet=True)
        self._size, self._accuracy, self._seconds = label(), label(quiet=True, word_wrap=True), label(quiet=True)
        self._size.setStyleSheet("font-weight: bold")
        head = qt.QHBoxLayout()
        head.setSpacing(4)
        head.addStretch(1)
        head.addWidget(self._figure)
        head.addWidget(self._unit)
        head.addStretch(1)
        rows = qt.QVBoxLayout(button)
        rows.setContentsMargins(2, 4, 2, 4)
        rows.setSpacing(0)
        rows.addStretch(1)
        rows.addLayout(head)
        for part in (self._size, self._seconds, self._accuracy):
            part.setAlignment(qt.Qt.AlignHCenter | qt.Qt.AlignVCenter)
            rows.addWidget(part)
        rows.addStretch(1)
        for part in (self._figure, self._unit, self._size, self._seconds, self._accuracy):
            part.setAttribute(qt.Qt.WA_TransparentForMouseEvents)
        button.setAccessibleName(_("{bits} bits").format(bits=bits))

    def show(self, choice: BitsChoice) -> None:
        """Paint."""
        self.button.setChecked(choice.chosen)
        self._size.text = choice.size or "\N{EN DASH}"
        show_text(self._seconds, choice.seconds)
        self._accuracy.text = choice.lost
        measured = _("Size of the file that was made.") if choice.measured else _("Size as computed before quantizing.")
        masks = _("Masks: {accuracy}, on this scan.").format(accuracy=choice.accuracy)
        if choice.accuracy == NOT_MEASURED:
            masks = _("Masks: not compared on this scan yet.")
            masks += " " + _("Seconds: what this machine took before.") if choice.seconds else ""
        self.button.toolTip = f"{measured} {masks}"


class QuantizeSection:
    """Bits, method, calibration, the button."""

    def __init__(self, ui: Any, presenter: Any, parameters: Any) -> None:
        self._ui = ui
        self._group = qt.QButtonGroup(ui.bits4Button.parent())
        self._group.setExclusive(True)
        self.bits = {bits: BitsButton(getattr(ui, f"bits{bits}Button"), bits) for bits in BITS}
        for bits, one in self.bits.items():
            self._group.addButton(one.button)
            one.button.clicked.connect(self._choose(parameters, bits))
        self._method = Fold(ui.methodFold, ui.methodBody)
        style.mark(ui.quantizedLabel, "quiet")
        style.mark(ui.safeLabel, "quiet")
        ui.safeButton.clicked.connect(lambda *_: presenter.find_safe())
        ui.quantizeButton.clicked.connect(lambda *_: presenter.quantize())

    @staticmethod
    def _choose(parameters: Any, bits: int) -> Any:
        def choose(*_: Any) -> None:
            parameters().bits = bits
            parameters().safe = False

        return choose

    def show(self, shown: Shown) -> None:
        """Paint."""
        ui = self._ui
        self._group.setExclusive(not shown.safe)  # else one of them would stay pressed
        for choice in shown.choices:
            self.bits[choice.bits].show(choice)
        show_action(ui.quantizeButton, shown.actions.get("quantize"))
        show_action(ui.safeButton, shown.actions.get("find_safe"))
        style.mark(ui.safeButton, "chosen", shown.safe and bool(shown.safe_found))
        show_text(ui.safeLabel, safe_of(shown))
        ui.safeLabel.toolTip = "\n".join(shown.safe_precise)
        # After a comparison its table and the chosen button say the same.
        untold = shown.table is None or shown.table_of
        show_text(ui.quantizedLabel, shown.quantized if untold and not shown.safe else "")
        ranged = shown.options.where == "range"
        ui.rangeWidget.setVisible(ranged)
        ui.rangeLabel.setVisible(ranged)


def safe_of(shown: Shown) -> str:
    """What the smallest safe model is, what decides about it, and the first of the layers that it keeps precise; where
    it is chosen but there is none, why."""
    if not shown.safe_found:
        return SAFE_MISSING if shown.safe else ""
    found = f"{shown.safe_found}\n{COMPARE_DECIDES}"
    if not shown.safe_precise:
        return found
    named = ", ".join(unbroken(within(name, block_of(name))) for name in shown.safe_precise[:NAMED])
    more = len(shown.safe_precise) - NAMED
    rest = _(" and {count} more").format(count=more) if more > 0 else ""
    return found + "\n" + _("Kept most precise: {names}{rest}").format(names=named, rest=rest)

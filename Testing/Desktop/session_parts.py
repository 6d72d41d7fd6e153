"""What tests of sessions share: a model as if the panel had quantized it, and the scans that are in the scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def have_quantized(window: Any, handle: Path) -> None:
    """As if the panel had quantized a model."""
    from MedQuantSlicerLib.results import Quantized

    handle.touch()
    presenter = window.frame.presenter
    presenter.facts.made[presenter.facts.settings] = Quantized(str(handle), 4, "2.5 MB")
    presenter._keeping.keep_choices()
    presenter.update()


def all_volumes() -> list:
    """The scans in the scene."""
    import slicer

    return slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")

"""The module's self test, which Slicer runs in the application, here with the stand-ins and the real engine."""

from __future__ import annotations

import panel_fakes as fakes
import pytest

pytestmark = pytest.mark.heavy


def test_the_self_test_passes(slicer, scene, tmp_path, monkeypatch):
    import qt
    from MedQuantSlicer import MedQuantSlicerLogic, MedQuantSlicerTest

    holder = qt.QWidget()
    qt.QVBoxLayout(holder)
    engine = MedQuantSlicerLogic().make_engine()
    widget = fakes.make_widget(engine, holder)
    monkeypatch.setattr(slicer.util, "getModuleWidget", lambda name: widget)
    try:
        MedQuantSlicerTest().runTest()
    finally:
        widget.cleanup()

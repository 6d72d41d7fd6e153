"""The module's self test, which Slicer runs in the application, here with the stand-ins and the real engine."""

from __future__ import annotations

import panel_fakes as fakes
import pytest


@pytest.fixture
def widget(slicer, scene, monkeypatch):
    import qt
    from MedQuantSlicer import MedQuantSlicerLogic

    holder = qt.QWidget()
    qt.QVBoxLayout(holder)
    made = fakes.make_widget(MedQuantSlicerLogic().make_engine(), holder)
    monkeypatch.setattr(slicer.util, "getModuleWidget", lambda name: made)
    yield made
    made.cleanup()


def test_the_self_test_passes(widget, capsys):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from MedQuantSlicer import MedQuantSlicerTest

    MedQuantSlicerTest().runTest()
    assert "Test passed" in capsys.readouterr().out


def test_without_its_packages_it_is_skipped_and_says_why(widget, capsys):
    import unittest

    from MedQuantSlicer import MedQuantSlicerTest
    from MedQuantSlicerLib.host import Missing

    widget.host.lacks = Missing("MedQuant needs PyTorch.")
    MedQuantSlicerTest().runTest()
    assert "Skipped: MedQuant needs PyTorch." in capsys.readouterr().out
    with pytest.raises(unittest.SkipTest):
        MedQuantSlicerTest().test_from_scan_to_comparison()
    assert widget.host.calls == [], "nothing was asked and nothing was begun"

"""The panel and the helpers of these tests on the path; Slicer's stand-ins where slicer-core and PySide6 are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "MedQuantSlicer"
for folder in (MODULE, Path(__file__).resolve().parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(scope="session")
def slicer():
    """The package `slicer` with its stand-ins and a Qt application without a screen."""
    pytest.importorskip("slicer_core", reason="slicer-core is not installed (pip install medquant[app])")
    pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from medquant_desktop.slicer_compat import bootstrap

    bootstrap.start()
    import qt
    import slicer

    application = qt.QApplication.instance() or qt.QApplication([])
    application.setApplicationName("MedQuant tests")
    from medquant_desktop import mrml_application

    mrml_application.start()
    yield slicer
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def scene(slicer):
    """An empty scene."""
    slicer.mrmlScene.Clear(0)
    yield slicer.mrmlScene
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def engine(tmp_path):
    """An engine that is answered by hand."""
    import panel_fakes as fakes

    return fakes.FakeEngine(tmp_path)


@pytest.fixture
def widget(slicer, scene, engine):
    """The panel without views, with that engine."""
    import panel_fakes as fakes
    import qt

    holder = qt.QWidget()
    qt.QVBoxLayout(holder)
    made = fakes.make_widget(engine, holder)
    yield made
    made.cleanup()
    holder.close()
    qt.QApplication.processEvents()


@pytest.fixture
def panel():
    """A presenter with a scan, between an engine that is answered by hand and an application that takes notes."""
    from presenter_fakes import Panel

    return Panel().open_scan()


@pytest.fixture
def manager(slicer, scene, monkeypatch):
    """Slicer's layout manager, with views that draw nothing."""
    from layout_fakes import FakeLayoutManager

    made = FakeLayoutManager(slicer)
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: made, raising=False)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: None)
    yield made
    made.layoutLogic().GetLayoutNode().SetSaveWithScene(True)


@pytest.fixture
def host(slicer, scene, manager, tmp_path):
    """The host of the panel in Slicer, with that layout manager."""
    from MedQuantSlicerLib.parameters import MedQuantSlicerParameterNode
    from MedQuantSlicerLib.slicer_host import SlicerHost

    parameters = MedQuantSlicerParameterNode(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    made = SlicerHost(parameters, str(tmp_path / "requirements.txt"))
    yield made
    made.close()

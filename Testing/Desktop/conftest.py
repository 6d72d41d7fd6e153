"""The window without a screen, on a scene of its own, and hands to use it with."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from medquant.bench.window_hands import Hands

CHECKOUT = Path(__file__).resolve().parents[2]
for folder in (CHECKOUT / "MedQuantSlicer", CHECKOUT / "python_lib", Path(__file__).resolve().parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(scope="session")
def application():
    """The Qt application, with the scene and its logics."""
    pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")
    pytest.importorskip("slicer_core", reason="slicer-core is not installed (pip install medquant[app])")
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from medquant_desktop import app

    app.prepare_graphics()
    from PySide6.QtWidgets import QApplication

    made = QApplication.instance() or QApplication([])
    from medquant_desktop import mrml_application

    mrml_application.start()
    from medquant_desktop import theme

    theme.apply(made, theme.DARK)
    return made


@pytest.fixture(scope="session")
def hands(application) -> Hands:
    """Mouse and keys."""
    from medquant.bench.window_hands import Hands

    return Hands(application)


@pytest.fixture
def settings(tmp_path: Path):
    """Settings that nobody else has."""
    from PySide6.QtCore import QSettings

    return QSettings(str(tmp_path / "settings.ini"), QSettings.Format.IniFormat)


class IdleEngine:
    """An engine that is never ready: the views need none, and the real one would take both cores for seconds."""

    def __init__(self) -> None:
        self.restarted = lambda: None

    def request(self, method: str, params: object = None, **callbacks: object) -> SimpleNamespace:
        """As of `EngineProcess`; nothing is ever answered."""
        return SimpleNamespace(cancel=lambda: None)

    def path(self, name: str) -> str:
        """A file of the exchange."""
        return name

    def discard(self, name: str) -> None:
        """There is none."""

    def tick(self) -> None:
        """Nothing hangs."""

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture(scope="session")
def idle(application) -> type:
    """The module's logic without an engine behind it, to be put in the place of the real one."""
    from medquant_desktop.slicer_compat import bootstrap

    bootstrap.add_module_path()
    import MedQuantSlicer

    class IdleLogic(MedQuantSlicer.MedQuantSlicerLogic):
        def make_engine(self) -> IdleEngine:
            return IdleEngine()

    IdleLogic.__name__ = "MedQuantSlicerLogic"  # by which the scene knows the choices
    return IdleLogic


@pytest.fixture(scope="session")
def reader(application) -> Iterator[object]:
    """The process that reads, started once for all windows: its imports take a second."""
    from medquant_desktop.opening import ScanReader

    class KeptReader(ScanReader):
        def close(self) -> None:
            self._done = None

    made = KeptReader()
    made.start()
    yield made
    ScanReader.close(made)


@pytest.fixture
def engine(idle, monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine behind the panel."""
    import MedQuantSlicer

    monkeypatch.setattr(MedQuantSlicer, "MedQuantSlicerLogic", idle)


@pytest.fixture
def window(engine, hands: Hands, settings, reader) -> Iterator[object]:
    """The window on an empty scene, without an engine."""
    yield from shown_window(hands, settings, reader)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine's cache for all tests: what one has quantized and timed the next need not."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def whole_window(
    application, hands: Hands, settings, reader, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[object]:
    """The window on an empty scene, with the real engine."""
    monkeypatch.setenv("MEDQUANT_CACHE", str(cache))
    # On a busy machine two threads of the engine's would mostly wait for each other.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield from shown_window(hands, settings, reader)


def shown_window(hands: Hands, settings: object, reader: object) -> Iterator[object]:
    """Show a window, and take it and its scene away."""
    import slicer
    from PySide6.QtCore import QCoreApplication, QEvent

    from medquant_desktop import mrml_application
    from medquant_desktop.window import Window

    slicer.mrmlScene.Clear(False)
    made = Window(mrml_application.start(), settings)
    made.documents.may_lose = lambda: True
    made.documents.close()
    made.documents.reader = reader
    made.show()
    hands.wait()
    yield made
    made.close()
    made.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    hands.wait(0.02)
    slicer.mrmlScene.Clear(False)


def blob(shape: tuple[int, int, int] = (12, 60, 80)) -> np.ndarray:
    """A soft body in air with one bright spot near its first voxels along every axis."""
    _, j, i = np.ogrid[: shape[0], : shape[1], : shape[2]]
    body = ((j - shape[1] / 2) / (0.4 * shape[1])) ** 2 + ((i - shape[2] / 2) / (0.4 * shape[2])) ** 2 < 1
    array = np.where(np.broadcast_to(body, shape), 40, -1000).astype(np.int16)
    array[:2, 20:26, 18:26] = 1000
    return array


@pytest.fixture
def scan_file(tmp_path: Path) -> Path:
    """A small CT in LPS, 2 x 2 x 5 mm."""
    return write_scan(tmp_path)


@pytest.fixture(scope="module")
def kept_window(idle, hands: Hands, reader, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """One window with the small CT for all tests of a file."""
    import MedQuantSlicer
    from PySide6.QtCore import QSettings

    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MedQuantSlicer, "MedQuantSlicerLogic", idle)
        stored = QSettings(str(folder / "settings.ini"), QSettings.Format.IniFormat)
        windows = shown_window(hands, stored, reader)
        made = next(windows)
    made.documents.open_path(write_scan(folder))
    hands.until(lambda: made.views.volume is not None)
    yield made
    next(windows, None)


@pytest.fixture
def tidy(kept_window, hands: Hands):
    """The kept window as if the small CT had just been opened."""
    import slicer

    window = kept_window
    for kind in ("vtkMRMLSegmentationNode", "vtkMRMLMarkupsROINode"):
        for node in slicer.util.getNodesByClass(kind):
            slicer.mrmlScene.RemoveNode(node)
    window.resize(1280, 800)
    window.bar.linked.setChecked(True)
    window.views.show_single()
    for tag in ("MedQuantDifference", "MedQuant3D"):
        window.views.show_optional(tag, False)
    window.views.set_orientation("Axial")
    window.views.volume.GetDisplayNode().SetWindowLevel(400, 40)
    window.notice.clear()
    window.activateWindow()
    window.views.left.setFocus()
    hands.wait(0.05)
    return window


def write_scan(folder: Path) -> Path:
    """Write the small CT."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(blob())
    image.SetSpacing((2.0, 2.0, 5.0))
    image.SetOrigin((-80.0, -60.0, 100.0))
    path = folder / "small ct.nrrd"
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def opened(window, hands: Hands, scan_file: Path):
    """The window with the small CT."""
    window.documents.open_path(scan_file)
    hands.until(lambda: window.views.volume is not None)
    hands.wait()
    return window

"""MedQuant in 3D Slicer: quantize a segmentation model with the open scan and see what that costs.

The four classes that Slicer looks for; what they do is in `MedQuantSlicerLib`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import unittest
from pathlib import Path
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

# In a checkout the engine lies beside the module; installed, it is importable anyway.
_ENGINE = Path(__file__).resolve().parents[1] / "python_lib"
if (_ENGINE / "medquant").is_dir() and str(_ENGINE) not in sys.path:
    sys.path.append(str(_ENGINE))

from MedQuantSlicerLib.parameters import MedQuantSlicerParameterNode  # noqa: E402

SAMPLE = "MedQuantCTLiver"
_SAMPLE_SHA256 = "e16eae0ae6fefa858c5c11e58f0f1bb81834d81b7102e021571056324ef6f37e"


class MedQuantSlicer(ScriptedLoadableModule):
    """Title, help and sample data."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("MedQuant")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["The MedQuantSlicer developers"]
        parent.helpText = _(
            "Makes segmentation models (MedSAM, nnU-Net, MONAI) smaller by post-training quantization to 8, 4 or 2 "
            "bits with slices of the open scan, segments with the original and the quantized model, and compares the "
            "masks side by side. Not for clinical use."
        )
        parent.acknowledgementText = _(
            "Methods: Permutation-COMQ (Chen et al., arXiv 2604.07674), GPTQ (Frantar et al., ICLR 2023). "
            "Models: MedSAM (Ma et al., Nature Communications 2024), nnU-Net (Isensee et al., Nature Methods 2021), "
            "SAM (Kirillov et al., ICCV 2023). "
            "The sample CT is case liver_100 of the Medical Segmentation Decathlon (CC BY-SA 4.0)."
        )
        if hasattr(slicer.app, "connect"):
            slicer.app.connect("startupCompleted()", register_sample_data)
            slicer.app.connect("startupCompleted()", register_layouts)


def register_sample_data() -> None:
    """Offer the sample CT in the module Sample Data; nothing is downloaded before it is asked for."""
    import SampleData

    icon = Path(__file__).with_name("Resources") / "Icons" / "MedQuantSlicer.png"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="MedQuant",
        sampleName=SAMPLE,
        thumbnailFileName=str(icon),
        uris=f"https://github.com/Slicer/SlicerTestingData/releases/download/SHA256/{_SAMPLE_SHA256}",
        fileNames="CTLiver.nrrd",
        checksums=f"SHA256:{_SAMPLE_SHA256}",
        nodeNames="CTLiver",
    )


def register_layouts() -> None:
    """Offer the views side by side in Slicer's layout menu; scenes that remember them open with them."""
    from MedQuantSlicerLib import slicer_layouts

    manager = slicer.app.layoutManager()
    if manager is not None:
        slicer_layouts.register(manager)


class MedQuantSlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Builds the panel and follows the scene. A window of our own replaces `make_host` and `open_sample`."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: MedQuantSlicerLogic | None = None
        self.parameters: MedQuantSlicerParameterNode | None = None
        self.panel: Any = None
        self._entered = False

    def setup(self) -> None:
        """Called when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        from MedQuantSlicerLib.panel import Panel

        self.root = slicer.util.loadUI(self.resourcePath("UI/MedQuantSlicer.ui"))
        self.layout.addWidget(self.root)
        self.root.setMRMLScene(slicer.mrmlScene)
        self.ui = slicer.util.childWidgetVariables(self.root)
        self.logic = self.make_logic()
        # The scene gets a node of this module's choices when the module is entered, not before.
        self.host = self.make_host(None)
        self.panel = Panel(self.root, self.ui, self.logic.make_engine(), self.host, self.open_sample)
        self.panel.start()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)

    def make_logic(self) -> MedQuantSlicerLogic:
        """Keeps the choices and starts the engine."""
        return MedQuantSlicerLogic()

    def make_host(self, parameters: MedQuantSlicerParameterNode | None) -> Any:
        """The application around the panel; the panel tells it of other choices."""
        from MedQuantSlicerLib.slicer_host import SlicerHost

        return SlicerHost(parameters, self.resourcePath("requirements.txt"))

    def open_sample(self) -> None:
        """Bring the sample CT into the scene."""
        import SampleData

        self.parameters.inputVolume = SampleData.SampleDataLogic().downloadSample(SAMPLE)

    def enter(self) -> None:
        """Called each time the module is opened."""
        self._entered = True
        self._use(self.logic.getParameterNode())
        self.panel.enable_keys(True)
        shown = self.panel.presenter.shown
        if shown.left_title or shown.right_title or self.host.has_masks():
            self.host.show_pair()

    def exit(self) -> None:
        """Called each time another module is opened: the user's layout comes back, and all views draw the masks."""
        self._entered = False
        self.panel.enable_keys(False)
        self.host.restore_layout()

    def cleanup(self) -> None:
        """Called before the module is unloaded."""
        self.removeObservers()
        if self.panel is not None:
            self._use(None)
            self.panel.close()
            self.panel = None

    def onSceneStartClose(self, caller: Any, event: Any) -> None:
        """The parameter node is about to go."""
        self._use(None)

    def onSceneEndClose(self, caller: Any, event: Any) -> None:
        """The scene is empty."""
        if self._entered:
            self._use(self.logic.getParameterNode())
        self.panel.presenter.scene_closed()

    def onSceneEndImport(self, caller: Any, event: Any) -> None:
        """A scene was loaded, perhaps with choices of its own."""
        if self._entered or self.parameters is not None:
            self._use(None)
            self._use(self.logic.getParameterNode())

    def _use(self, parameters: MedQuantSlicerParameterNode | None) -> None:
        if _node_of(parameters) is _node_of(self.parameters):
            return
        if self.parameters is not None:
            self.parameters.disconnectGui(self._gui_tag)
        self.parameters = parameters
        if parameters is not None:
            self._gui_tag = parameters.connectGui(self.ui)
        self.panel.use(parameters)


def _node_of(parameters: MedQuantSlicerParameterNode | None) -> Any:
    return None if parameters is None else parameters.parameterNode


class MedQuantSlicerLogic(ScriptedLoadableModuleLogic):
    """The choices of the scene, and the engine's process."""

    def getParameterNode(self) -> MedQuantSlicerParameterNode:
        """The choices, in the scene's one parameter node, read anew: a wrapper misses nodes that an import brings."""
        return MedQuantSlicerParameterNode(super().getParameterNode())

    def make_engine(self) -> Any:
        """The engine's process; it starts when a button needs it."""
        from MedQuantSlicerLib.engine_process import EngineProcess
        from MedQuantSlicerLib.qprocess_transport import QProcessTransport

        return EngineProcess(QProcessTransport, *engine_command())


def engine_command() -> tuple[list[str], dict[str, str]]:
    """How the engine is started: by Slicer's own Python without its window, and with what in its environment."""
    python = shutil.which("PythonSlicer") or sys.executable
    engine = importlib.util.find_spec("medquant")
    paths = [str(Path(engine.origin).parents[1])] if engine is not None and engine.origin else []
    paths += [path for path in (os.environ.get("PYTHONPATH"),) if path]
    return [python, "-m", "medquant", "worker"], {"PYTHONPATH": os.pathsep.join(paths)}


class MedQuantSlicerTest(ScriptedLoadableModuleTest):
    """Runs inside the application: a scan, a box, the embedded model at 4 bits, both masks, the comparison."""

    def setUp(self) -> None:
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self, **_kwargs: Any) -> None:
        """Slicer calls this."""
        self.setUp()
        try:
            self.test_from_scan_to_comparison()
        except unittest.SkipTest as reason:
            # Not a failure, also where no test runner catches it.
            self.delayDisplay(_("Skipped: {reason}").format(reason=reason))

    def test_from_scan_to_comparison(self) -> None:
        """The whole way, by the panel's own buttons."""
        from MedQuantSlicerLib import boxes, masks
        from MedQuantSlicerLib.parameters import Activations, Method, Runtime
        from MedQuantSlicerLib.state import RESTING

        self.delayDisplay(_("From a scan to a comparison"))
        widget = slicer.util.getModuleWidget("MedQuantSlicer")
        missing = widget.host.missing()
        if missing is not None:
            self.skipTest(missing.text)
        widget.enter()
        volume = self._small_scan()
        before = slicer.util.arrayFromVolume(volume).copy()
        widget.parameters.inputVolume = volume
        widget.parameters.model = "embedded"
        widget.parameters.bits = 4
        # The quickest way through: what other choices do is tested where no application is needed.
        widget.parameters.method = Method.RTN
        widget.parameters.activations = Activations.FLOAT
        widget.parameters.runtime = Runtime.PYTORCH
        widget.parameters.slices = 1
        presenter = widget.panel.presenter
        self._wait(lambda: presenter.shown.actions["quantize"].enabled)
        widget.ui.quantizeButton.click()
        self._wait(lambda: presenter.shown.state in RESTING, 600)
        self.assertIsNone(presenter.shown.problem)
        box = boxes.new_box(volume, "liver")
        boxes.fit_box(box, volume, (20, 20, 3), (44, 44, 4))
        presenter.boxes_changed()
        widget.ui.segmentButton.click()
        self._wait(lambda: presenter.shown.table is not None, 600)
        for kind in (masks.FP32, masks.QUANTIZED):
            node = masks.segmentation_of(kind, volume)
            self.assertIsNotNone(node)
            self.assertTrue(masks.labels_on(node, volume)[0].any())
        self.assertTrue((slicer.util.arrayFromVolume(volume) == before).all())
        self.delayDisplay(_("Test passed"))

    @staticmethod
    def _small_scan() -> Any:
        """A bright ball in air, 64 x 64 x 8 voxels."""
        import numpy as np

        k, j, i = np.ogrid[:8, :64, :64]
        ball = (i - 32) ** 2 + (j - 32) ** 2 + (6 * (k - 4)) ** 2 < 12**2
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Ball")
        slicer.util.updateVolumeFromArray(volume, np.where(ball, 120, -1000).astype(np.int16))
        volume.SetSpacing(1.0, 1.0, 5.0)
        volume.CreateDefaultDisplayNodes()
        return volume

    def _wait(self, ready: Any, seconds: float = 120) -> None:
        """Let the application run until it is so."""
        clock = vtk.vtkTimerLog()
        began = clock.GetUniversalTime()
        while not ready():
            slicer.app.processEvents()
            qt.QThread.msleep(20)
            self.assertLess(clock.GetUniversalTime() - began, seconds)

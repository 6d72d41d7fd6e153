"""The choices that belong to a scene and are saved with it."""

from __future__ import annotations

import enum
from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from MedQuantSlicerLib.messages import _


class Words(enum.Enum):
    """A choice in a combo box: its value is the engine's word, its label the user's."""

    def label(self) -> str:
        """What the combo box says."""
        return _LABELS[self]


class Method(Words):
    """How codes are found."""

    PERMUTATION_COMQ = "permutation-comq"
    COMQ = "comq"
    GPTQ = "gptq"
    RTN = "rtn"


class Granularity(Words):
    """What shares a scale."""

    PER_CHANNEL = "per-channel"
    PER_GROUP = "per-group-64"
    PER_TENSOR = "per-tensor"


class Activations(Words):
    """Bits of what flows between the layers."""

    FLOAT = 0
    EIGHT = 8
    FOUR = 4


class Where(Words):
    """Which slices calibrate."""

    BODY = "body"
    EVEN = "even"
    RANGE = "range"


class Run(Words):
    """What Segment runs."""

    BOTH = "both"
    FP32 = "fp32"
    QUANTIZED = "quantized"


class Extent(Words):
    """Which slices of a box are segmented."""

    BOX = "box"
    SLICE = "slice"


class Plane(Words):
    """Along which slices the model walks."""

    NATIVE = ""
    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


class Runtime(Words):
    """What computes."""

    AUTO = "auto"
    PYTORCH = "pytorch"
    OPENVINO = "openvino"
    ONNXRUNTIME = "onnxruntime"


class View(Words):
    """How layers are looked at."""

    PROXY = "proxy"
    ONE = "one-at-a-time"
    INCREMENTAL = "incremental"


class What(Words):
    """What of a layer is rounded."""

    WEIGHTS = "weights"
    ACTIVATIONS = "activations"
    BOTH = "both"


class Tolerance(Words):
    """What masks of the smallest safe model keep."""

    DICE_99 = "dice-99"
    DICE_98 = "dice-98"
    DICE_95 = "dice-95"
    VOLUME_1 = "volume-1"


_LABELS = {
    Method.PERMUTATION_COMQ: _("Permutation-COMQ (best)"),
    Method.COMQ: _("COMQ"),
    Method.GPTQ: _("GPTQ"),
    Method.RTN: _("Round to nearest (fastest)"),
    Granularity.PER_CHANNEL: _("One for each channel"),
    Granularity.PER_GROUP: _("One for each 64 weights"),
    Granularity.PER_TENSOR: _("One for each layer"),
    Activations.FLOAT: _("Floating point (smaller, not faster)"),
    Activations.EIGHT: _("8 bits (smaller and faster)"),
    Activations.FOUR: _("4 bits (simulated, to study)"),
    Where.BODY: _("Chosen from the body"),
    Where.EVEN: _("Evenly spaced"),
    Where.RANGE: _("From a range"),
    Run.BOTH: _("FP32 and quantized"),
    Run.FP32: _("FP32 only"),
    Run.QUANTIZED: _("Quantized only"),
    Extent.BOX: _("All slices of the box"),
    Extent.SLICE: _("One slice, its middle"),
    Plane.NATIVE: _("As scanned"),
    Plane.AXIAL: _("Axial"),
    Plane.CORONAL: _("Coronal"),
    Plane.SAGITTAL: _("Sagittal"),
    Runtime.AUTO: _("Fastest here"),
    Runtime.PYTORCH: _("PyTorch"),
    Runtime.OPENVINO: _("OpenVINO"),
    Runtime.ONNXRUNTIME: _("ONNX Runtime"),
    View.PROXY: _("Quick estimate"),
    View.ONE: _("One rounded at a time"),
    View.INCREMENTAL: _("One spared at a time"),
    What.WEIGHTS: _("Weights"),
    What.ACTIVATIONS: _("Activations"),
    What.BOTH: _("Weights and activations"),
    Tolerance.DICE_99: _("Mean Dice at least .99"),
    Tolerance.DICE_98: _("Mean Dice at least .98"),
    Tolerance.DICE_95: _("Mean Dice at least .95"),
    Tolerance.VOLUME_1: _("Volumes within 1 %"),
}
OPTIONS = (
    "method",
    "granularity",
    "activations",
    "slices",
    "where",
    "first",
    "last",
    "run",
    "extent",
    "plane",
    "runtime",
    "view",
    "what",
    "tolerance",
)
"""Fields that are options of the presenter, by the same name."""


@parameterNodeWrapper
class MedQuantSlicerParameterNode:
    """What is chosen in the panel."""

    inputVolume: vtkMRMLScalarVolumeNode
    referenceSegmentation: vtkMRMLSegmentationNode
    model: str
    bits: Annotated[int, WithinRange(2, 8)] = 4
    method: Method = Method.PERMUTATION_COMQ
    granularity: Granularity = Granularity.PER_CHANNEL
    activations: Activations = Activations.EIGHT
    slices: Annotated[int, WithinRange(1, 64)] = 8
    where: Where = Where.BODY
    first: Annotated[int, WithinRange(0, 9999)] = 0
    last: Annotated[int, WithinRange(0, 9999)] = 0
    run: Run = Run.BOTH
    extent: Extent = Extent.BOX
    plane: Plane = Plane.NATIVE
    runtime: Runtime = Runtime.AUTO
    view: View = View.PROXY
    what: What = What.WEIGHTS
    tolerance: Tolerance = Tolerance.DICE_99
    safe: bool = False
    """Whether the smallest safe model is chosen, not one of so many bits everywhere."""
    opacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.9
    filled: bool = False
    kept: str = ""
    """What is kept with the scene beside the choices, as JSON: quantized models, sensitivity and wishes of layers."""


def option(parameters: MedQuantSlicerParameterNode, name: str) -> object:
    """The value of a field in the engine's words."""
    value = getattr(parameters, name)
    return value.value if isinstance(value, enum.Enum) else value

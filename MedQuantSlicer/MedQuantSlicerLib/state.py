"""All that the panel displays, as plain data: the panel paints what it is given and decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from MedQuantSlicerLib.layer_state import Heatmap, LayerLine


class State(Enum):
    """What goes on. One at a time."""

    NO_VOLUME = "no volume"
    IDLE = "idle"
    INSTALLING = "installing"
    DOWNLOADING = "downloading"
    QUANTIZING = "quantizing"
    SEGMENTING = "segmenting"
    COMPARING = "comparing"
    MEASURING = "measuring"
    """The sensitivity of the layers."""
    SEARCHING = "searching"
    """The smallest safe model."""
    EXPORTING = "exporting"
    FAILED = "failed"
    """As idle, with `Shown.problem` to read."""


RESTING = frozenset({State.NO_VOLUME, State.IDLE, State.FAILED})
"""States in which nothing runs."""
SECTIONS = ("scan", "model", "quantize", "segment", "compare", "layers", "export")
"""The panel's sections in order; problems and waiting stand in one of them."""
BITS = (8, 4, 2)


@dataclass(frozen=True)
class Action:
    """One button: a verb of the presenter, by its name."""

    enabled: bool
    tooltip: str
    """What it does, or what is missing before it can."""
    text: str = ""
    """What it says; a button whose work is running says Cancel, and pressing it cancels."""
    primary: bool = False
    """Whether it is the next step: the one filled button."""


@dataclass(frozen=True)
class Waiting:
    """Work that is running."""

    section: str
    text: str
    """What happens, in words: "Quantizing layer 17 of 48"."""
    fraction: float | None = None
    """Done part, 0 to 1; None: not known, the bar moves without a measure."""
    time_left: str = ""
    """"0:42 left"; empty before there is an estimate. It counts down with `tick`."""
    cancelling: bool = False


@dataclass(frozen=True)
class Problem:
    """What went wrong, shown where the action was."""

    section: str
    text: str
    """One sentence on what is wrong and one on what to do."""
    kind: str = "user"
    """"user", "memory", "engine" (it ended or hung; the next action starts it again) or "internal"."""
    log: str = ""
    """A file with the details; empty: none."""


@dataclass(frozen=True)
class ModelLine:
    """One model of the list."""

    spec: str
    """What names it: shown nowhere."""
    title: str
    task: str
    needs_box: bool
    modality: str = ""
    size: str = ""
    """"375 MB"; empty: it depends on the weights."""
    seconds: str = ""
    """"7.7 s a slice", measured on this machine; empty: not measured."""
    licence: str = ""
    present: bool = True
    """Whether the weights are on this machine."""
    needs: str = ""
    """What the user has to give or fetch; empty: nothing."""
    can_download: bool = False
    is_demo: bool = False
    is_quantized: bool = False
    """A file of an already quantized model."""
    bits: int = 32
    """Of its weights."""

    def text(self) -> str:
        """All of it in one line, to be searched."""
        return " ".join((self.title, self.task, self.modality, self.spec, self.licence))


@dataclass(frozen=True)
class BitsChoice:
    """One of the large buttons."""

    bits: int
    chosen: bool
    size: str
    """"52 MB"."""
    seconds: str
    """"1.0 s a slice", as an expectation where the chosen scan was not compared, or "" where it was not measured."""
    accuracy: str
    """On the chosen scan: "masks as FP32", "small loss", "visible loss: look" or "not measured"."""
    measured: bool = False
    """Whether the size is that of a file that was made, not computed beforehand."""

    @property
    def lost(self) -> str:
        """`accuracy` without what to do about it, which takes a line too many: "visible loss"."""
        return self.accuracy.partition(":")[0]


@dataclass(frozen=True)
class Options:
    """Choices that are folded away, with the engine's own words. Set by `Presenter.set_option`."""

    method: str = "permutation-comq"
    granularity: str = "per-channel"
    activations: int = 8
    """Bits of what flows between the layers: 8 runs on integer kernels, which is faster; 0: floating point."""
    slices: int = 8
    where: str = "body"
    """"body", "even" or "range" (then `first` to `last`)."""
    first: int = 0
    last: int = 0
    run: str = "both"
    """What Segment runs: "both", "fp32" or "quantized"."""
    extent: str = "box"
    """"box": every slice of the box; "slice": the one that is shown, through the middle of the box."""
    plane: str = ""
    """"axial", "coronal", "sagittal" or "" for the scan's own."""
    runtime: str = "auto"
    view: str = "proxy"
    """How layers are looked at: "proxy" (a quick estimate), "one-at-a-time", or "incremental" (one is spared)."""
    what: str = "weights"
    """What of a layer is rounded then."""
    tolerance: str = "dice-99"
    """What masks of the smallest safe model keep: a key of `TOLERANCES`."""


TOLERANCES = MappingProxyType(
    {
        "dice-99": {"dsc": 0.99},
        "dice-98": {"dsc": 0.98},
        "dice-95": {"dsc": 0.95},
        "volume-1": {"dsc": 0.95, "volume_change": 0.01},
    }
)
"""In the engine's words. Volumes alone would let a mask wander."""
OPTION_VALUES = MappingProxyType(
    {
        "method": ("permutation-comq", "comq", "gptq", "rtn"),
        "granularity": ("per-channel", "per-tensor", "per-group-64"),
        "activations": (0, 8, 4),
        "where": ("body", "even", "range"),
        "run": ("both", "fp32", "quantized"),
        "extent": ("box", "slice"),
        "plane": ("", "axial", "coronal", "sagittal"),
        "runtime": ("auto", "pytorch", "openvino", "onnxruntime"),
        "view": ("proxy", "one-at-a-time", "incremental"),
        "what": ("weights", "activations", "both"),
        "tolerance": tuple(TOLERANCES),
    }
)


@dataclass(frozen=True)
class Cell:
    """One cell of the table."""

    text: str
    strong: bool = False
    """Better than the others in its column."""
    tooltip: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table: a structure, or all of them."""

    title: str
    cells: tuple[Cell, ...]
    """One for each of `Table.columns`."""
    of_all: bool = False
    """A model's own line: means over the structures, seconds, memory, size."""
    badges: tuple[str, ...] = ()
    """"int8 kernels" or "simulated", and the device: "CPU"."""


@dataclass(frozen=True)
class Table:
    """The comparison."""

    columns: tuple[str, ...]
    tooltips: tuple[str, ...]
    """One for each column."""
    rows: tuple[Row, ...]
    headline: str
    """"Dice .994, masks as FP32"."""
    notes: tuple[str, ...] = ()
    """What must be read with it: that quantized is slower here, that a model is a demonstration."""
    csv: str = ""
    """The table as text, to be copied."""


@dataclass(frozen=True)
class ExportChoice:
    """A format, and what would be written."""

    format: str
    """As `Presenter.export` takes it."""
    title: str
    writes: str


@dataclass(frozen=True)
class Shown:
    """What the panel shows now."""

    state: State = State.NO_VOLUME
    scan: str = ""
    """Modality, voxels and their size, in one line."""
    scan_name: str = ""
    hint: str = ""
    """What to do next, one sentence, for the head of the panel."""
    models: tuple[ModelLine, ...] = ()
    model: str = ""
    """`spec` of the chosen one."""
    bits: int = 4
    safe: bool = False
    """Whether the smallest safe model is chosen, not one of so many bits everywhere."""
    safe_found: str = ""
    """What the smallest safe model of the present tolerance has reached; empty: not looked for, or there is none."""
    safe_precise: tuple[str, ...] = ()
    """Its layers with the most bits, where others have fewer."""
    choices: tuple[BitsChoice, ...] = ()
    options: Options = field(default_factory=Options)
    waiting: Waiting | None = None
    problem: Problem | None = None
    notice: str = ""
    """Good news of the last action ("Saved to ..."), until the next one; stands in `notice_section`."""
    notice_section: str = ""
    quantized: str = ""
    """What the quantized model is: "4-bit: 2.5 MB, calibrated on 8 pieces of this scan"; empty: there is none."""
    quantized_fits: bool = False
    """Whether it is the one of the scan, model, bits and options that are chosen now."""
    boxes: str = ""
    """"2 boxes: liver, spleen"."""
    needs_box: bool = True
    left_title: str = ""
    """Of the FP32 view: "FP32  375 MB  7.7 s"; empty before there are masks."""
    right_title: str = ""
    table: Table | None = None
    table_of: str = ""
    """Title of the model that the table is of, where another one is chosen now."""
    difference_shown: bool = False
    worst: str = ""
    """"Slice 14 differs most: 132 voxels"; empty: unknown or none differs."""
    heatmap: Heatmap | None = None
    layer: LayerLine | None = None
    overrides: tuple[tuple[str, int], ...] = ()
    """Layers kept precise by the user's wish, with their bits (32: floating point)."""
    exports: tuple[ExportChoice, ...] = ()
    exported: str = ""
    """The folder that was written last."""
    machine: str = ""
    """"2 cores, 23 GB; OpenVINO int8 kernels"; empty before the engine has started."""
    cache: str = ""
    """"Compiled models 12 MB, downloads 375 MB"."""
    cache_folder: str = ""
    actions: MappingProxyType | dict = field(default_factory=dict)
    """`Action` by the name of the presenter's verb."""

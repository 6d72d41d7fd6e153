"""Which runtime, and in which precision: measured on this machine, shortly, and remembered.

A runtime that is slower here than PyTorch in FP32 is not chosen, whatever it promises, nor one whose output is not the
engine's.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

import medquant
from medquant.deploy.agreement import Reference
from medquant.deploy.cache import cache_folder
from medquant.deploy.compiling import Pass, compile_parts, measured_pass, spoken
from medquant.deploy.load import LoadOfOthers
from medquant.deploy.machine import Machine
from medquant.deploy.program import integer_layers, rounds_inputs
from medquant.deploy.runtime import RUNTIMES, Session
from medquant.errors import Cancelled, MedQuantError, UserError, first_line
from medquant.files import atomic_path
from medquant.layers import QuantizedLayer, decoded_once
from medquant.matrices import is_quantizable
from medquant.memory import lacks_memory
from medquant.models.base import Part
from medquant.observe import BATCH_NORMS
from medquant.progress import Progress

BUDGET_SECONDS = 30.0
"""Once measuring has taken so long, the runtimes left are not tried."""
BUSY = 0.25
"""Where other programs took so large a part of the processor meanwhile, the choice holds for a short time only."""
DOUBTED_SECONDS = 3600.0
_ORDER = ("tensorrt", "openvino", "onnxruntime")
AS_IT_IS = "auto"
"""The precision of a model that PyTorch runs as it stands, its quantized activations simulated."""
_BASELINE = f"pytorch {AS_IT_IS}"


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why."""

    runtime: str
    precision: str
    reason: str
    """One sentence."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of one pass through all parts, by "runtime precision"."""
    refused: dict[str, str] = field(default_factory=dict)
    """What was not chosen, with the reason."""
    model: str = ""
    """The name of the model it was measured with; others of the same shapes share the choice, as do FP32 and a model
    whose weights alone are quantized."""
    until: float | None = None
    """Seconds since 1970 from when on it is measured again; None: it holds."""


def choose(
    parts: Mapping[str, Part],
    precision: str = "auto",
    *,
    model: str = "",
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Choice, dict[str, Session] | None]:
    """The fastest runtime for `parts` here, and its sessions where they were compiled just now.

    `precision` "auto": integers where the model's activations are quantized, else FP32. Another one is kept to, and
    only the runtime chosen. What was measured once is not measured again, or after an hour where there is doubt in it;
    a model whose weights alone are quantized takes what was measured of FP32, and the other way round. `model`: its
    name, for people. Raises `UserError` where no runtime here has the precision that was asked for, `Cancelled` as
    soon as the user asks.
    """
    progress = progress or Progress()
    key = _key(parts, precision, threads)
    known = _remembered(key)
    if known is not None:
        return known, None
    measurement = _Measurement(parts, precision, threads)
    with LoadOfOthers() as load:
        choice = replace(measurement.run(progress), model=model)
    doubt = measurement.doubt or ("beside other programs" if load.share >= BUSY else "")
    if doubt:
        text = f"{choice.reason} Measured {doubt}, so it is measured again in an hour."
        choice = replace(choice, reason=text, until=time.time() + DOUBTED_SECONDS)
    _remember(key, choice)
    progress.report(1.0, choice.reason)
    return choice, measurement.compiled.get(f"{choice.runtime} {choice.precision}")


def forget_choice(parts: Mapping[str, Part], precision: str, threads: int | None) -> None:
    """Measure again next time."""
    with suppress(OSError):
        _file(_key(parts, precision, threads)).unlink(missing_ok=True)


def remembered_choices() -> list[Choice]:
    """What was chosen on this machine, or on another one with the same cache, the latest first."""

    def age(path: Path) -> float:
        try:
            return -path.stat().st_mtime
        except OSError:  # removed meanwhile
            return 0.0

    found = (_remembered(path.stem) for path in sorted(choices_folder().glob("*.json"), key=age))
    return [choice for choice in found if choice is not None]


def choices_folder() -> Path:
    """Where choices are remembered, one small file each."""
    return cache_folder() / "choices"


class _Measurement:
    """Runs candidates on the example inputs: `seconds` of those that ran, `refused` with the reasons of the others."""

    def __init__(self, parts: Mapping[str, Part], precision: str, threads: int | None) -> None:
        self.parts, self.precision, self.threads = parts, precision, threads
        self.seconds: dict[str, float] = {}
        self.refused: dict[str, str] = {}
        self.compiled: dict[str, dict[str, Session]] = {}
        self.engine = Pass(math.inf, {})
        self.reference = Reference(parts)
        self.doubt = ""
        """Why another measurement may end otherwise; empty: no reason."""
        self.device = next(tensor.device.type for part in parts.values() for tensor in part.inputs.values())
        modules = [part.module for part in parts.values()]
        self.rounds = any(rounds_inputs(module) for module in modules)
        self.integers = any(integer_layers(module) for module in modules)

    def run(self, progress: Progress) -> Choice:
        """PyTorch first, then every candidate, as long as time allows."""
        began = time.monotonic()
        self._run_as_it_is(progress.span(0.0, 0.2))
        candidates = self._candidates()
        while candidates:
            name, wanted = candidates.pop(0)
            label = f"{name} {wanted}"
            if time.monotonic() - began > BUDGET_SECONDS and self.compiled:
                self.refused[label] = "not tried, measuring took long enough"
                self.doubt = self.doubt or "in part only"
                continue
            done = 1.0 - 0.8 ** (len(self.seconds) + len(self.refused))
            self._try(name, wanted, progress.span(done, done + 0.2 * (1.0 - done)))
            gain = self.seconds[_BASELINE] / self.seconds.get(label, math.inf)
            if self.precision == "auto" and wanted == "int8" and 0 < gain < 2:
                candidates.insert(0, (name, "fp32"))  # integers gain little here; do they gain anything?
        return self._choice()

    def _candidates(self) -> list[tuple[str, str]]:
        if self.precision == "auto" and self.rounds and not self.integers:
            return []  # no integer kernel does what this recipe asks for: PyTorch simulates it
        wanted = {"auto": "int8" if self.integers else "fp32"}.get(self.precision, self.precision)
        names = [name for name in (*_ORDER, "pytorch") if wanted in self._able(name)]
        if self.precision == "auto":
            names = [name for name in names if name != "pytorch"]  # it is measured as it is
        if self.device == "cpu":  # asked for, where there is a GPU
            names = [name for name in names if RUNTIMES[name].devices()[0].lower() != "cuda"]
        candidates = [(name, wanted) for name in names]
        if self.precision == "auto" and self.rounds:  # simulating takes longer than computing in FP32
            candidates.append(("pytorch", "fp32"))
        return candidates

    def _able(self, name: str) -> tuple[str, ...]:
        """The precisions of a runtime; none where it is missing or broken."""
        try:
            return tuple(RUNTIMES[name].precisions(self.device))
        except Exception:
            return ()

    def _run_as_it_is(self, progress: Progress) -> None:
        with ExitStack() as stack:
            for part in self.parts.values():
                stack.enter_context(decoded_once(part.module))
            modules = {name: part.module for name, part in self.parts.items()}
            self.engine = measured_pass(modules, self.parts, progress=progress, title="PyTorch")
        self.seconds[_BASELINE], self.reference.rounded = self.engine.seconds, self.engine.outputs

    def _try(self, name: str, wanted: str, progress: Progress) -> None:
        label = f"{name} {wanted}"
        if wanted not in self._able(name):
            return
        try:
            sessions, lacking = compile_parts(
                self.parts,
                RUNTIMES[name],
                wanted,
                threads=self.threads,
                progress=progress.span(0.0, 0.7),
                reference=self.reference,
            )
            found = measured_pass(sessions, self.parts, progress=progress.span(0.7, 1.0), title=name)
        except Cancelled:
            raise
        except Exception as error:  # a runtime that fails, however it does, is not chosen
            self.refused[label] = first_line(error)
            if lacks_memory(error) or isinstance(error.__cause__, MemoryError):
                self.doubt = "with little memory left"
            return
        self.seconds[label], self.compiled[label] = found.seconds, sessions
        self.refused.update({f"{label} for the {spoken(part)}": why for part, why in lacking.items()})

    def _choice(self) -> Choice:
        among = self.seconds if self.precision == "auto" else {label: self.seconds[label] for label in self.compiled}
        if not among:
            told = " ".join(self.refused.values()) or "No runtime that is installed has it."
            raise UserError(f"{self.precision} cannot be run here. {told} Choose --precision auto.")
        best = min(among, key=among.__getitem__)
        pytorch, baseline = "PyTorch (simulated)" if self.rounds else "PyTorch FP32", self.seconds[_BASELINE]
        slower = {
            label: f"{_told(took)}, slower than {pytorch if took > baseline else best}"
            for label, took in self.seconds.items()
            if label not in (best, _BASELINE)
        }
        refused = {**self.refused, **slower}
        if best == _BASELINE:
            text = f"{pytorch} takes {_told(baseline)} for one pass here"
            text += ", and nothing that could be tried is faster" if refused else ", and no other runtime can take part"
        else:
            text = f"{best} takes {_told(self.seconds[best])} for one pass here, {pytorch} {_told(baseline)}"
        told = [f"{label} ({why})" for label, why in slower.items()]
        reason = f"{text}; not chosen: {', '.join(told)}." if told else f"{text}."
        name, _, wanted = best.partition(" ")
        return Choice(name, wanted, reason, self.seconds, refused)


def _told(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


# -- memory ------------------------------------------------------------------------------------------------------------


def _key(parts: Mapping[str, Part], precision: str, threads: int | None) -> str:
    """Changes with the machine, the shapes of what is computed, the precision asked for and every version."""
    machine = Machine.here()
    facts = {
        "machine": [machine.processor, machine.threads, machine.features, torch.cuda.is_available()],
        "versions": [medquant.__version__, torch.__version__, {n: r.version() for n, r in RUNTIMES.items()}],
        "asked": [precision, threads or torch.get_num_threads()],
        "parts": {name: _shapes(part) for name, part in parts.items()},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _shapes(part: Part) -> list[object]:
    inputs = {name: [*tensor.shape, tensor.device.type] for name, tensor in part.inputs.items()}
    if not rounds_inputs(part.module):
        return [inputs, _decoded_shapes(part.module)]
    weights = [[*tensor.shape, str(tensor.dtype)] for tensor in part.module.state_dict().values()]
    return [inputs, weights, len(integer_layers(part.module))]


def _decoded_shapes(module: nn.Module) -> list[object]:
    """Of each module's own tensors, weights decoded: the same for FP32 and a model whose weights alone are quantized.

    Both compute the same in floating point, and only noise could tell their runtimes apart. Biases and batch norms are
    left out: quantizing folds the one into the other, as runtimes do with what they are given.
    """
    found: list[object] = []
    for piece in module.modules():
        if isinstance(piece, QuantizedLayer):
            found.append(["weight", *piece.geometry.weight_shape, str(torch.float32)])
        elif not isinstance(piece, BATCH_NORMS):
            tensors = (*piece.named_parameters(recurse=False), *piece.named_buffers(recurse=False))
            own = {name: tensor for name, tensor in tensors if not (name == "bias" and is_quantizable(piece))}
            found += [[name, *own[name].shape, str(own[name].dtype)] for name in sorted(own)]
    return found


def _file(key: str) -> Path:
    return choices_folder() / f"{key}.json"


def _remembered(key: str) -> Choice | None:
    """What was chosen under this key; None where nothing readable is there."""
    try:
        choice = Choice(**json.loads(_file(key).read_text(encoding="utf-8")))
        fits = choice.runtime in RUNTIMES and isinstance(choice.precision, str) and isinstance(choice.reason, str)
    except (OSError, ValueError, TypeError):
        return None
    past = choice.until is not None and choice.until < time.time()
    return choice if fits and not past else None


def _remember(key: str, choice: Choice) -> None:
    # A folder that cannot be written costs the next run a measurement, no more.
    with suppress(MedQuantError, OSError), atomic_path(_file(key)) as temporary:
        temporary.write_text(json.dumps(asdict(choice), indent=2) + "\n", encoding="utf-8")

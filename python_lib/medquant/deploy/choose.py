"""Which runtime, and in which precision: measured on this machine, shortly, and remembered.

A runtime that is slower here than PyTorch in FP32 is not chosen, whatever it promises.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

import medquant
from medquant.deploy.cache import cache_folder
from medquant.deploy.compiling import compile_parts, seconds_of_a_pass
from medquant.deploy.machine import Machine
from medquant.deploy.program import integer_layers, rounds_inputs
from medquant.deploy.runtime import RUNTIMES, Session
from medquant.errors import MedQuantError, UserError
from medquant.files import atomic_path
from medquant.layers import decoded_once
from medquant.models.base import Part
from medquant.progress import Progress

BUDGET_SECONDS = 30.0
"""Once measuring has taken so long, the runtimes left are not tried."""
_ORDER = ("tensorrt", "openvino", "onnxruntime")
AS_IT_IS = "auto"
"""The precision of a model that PyTorch runs as it stands, its quantized activations simulated."""


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


def choose(
    parts: Mapping[str, Part], precision: str = "auto", *, threads: int | None = None, progress: Progress | None = None
) -> tuple[Choice, dict[str, Session] | None]:
    """The fastest runtime for `parts` here, and its sessions where they were compiled just now.

    `precision` "auto": integers where the model's activations are quantized, else FP32. Another one is kept to, and
    only the runtime chosen. What was measured once is not measured again. Raises `UserError` where no runtime here
    has the precision that was asked for, `Cancelled` as soon as the user asks.
    """
    progress = progress or Progress()
    key = _key(parts, precision, threads)
    known = _remembered(key)
    if known is not None:
        return known, None
    choice, sessions = _measured(parts, precision, threads, progress)
    _remember(key, choice)
    return choice, sessions


def forget_choice(parts: Mapping[str, Part], precision: str, threads: int | None) -> None:
    """Measure again next time."""
    with suppress(OSError):
        _file(_key(parts, precision, threads)).unlink(missing_ok=True)


def choices_folder() -> Path:
    """Where choices are remembered, one small file each."""
    return cache_folder() / "choices"


def _measured(
    parts: Mapping[str, Part], precision: str, threads: int | None, progress: Progress
) -> tuple[Choice, dict[str, Session] | None]:
    began = time.monotonic()
    baseline = f"pytorch {AS_IT_IS}"
    with ExitStack() as stack:
        for part in parts.values():
            stack.enter_context(decoded_once(part.module))
        modules = {name: part.module for name, part in parts.items()}
        seconds = {baseline: seconds_of_a_pass(modules, parts, progress=progress.span(0.0, 0.2), title="PyTorch")}
    compiled: dict[str, dict[str, Session]] = {}
    refused: dict[str, str] = {}
    candidates = _candidates(parts, precision)
    while candidates:
        name, wanted = candidates.pop(0)
        label, span = f"{name} {wanted}", progress.span(min(0.9, 0.2 * len(seconds)), 0.95)
        if time.monotonic() - began > BUDGET_SECONDS and len(seconds) > 1:
            refused[label] = "not tried, measuring took long enough"
            continue
        try:
            sessions, lacking = compile_parts(
                parts, RUNTIMES[name], wanted, threads=threads, progress=span.span(0, 0.7)
            )
            seconds[label] = seconds_of_a_pass(sessions, parts, progress=span.span(0.7, 1.0), title=name)
        except UserError as error:
            refused[label] = str(error)
            continue
        if lacking:
            refused.update({f"{label} for the {part}": why for part, why in lacking.items()})
        compiled[label] = sessions
        slow = seconds[label] > seconds[baseline] / 2
        if precision == "auto" and wanted == "int8" and slow and "fp32" in RUNTIMES[name].precisions():
            candidates.insert(0, (name, "fp32"))  # integers gain little here; do they gain anything?
    if precision != "auto":
        if not compiled:
            told = " ".join(refused.values()) or "No runtime that is installed has it."
            raise UserError(f"{precision} cannot be run here. {told} Choose --precision auto.")
        seconds_of_candidates = {label: seconds[label] for label in compiled}
    else:
        seconds_of_candidates = seconds
    best = min(seconds_of_candidates, key=seconds_of_candidates.__getitem__)
    reason = _reason(best, seconds, refused, simulated=any(rounds_inputs(part.module) for part in parts.values()))
    name, _, wanted = best.partition(" ")
    progress.report(1.0, reason)
    return Choice(name, wanted, reason, seconds, refused), compiled.get(best)


def _candidates(parts: Mapping[str, Part], precision: str) -> list[tuple[str, str]]:
    modules = [part.module for part in parts.values()]
    if precision == "auto":
        if any(rounds_inputs(module) for module in modules) and not any(integer_layers(module) for module in modules):
            return []  # no integer kernel does what this recipe asks for: PyTorch simulates it
        precision = "int8" if any(integer_layers(module) for module in modules) else "fp32"
        order = _ORDER
    else:
        order = (*_ORDER, "pytorch")
    return [(name, precision) for name in order if precision in RUNTIMES[name].precisions()]


def _reason(best: str, seconds: Mapping[str, float], refused: dict[str, str], *, simulated: bool) -> str:
    """One sentence; adds to `refused` what was measured and is slower."""
    baseline = f"pytorch {AS_IT_IS}"
    pytorch = "PyTorch (simulated)" if simulated else "PyTorch FP32"
    for label, took in seconds.items():
        if label not in (best, baseline):
            slower = pytorch if took > seconds[baseline] else best
            refused[label] = f"{_told(took)}, slower than {slower}"
    if best == baseline:
        text = f"{pytorch} takes {_told(seconds[baseline])} for one pass here"
        text += ", and nothing that could be tried is faster" if refused else ", and no other runtime is installed"
    else:
        ratio = seconds[baseline] / seconds[best]
        text = f"{best} takes {_told(seconds[best])} for one pass here, {pytorch} {_told(seconds[baseline])}"
        text += f" ({ratio:.1f} times as long)" if ratio > 1 else ""
    slow = [f"{label} ({why})" for label, why in refused.items() if label in seconds]
    return f"{text}; not chosen: {', '.join(slow)}." if slow else f"{text}."


def _told(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


# -- memory ------------------------------------------------------------------------------------------------------------


def _key(parts: Mapping[str, Part], precision: str, threads: int | None) -> str:
    """Changes with the machine, the shapes of the model, the precision asked for and every version."""
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
    weights = [[*tensor.shape, str(tensor.dtype)] for tensor in part.module.state_dict().values()]
    return [inputs, weights, len(integer_layers(part.module)), rounds_inputs(part.module)]


def _file(key: str) -> Path:
    return choices_folder() / f"{key}.json"


def _remembered(key: str) -> Choice | None:
    """What was chosen under this key; None where nothing readable is there."""
    try:
        choice = Choice(**json.loads(_file(key).read_text(encoding="utf-8")))
        fits = choice.runtime in RUNTIMES and isinstance(choice.precision, str) and isinstance(choice.reason, str)
    except (OSError, ValueError, TypeError):
        return None
    return choice if fits else None


def _remember(key: str, choice: Choice) -> None:
    # A folder that cannot be written costs the next run a measurement, no more.
    with suppress(MedQuantError, OSError), atomic_path(_file(key)) as temporary:
        temporary.write_text(json.dumps(asdict(choice), indent=2) + "\n", encoding="utf-8")

"""All parts of a model compiled by one runtime, and what one pass through them takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from medquant.background import stoppable_call
from medquant.deploy.agreement import Reference
from medquant.deploy.cache import cache_folder
from medquant.deploy.program import integer_layers, rounds_inputs
from medquant.deploy.runtime import RUNTIMES, Check, Runtime, Session
from medquant.errors import UserError
from medquant.models.base import Part
from medquant.progress import Progress

ENOUGH_SECONDS = 0.5
"""A part is run again until its runs took so long, so that a short one is not judged by a moment's load."""
MOST_RUNS = 6


def compile_parts(
    parts: Mapping[str, Part],
    runtime: Runtime,
    precision: str,
    *,
    threads: int | None,
    progress: Progress,
    reference: Reference | None = None,
) -> tuple[dict[str, Session], dict[str, str]]:
    """A session for every part, and why some of them are PyTorch's: the runtime lacks what they need, or is wrong.

    What is compiled anew is compared with the engine's own network on the part's example (`reference`: where that is
    known already). In "int8", parts whose activations are not quantized are computed in "fp32". Raises `UserError`
    where the runtime can do none of the parts, or the memory does not suffice; `Cancelled` as soon as the user asks.
    """
    reference = reference or Reference(parts)
    sessions: dict[str, Session] = {}
    lacking: dict[str, str] = {}
    for number, (name, part) in enumerate(parts.items()):
        progress.report(number / len(parts), f"Preparing the {spoken(name)} for {runtime.name}")
        wanted = "fp32" if precision == "int8" and not rounds_inputs(part.module) else precision
        try:
            check = partial(reference.check, name)
            sessions[name] = stoppable_call(_compiling(runtime, part, wanted, threads, check), progress)
        except MemoryError as error:
            raise UserError(
                f"There is not enough memory to prepare the model for {runtime.name}. Close other programs, or use "
                "--runtime pytorch."
            ) from error
        except UserError as error:
            lacking[name] = str(error)
    if len(lacking) == len(parts):
        raise UserError(next(iter(lacking.values())))
    for name in lacking:
        sessions[name] = RUNTIMES["pytorch"].compile(parts[name], precision="fp32", threads=threads)
        sessions[name].layers, sessions[name].integer_layers = len(integer_layers(parts[name].module)), 0
    progress.report(1.0, f"Ready to run by {runtime.name}")
    return {name: sessions[name] for name in parts}, lacking


@dataclass(frozen=True)
class Pass:
    """One pass through all parts of a model on their example inputs."""

    seconds: float
    """The best of each part's runs, added up."""
    outputs: dict[str, tuple[torch.Tensor, ...]]
    """By part."""


def measured_pass(
    run: Mapping[str, Callable[..., Any]], parts: Mapping[str, Part], *, progress: Progress, title: str
) -> Pass:
    """Run every part, each on its own example, until its seconds can be told from a moment's load."""
    total, outputs = 0.0, {}
    for number, (name, part) in enumerate(parts.items()):
        progress.report(number / len(parts), f"Measuring {title}")
        seconds: list[float] = []
        while not seconds or (sum(seconds) < ENOUGH_SECONDS and len(seconds) < MOST_RUNS):
            took, outputs[name] = stoppable_call(_timing(run[name], part), progress)
            seconds.append(took)
        total += min(seconds)
    return Pass(total, outputs)


def spoken(name: str) -> str:
    """A part's name for people: "image encoder"."""
    return name.replace("_", " ")


def _compiling(
    runtime: Runtime, part: Part, precision: str, threads: int | None, check: Check
) -> Callable[[], Session]:
    # Converters work on the processor, wherever the network is.
    part = replace(part, inputs={name: tensor.cpu() for name, tensor in part.inputs.items()})
    return lambda: runtime.compile(part, precision=precision, threads=threads, cache=cache_folder(), check=check)


def _timing(run: Callable[..., Any], part: Part) -> Callable[[], tuple[float, tuple[torch.Tensor, ...]]]:
    @torch.inference_mode()
    def once() -> tuple[float, tuple[torch.Tensor, ...]]:
        began = time.perf_counter()
        found = run(*part.inputs.values())
        found = found if isinstance(found, (tuple, list)) else (found,)
        outputs = tuple(tensor.cpu() for tensor in found)  # a GPU has done its work by then
        return time.perf_counter() - began, outputs

    return once

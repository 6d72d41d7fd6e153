"""`medquant doctor`: what this machine is, what runs on it, and what is missing."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from medquant import __version__
from medquant.commands import options as o
from medquant.commands.session import Session, session, strong
from medquant.progress import Progress

if TYPE_CHECKING:
    from medquant.deploy.choose import Choice
    from medquant.deploy.kept import Kept
    from medquant.deploy.machine import Machine

EXAMPLES = o.examples("medquant doctor", "medquant doctor --measure", "medquant doctor --json -")
SHOWN = 5
"""Choices of a runtime that are shown, the latest ones."""


def doctor(
    measure: Annotated[bool, typer.Option(help="Time the embedded model in every runtime now, anew.")] = False,
    json_target: o.Json = None,
) -> None:
    """Show the system, the processor, the memory, the runtimes and the caches, and what to do about what is missing.

    `medquant segment --runtime auto` measures the runtimes listed here with the model at hand, takes the fastest and
    remembers it; what was chosen so far, and why, is shown here too. `medquant cache --clear` forgets it.
    """
    from medquant.deploy.choose import remembered_choices
    from medquant.deploy.kept import kept
    from medquant.deploy.machine import Machine

    with session(json_target) as run:
        measured = _measure(run) if measure else None
        machine, runtimes, caches = Machine.here(), _runtimes(), kept()
        advice, choices = _advice(machine, runtimes, caches), remembered_choices()[:SHOWN]
        _show(run, machine, runtimes, caches, advice)
        if measured is not None:
            _show_measured(run, measured)
        if choices:
            run.say("\nChosen here so far, the latest first:")
            for choice in choices:
                run.say(f"  {strong(choice.model or 'a model')}: {escape(choice.reason)}")
            run.say(
                "Was the machine busy then, or has it changed? After `medquant cache --clear` all is measured again."
            )
        run.finish(
            {
                "medquant": __version__,
                "machine": machine.to_dict(),
                "runtimes": runtimes,
                "caches": [cache.to_dict() for cache in caches],
                "measured": None if measured is None else asdict(measured),
                "choices": [asdict(choice) for choice in choices],
                "advice": advice,
            }
        )


def _measure(run: Session) -> Choice:
    """The embedded model timed in every runtime, whatever was remembered."""
    from medquant.deploy.choose import choose, forget_choice
    from medquant.models.registry import load_model

    with run.track("Measuring") as (progress, cancelled):
        model = load_model("embedded", device="cpu")
        parts = model.parts()
        forget_choice(parts, "auto", None)
        return choose(parts, model=model.name, progress=Progress(progress, cancelled))[0]


def _show_measured(run: Session, measured: Choice) -> None:
    """A line for every runtime that ran, the fastest first, and for every one that did not."""
    from rich.table import Table

    from medquant.deploy.choose import remembered_choices
    from medquant.evaluation import wording

    run.say(f"\nMeasured now, one slice through {strong(measured.model)}:")
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False, pad_edge=False)
    for label, seconds in sorted(measured.seconds.items(), key=lambda item: item[1]):
        name, _, precision = label.partition(" ")
        shown = f"{name} {precision.replace('auto', 'fp32')}"  # the model has no integers to simulate
        chosen = (name, precision) == (measured.runtime, measured.precision)
        table.add_row(shown, wording.seconds(seconds), "chosen" if chosen else "", style="bold" if chosen else None)
    for label, why in measured.refused.items():
        if label not in measured.seconds:
            table.add_row(escape(label), wording.NOTHING, escape(why))
    run.console.print(table)
    if measured.until is not None:
        run.say("Other programs kept the machine busy, or memory was short: it is measured again in an hour.")
    elif measured not in remembered_choices():
        run.say("The cache cannot be written, so this is not remembered.")


def _runtimes() -> list[dict[str, Any]]:
    """Every runtime that is known, installed or not. One that is broken says so instead of ending the command."""
    from medquant.deploy.runtime import RUNTIMES

    found = []
    for name, runtime in RUNTIMES.items():
        facts: dict[str, Any] = {"name": name, "version": None, "devices": [], "precisions": [], "fault": ""}
        try:
            facts["version"] = runtime.version()
            if facts["version"] is not None:
                facts["devices"], facts["precisions"] = list(runtime.devices()), list(runtime.precisions())
        except Exception as error:
            facts["fault"] = f"{type(error).__name__}: {error}".splitlines()[0]
        found.append(facts)
    return found


def _advice(machine: Machine, runtimes: list[dict[str, Any]], caches: tuple[Kept, ...]) -> list[str]:
    """What is missing, each with what to do."""
    from medquant.deploy.accelerate import install_hint

    installed = {facts["name"] for facts in runtimes if facts["version"] is not None}
    advice = [
        f"{facts['name']} is broken ({facts['fault']}). Install it again." for facts in runtimes if facts["fault"]
    ]
    for facts in runtimes:
        if facts["version"] is None and not facts["fault"] and (found := _package(facts["name"])):
            name = facts["name"]
            advice.append(f"{name} {found} is too old, or of no use on this machine. Try: pip install -U {name}")
    if machine.gpus and "Apple" not in machine.gpus[0] and "tensorrt" not in installed:
        advice.append(
            "TensorRT is missing, the fastest runtime on an NVIDIA GPU. Install it with: pip install tensorrt"
        )
    if "openvino" not in installed and not _package("openvino"):
        advice.append(f"OpenVINO is missing, the fastest runtime on most processors. {install_hint('openvino')}")
    if not machine.has_fast_integers:
        advice.append(f"{machine.integers()} Small models still save memory and disk here.")
    if machine.free_mb < 4000:
        advice.append(f"Only {machine.free_mb / 1000:.1f} GB of memory are free. Close other programs before MedSAM.")
    for cache in caches[:2]:
        if not cache.writable:
            advice.append(
                f"{cache.folder} cannot be written: every start prepares the model anew. Allow writing there, or name "
                "another folder in MEDQUANT_CACHE."
            )
    return advice


def _package(name: str) -> str | None:
    """The version of an installed package; None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _show(
    run: Session, machine: Machine, runtimes: list[dict[str, Any]], caches: tuple[Kept, ...], advice: list[str]
) -> None:
    from rich.table import Table

    from medquant.evaluation import wording

    cores = f"{machine.cores} core{'s' if machine.cores > 1 else ''}, {machine.threads} threads"
    features = ", ".join(machine.features) or "no instructions that matter here"
    run.say(f"System     {escape(machine.system)}; Python {platform.python_version()}; medquant {__version__}")
    run.say(f"Processor  {escape(machine.processor)}: {cores}; {features}")
    run.say(f"           {machine.integers()}")
    if machine.gpus:
        run.say(f"GPU        {escape(', '.join(machine.gpus))}")
    run.say(f"Memory     {wording.memory(machine.memory_mb)}, {wording.memory(machine.free_mb)} free\n")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for title in ("runtime", "version", "devices", "precisions"):
        table.add_column(title, overflow="fold")
    for facts in runtimes:
        version = facts["version"] or ("broken" if facts["fault"] else "not installed")
        devices = ", ".join(device.upper() for device in facts["devices"]) or wording.NOTHING
        precisions = ", ".join(facts["precisions"]) or wording.NOTHING
        if facts["name"] == "pytorch":
            precisions = precisions.replace("int8", "int8 (simulated)")
        table.add_row(facts["name"], escape(version), escape(devices), precisions)
    run.console.print(table)
    run.say("")
    for cache in caches:
        size = f"{cache.count}, {wording.size(cache.bytes)}" if cache.count else "none"
        run.say(f"{cache.title}: {size} in {strong(cache.folder)}")
    run.say("\nMissing:" if advice else "\nNothing that would help here is missing.")
    for line in advice:
        run.say(f"  {escape(line)}")

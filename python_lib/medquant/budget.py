"""What calibration takes in memory, from shapes alone: one recipe and one limit give one plan, on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from medquant.errors import UserError
from medquant.jobs import LayerJob

SPARE = 0.8
"""Part of the free memory that calibration may take where the caller sets no limit."""


@dataclass(frozen=True)
class Plan:
    """Which calibration inputs are used, and which layers are solved with half the matrices."""

    inputs: tuple[int, ...]
    frugal: frozenset[str]
    """Layers without cross moments and halves: their memory would not fit."""
    megabytes: float


def gram_megabytes(job: LayerJob, *, full: bool) -> float:
    """Memory that solving a layer takes: some 14 matrices of (m, m), or 8 without halves and cross moments.

    The moments of all groups of a convolution are held at once.
    """
    layout = job.geometry.layout
    held = (4 if full else 1) * layout.groups
    return (held + (10 if full else 7)) * 4 * layout.rows**2 / 1e6


def plan_for(
    jobs: Mapping[str, LayerJob],
    held: Mapping[str, int],
    pass_bytes: int,
    count: int,
    *,
    passes: int,
    gather_mb: float,
    limit_mb: float | None,
    moments: bool = True,
) -> Plan:
    """Fit calibration into `limit_mb` above the model itself, or say that it does not.

    `held` are the bytes that one pass holds when it halts at each layer, `pass_bytes` the most that a pass under way
    takes, `passes` how many there are of each of the `count` inputs, `gather_mb` what gathering rows takes, `moments`
    whether second moments are collected. Fewer inputs, evenly spread, are used before a layer is refused. Without a
    limit all are used, or nothing is begun.
    """

    def needed(inputs: int, *, full: bool) -> float:
        return max(_at(job, held.get(name, 0), inputs * passes, full) for name, job in jobs.items())

    def _at(job: LayerJob, halted: int, runners: int, full: bool) -> float:
        solving = gather_mb + (gram_megabytes(job, full=full) if moments else 0.0)
        return runners * halted / 1e6 + max(solving, pass_bytes / 1e6)

    if limit_mb is None:
        free = psutil.virtual_memory().available / 1e6
        whole = needed(count, full=True)
        if whole > SPARE * free:
            raise UserError(
                f"Calibration with {count} inputs takes about {whole:.0f} MB, {free:.0f} MB are free. Use fewer "
                "inputs, close other programs, or set a limit on memory to have as many used as fit."
            )
        return Plan(tuple(range(count)), frozenset(), whole)
    fitting = next((n for n in range(count, 0, -1) if needed(n, full=False) <= limit_mb), 0)
    if not fitting:
        raise UserError(
            f"Calibration with one input takes about {needed(1, full=False):.0f} MB, {limit_mb:.0f} MB are allowed. "
            "Allow more memory, use smaller inputs, or leave the largest layers out."
        )
    frugal = {name for name, job in jobs.items() if _at(job, held.get(name, 0), fitting * passes, True) > limit_mb}
    chosen = tuple(i * count // fitting for i in range(fitting))
    return Plan(chosen, frozenset(frugal), needed(fitting, full=not frugal))

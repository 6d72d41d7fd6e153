"""The benchmark from its plan to its rows, here or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medquant.bench.medquanbench.measure import run_cell
from medquant.bench.medquanbench.plan import Cell
from medquant.bench.records import Records
from medquant.errors import UserError
from medquant.progress import Progress

Outcome = dict[str, Any] | UserError
Runner = Callable[[Sequence[Cell], Progress], Iterable[tuple[Cell, Outcome]]]
"""Runs cells in any order and gives the row of each, or why there is none."""


@dataclass(frozen=True)
class Locally:
    """One cell after the other, in this process."""

    models: Path
    """Folder for quantized models."""
    device: str = "cpu"
    threads: int = 1

    def __call__(self, cells: Sequence[Cell], progress: Progress) -> Iterator[tuple[Cell, Outcome]]:
        for number, cell in enumerate(cells):
            part = progress.span(number / len(cells), (number + 1) / len(cells))
            part.report(0.0, cell.describe())
            try:
                yield cell, run_cell(cell, self.models, device=self.device, threads=self.threads, progress=part)
            except UserError as error:
                yield cell, error


def run(
    plan: Sequence[Cell], records: Records, runner: Runner, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, UserError]]:
    """The rows of all cells in the order of the plan, and what failed, by cell.

    Finished cells are taken from `records`, others are run and recorded as they finish. Raises `Cancelled`.
    """
    rows = {cell.key: row for cell in plan if (row := records.get(cell.key)) is not None}
    missing = [cell for cell in plan if cell.key not in rows]
    failed: dict[str, UserError] = {}
    for cell, outcome in runner(missing, progress.span(len(rows) / max(1, len(plan)), 1.0)):
        if isinstance(outcome, UserError):
            failed[cell.describe()] = outcome
        else:
            records.put(outcome)
            rows[cell.key] = outcome
    return [rows[cell.key] for cell in plan if cell.key in rows], failed

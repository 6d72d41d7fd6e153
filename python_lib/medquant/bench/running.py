"""A benchmark from its plan to its rows, here or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medquant.bench.cell import BenchmarkCell
from medquant.bench.records import Records
from medquant.errors import Cancelled, UserError, first_line
from medquant.progress import Progress

Outcome = dict[str, Any] | UserError
Runner = Callable[[Sequence[BenchmarkCell], Progress], Iterable[tuple[BenchmarkCell, Outcome]]]
"""Runs cells in any order and gives the row of each, or why there is none."""


def attempt(
    cell: BenchmarkCell, models: Path, *, device: str = "cpu", threads: int = 1, progress: Progress | None = None
) -> Outcome:
    """What `measure` of a cell gives, or why there is none: memory that does not suffice or a fault of one network must
    not end the others. Raises `Cancelled`."""
    try:
        return cell.measure(models, device=device, threads=threads, progress=progress or Progress())
    except Cancelled:
        raise
    except UserError as error:
        return error
    except Exception as error:  # of any library
        return UserError(
            f"It failed with {type(error).__name__}: {first_line(error)}. "
            "Run again for it alone, with more memory or fewer --threads if it lacked any."
        )


@dataclass(frozen=True)
class Locally:
    """One cell after the other, in this process."""

    models: Path
    """Folder for quantized models."""
    device: str = "cpu"
    threads: int = 1

    def __call__(self, cells: Sequence[BenchmarkCell], progress: Progress) -> Iterator[tuple[BenchmarkCell, Outcome]]:
        for number, cell in enumerate(cells):
            part = progress.span(number / len(cells), (number + 1) / len(cells))
            part.report(0.0, cell.describe())
            yield cell, attempt(cell, self.models, device=self.device, threads=self.threads, progress=part)


def run(
    plan: Sequence[BenchmarkCell], records: Records, runner: Runner, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, UserError]]:
    """The rows of all cells in the order of the plan, and what failed, by key of the cell.

    Finished cells are taken from `records`, others are run and recorded as they finish. Raises `Cancelled`.
    """
    rows = {cell.key: row for cell in plan if (row := records.get(cell.key)) is not None}
    missing = [cell for cell in plan if cell.key not in rows]
    failed: dict[str, UserError] = {}
    for cell, outcome in runner(missing, progress.span(len(rows) / max(1, len(plan)), 1.0)):
        if isinstance(outcome, UserError):
            failed[cell.key] = outcome
        else:
            records.put(outcome)
            rows[cell.key] = outcome
    return [rows[cell.key] for cell in plan if cell.key in rows], failed


def failures(plan: Sequence[BenchmarkCell], failed: Mapping[str, UserError]) -> Iterator[str]:
    """What `run` could not measure, in words: a cause that cells of a network have in common comes once."""
    for network in dict.fromkeys(cell.network.name for cell in plan):
        of_network = [cell for cell in plan if cell.network.name == network]
        causes: dict[str, list[BenchmarkCell]] = {}
        for cell in of_network:
            if cell.key in failed:
                causes.setdefault(str(failed[cell.key]), []).append(cell)
        for cause, cells in causes.items():
            if len(cells) == 1:
                yield f"{cells[0].describe()}. {cause}"
                continue
            common = [{cell.setting.describe() for cell in cells}, {cell.case.name for cell in cells}]
            named = ", ".join([network, *(names.pop() for names in common if len(names) == 1)])
            yield f"{named} ({len(cells)} of its {len(of_network)} cells). {cause}"

"""The paper's tables for a terminal of 80 columns: one for each network or claim, with a column for each figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medquant.bench.medquanbench.findings import Finding
from medquant.bench.medquanbench.plan import FP32, PRODUCT
from medquant.bench.medquanbench.summary import Line
from medquant.evaluation import wording


@dataclass(frozen=True)
class Part:
    """Cells as they are shown: `words` columns of words, then figures."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int
    note: str = ""


def score_parts(lines: Sequence[Line]) -> tuple[Part, ...]:
    """Table 1 of the paper, network by network."""
    head = ("", "granularity", "method", "DSC", "drop\n%", "spread", "NSD", "drop\n%", "bits")
    made = []
    for full, of_network in _by_network(lines):
        rows = tuple(
            (
                line.precision,
                line.granularity,
                line.method,
                f"{line.dsc:.3f}",
                "" if line is full else _drop(line.dsc_drop),
                "" if line.dsc_spread is None else f"{line.dsc_spread:.3f}",
                f"{line.nsd:.3f}",
                "" if line is full else _drop(line.nsd_drop),
                f"{line.effective_bits:.1f}",
            )
            for line in of_network
        )
        fewer = [
            f"{' '.join((line.precision, line.granularity, line.method))}: {_counted(line)}."
            for line in of_network
            if _counted(line) != _counted(full)
        ]
        made.append(Part(f"{full.model} ({full.backbone}), {_counted(full)}", head, rows, 3, " ".join(fewer)))
    return tuple(made)


def _drop(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.1f}"


def _counted(line: Line) -> str:
    cases, structures = ("" if count == 1 else "s" for count in (line.cases, line.structures))
    return f"{line.cases} case{cases}, {line.structures} structure{structures}"


def deployment_parts(lines: Sequence[Line]) -> tuple[Part, ...]:
    """Table 5 of the paper, network by network."""
    head = ("", "computed by", "size", "ratio", "network's\ntime", "gain", "DSC to\nPyTorch's")
    made = []
    for full, of_network in _by_network(lines):
        shown = [line for line in of_network if line.precision == FP32 or line.method == PRODUCT]
        rows = tuple(
            (
                line.precision,
                line.runtime or "none",
                wording.size(line.bytes),
                "" if line is full else _times(full.bytes / line.bytes),
                "" if line.runtime_seconds is None else wording.seconds(line.runtime_seconds),
                "" if line is full else _times(line.gain_over(full)),
                "" if line.runtime_dsc_change is None else f"{line.runtime_dsc_change:+.3f}",
            )
            for line in shown
        )
        places: dict[str, list[str]] = {}
        for line in shown:
            if line.runtime:
                places.setdefault(line.place, []).append(line.precision)
        told = " ".join(f"{', '.join(which)} on {place}." for place, which in places.items())
        made.append(Part(full.model, head, rows, 2, told))
    return tuple(made)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}{wording.TIMES}"


def finding_parts(found: Sequence[Finding]) -> tuple[Part, ...]:
    """The findings, claim by claim."""
    return tuple(
        Part(
            claim,
            ("network", "here", "figures"),
            tuple((one.model, one.verdict, one.evidence) for one in found if one.claim == claim),
            3,
        )
        for claim in dict.fromkeys(one.claim for one in found)
    )


def _by_network(lines: Sequence[Line]) -> list[tuple[Line, list[Line]]]:
    """The line of FP32 of each network, and all its lines."""
    return [(full, [line for line in lines if line.model == full.model]) for full in lines if full.precision == FP32]

"""The paper's findings, looked for in the rows: where they hold on these models, and where not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from medquant.bench.medquanbench.plan import FP32, PRODUCT
from medquant.bench.medquanbench.summary import Line, percent_lost

LOSSLESS_PERCENT = 1.0
"""A drop of DSC up to this is none."""
COLLAPSED_PERCENT = 50.0
"""From this drop of DSC on a model is of no use."""
GAIN = 0.05
"""What DSC must gain for a recovery; a smaller difference is a tie: few scans cannot tell it from none."""

Verdict = Literal["holds", "does not hold", "a tie", "nothing was lost"]


@dataclass(frozen=True)
class Finding:
    """A claim of the paper on one model."""

    claim: str
    model: str
    verdict: Verdict
    evidence: str
    """The figures that decide it, and of how many scans they are."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Pair:
    """A line and one that it is compared with, on the scans that both were measured on: means of DSC."""

    line: Line
    other: Line
    scans: int
    dsc: float
    other_dsc: float
    full_dsc: float
    """FP32's."""

    @property
    def gained(self) -> float:
        return self.dsc - self.other_dsc

    @property
    def drops(self) -> tuple[float, float]:
        """Of both from FP32, in per cent."""
        return percent_lost(self.dsc, self.full_dsc), percent_lost(self.other_dsc, self.full_dsc)

    def __str__(self) -> str:
        return f"{self.dsc:.3f} against {self.other_dsc:.3f}"


def findings(lines: Iterable[Line]) -> list[Finding]:
    """Every claim on every model that the lines tell something of: nothing is told where FP32 found nothing."""
    lines = [line for line in lines if line.dsc_drop is not None]
    found = []
    for judge in (_lossless, _collapses, _finer_recovers, _adaptive_is_best, _solver_recovers, _product_recovers):
        for model in dict.fromkeys(line.model for line in lines):
            of_model = {(line.precision, line.granularity, line.method): line for line in lines if line.model == model}
            if (FP32, "", "") in of_model and (finding := judge(model, of_model)) is not None:
                found.append(finding)
    return found


Lines = dict[tuple[str, str, str], Line]


def _lossless(model: str, lines: Lines) -> Finding | None:
    """Section 4.1: "INT8 remains close to FP32"."""
    eight = _where(lines, lambda line: line.precision == "W8A8" and line.method == "rtn")
    if not eight:
        return None
    worst = max(eight, key=lambda line: line.dsc_drop)
    claim = f"W8A8 is lossless at every granularity measured (DSC drops by {LOSSLESS_PERCENT:.0f} % at most)"
    told = {f"{line.granularity} {line.dsc_drop:.1f} %": line.cases for line in eight}
    return Finding(claim, model, _told(worst.dsc_drop <= LOSSLESS_PERCENT), _evidence(told))


def _collapses(model: str, lines: Lines) -> Finding | None:
    """Section 4.1: "under per-tensor INT4, these models show catastrophic degradation"."""
    line = lines.get(("W4A4", "per-tensor", "rtn"))
    if line is None:
        return None
    claim = f"W4A4 per tensor collapses (DSC drops by {COLLAPSED_PERCENT:.0f} % or more)"
    told = {f"{line.dsc:.3f}, a drop of {line.dsc_drop:.1f} %": line.cases}
    return Finding(claim, model, _told(line.dsc_drop >= COLLAPSED_PERCENT), _evidence(told))


def _finer_recovers(model: str, lines: Lines) -> Finding | None:
    """Section 4.1: "finer granularity significantly improves INT4 performance"."""
    coarse = lines.get(("W4A4", "per-tensor", "rtn"))
    pairs = _pairs((lines.get(("W4A4", grain, "rtn")), coarse) for grain in ("per-channel/token", "adaptive"))
    if not pairs:
        return None
    claim = f"Finer granularity recovers W4A4 (DSC gains {GAIN} or more, or all that was lost)"
    told = {f"{pair.line.granularity} {pair} per tensor": pair.scans for pair in pairs}
    return Finding(claim, model, _recovery(pairs), _evidence(told))


def _adaptive_is_best(model: str, lines: Lines) -> Finding | None:
    """Section 4.1: per-voxel scales for convolutions of size one "further enhance robustness"."""
    token, adaptive = (lines.get(("W4A4", grain, "rtn")) for grain in ("per-channel/token", "adaptive"))
    pairs = _pairs([(adaptive, token)])
    if not pairs or min(pairs[0].drops) >= COLLAPSED_PERCENT:
        return None  # of two ruins neither is better
    (pair,) = pairs
    claim = f"Adaptive stratification is better than per-channel/token scales at W4A4 (by DSC {GAIN} or more)"
    verdict: Verdict = "a tie" if abs(pair.gained) < GAIN else _told(pair.gained > 0)
    return Finding(claim, model, verdict, _evidence({str(pair): pair.scans}))


def _solver_recovers(model: str, lines: Lines) -> Finding | None:
    """Not the paper's: a solver for the weights under the paper's own granularities."""
    solved = _where(lines, lambda line: line.precision == "W4A4" and line.method not in ("rtn", PRODUCT))
    pairs = _pairs((line, lines.get(("W4A4", line.granularity, "rtn"))) for line in solved)
    if not pairs:
        return None
    claim = f"A better solver of the weights recovers W4A4 (DSC gains {GAIN} or more, or all that was lost)"
    told = {f"{pair.line.method} {pair.line.granularity} {pair}": pair.scans for pair in pairs}
    return Finding(claim, model, _recovery(pairs), _evidence(told))


def _product_recovers(model: str, lines: Lines) -> Finding | None:
    """Not the paper's: medquant's own recipe against the best of the paper's."""
    own = lines.get(("W4A4", "per-tensor", PRODUCT))
    published = _where(lines, lambda line: line.precision == "W4A4" and line.method == "rtn")
    pairs = _pairs((own, line) for line in published)
    if not pairs:
        return None
    hardest = min(pairs, key=lambda pair: pair.gained)
    claim = f"medquant's recipe, per tensor, recovers W4A4 (DSC {GAIN} above the paper's best granularity, or FP32's)"
    told = {f"{hardest} ({hardest.other.granularity})": hardest.scans}
    return Finding(claim, model, _recovery([hardest]), _evidence(told))


def _pairs(lines: Iterable[tuple[Line | None, Line | None]]) -> list[Pair]:
    """Those of which both are there and share cases that FP32 found something in."""
    found = []
    for line, other in lines:
        if line is None or other is None:
            continue
        shared = [(line.by_case[case][0], *other.by_case[case]) for case in line.by_case if case in other.by_case]
        if any(full for *_, full in shared):
            found.append(Pair(line, other, len(shared), *np.mean(shared, axis=0).tolist()))
    return found


def _recovery(pairs: Sequence[Pair]) -> Verdict:
    """Whether any line gained so much over the other, or all that had been lost, where anything had."""
    pairs = [pair for pair in pairs if pair.drops[1] > LOSSLESS_PERCENT]
    if not pairs:
        return "nothing was lost"
    return _told(any(p.gained >= GAIN or (p.gained > 0 and p.drops[0] <= LOSSLESS_PERCENT) for p in pairs))


def _told(holds: bool) -> Verdict:
    return "holds" if holds else "does not hold"


def _evidence(told: dict[str, int]) -> str:
    """Figures, and of how many scans they are: once where all are of as many."""
    scans = {words: "1 scan" if count == 1 else f"{count} scans" for words, count in told.items()}
    if len(set(scans.values())) == 1:
        return f"{', '.join(told)} ({next(iter(scans.values()))})"
    return ", ".join(f"{words} ({count})" for words, count in scans.items())


def _where(lines: Lines, wanted: Callable[[Line], bool]) -> list[Line]:
    return [line for line in lines.values() if wanted(line)]

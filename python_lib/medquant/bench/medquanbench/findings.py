"""The paper's findings, looked for in the rows: where they hold on these models, and where not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from medquant.bench.medquanbench.plan import FP32, PRODUCT
from medquant.bench.medquanbench.summary import Line

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


def findings(lines: Iterable[Line]) -> list[Finding]:
    """Every claim on every model that the lines tell something of."""
    lines = list(lines)
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
    claim = f"W8A8 is lossless at every granularity (DSC drops by {LOSSLESS_PERCENT:.0f} % at most)"
    evidence = ", ".join(f"{line.granularity} {line.dsc_drop:.1f} %" for line in eight)
    return _finding(claim, model, _told(worst.dsc_drop <= LOSSLESS_PERCENT), evidence, eight)


def _collapses(model: str, lines: Lines) -> Finding | None:
    """Section 4.1: "under per-tensor INT4, these models show catastrophic degradation"."""
    line = lines.get(("W4A4", "per-tensor", "rtn"))
    if line is None:
        return None
    claim = f"W4A4 per tensor collapses (DSC drops by {COLLAPSED_PERCENT:.0f} % or more)"
    verdict = _told(line.dsc_drop >= COLLAPSED_PERCENT)
    return _finding(claim, model, verdict, f"{_dsc(line)}, a drop of {line.dsc_drop:.1f} %", [line])


def _finer_recovers(model: str, lines: Lines) -> Finding | None:
    """Section 4.1: "finer granularity significantly improves INT4 performance"."""
    coarse = lines.get(("W4A4", "per-tensor", "rtn"))
    finer = [lines.get(("W4A4", grain, "rtn")) for grain in ("per-channel/token", "adaptive")]
    finer = [line for line in finer if line is not None]
    if coarse is None or not finer:
        return None
    best = max(finer, key=lambda line: line.dsc)
    claim = f"Finer granularity recovers W4A4 (DSC gains {GAIN} or more, or all that was lost)"
    evidence = " against ".join((", ".join(f"{line.granularity} {_dsc(line)}" for line in finer), _dsc(coarse)))
    return _finding(claim, model, _recovery([(best, coarse)]), f"{evidence} per tensor", [coarse, *finer])


def _adaptive_is_best(model: str, lines: Lines) -> Finding | None:
    """Section 4.1: per-voxel scales for convolutions of size one "further enhance robustness"."""
    token, adaptive = (lines.get(("W4A4", grain, "rtn")) for grain in ("per-channel/token", "adaptive"))
    if token is None or adaptive is None or min(token.dsc_drop, adaptive.dsc_drop) >= COLLAPSED_PERCENT:
        return None  # of two ruins neither is better
    claim = f"Adaptive stratification is better than per-channel/token scales at W4A4 (by DSC {GAIN} or more)"
    gained = adaptive.dsc - token.dsc
    verdict: Verdict = "a tie" if abs(gained) < GAIN else _told(gained > 0)
    return _finding(claim, model, verdict, f"{_dsc(adaptive)} against {_dsc(token)}", [adaptive, token])


def _solver_recovers(model: str, lines: Lines) -> Finding | None:
    """Not the paper's: a solver for the weights under the paper's own granularities."""
    pairs = [
        (line, nearest)
        for line in _where(lines, lambda line: line.precision == "W4A4" and line.method not in ("rtn", PRODUCT))
        if (nearest := lines.get(("W4A4", line.granularity, "rtn"))) is not None
    ]
    if not pairs:
        return None
    claim = f"A better solver of the weights recovers W4A4 (DSC gains {GAIN} or more, or all that was lost)"
    evidence = ", ".join(
        f"{line.method} {line.granularity} {_dsc(line)} against {_dsc(nearest)}" for line, nearest in pairs
    )
    return _finding(claim, model, _recovery(pairs), evidence, [line for pair in pairs for line in pair])


def _product_recovers(model: str, lines: Lines) -> Finding | None:
    """Not the paper's: medquant's own recipe against the best of the paper's."""
    own = lines.get(("W4A4", "per-tensor", PRODUCT))
    published = _where(lines, lambda line: line.precision == "W4A4" and line.method == "rtn")
    if own is None or not published:
        return None
    best = max(published, key=lambda line: line.dsc)
    claim = f"medquant's recipe, per tensor, recovers W4A4 (DSC {GAIN} above the paper's best granularity, or FP32's)"
    evidence = f"{_dsc(own)} against {_dsc(best)} ({best.granularity})"
    return _finding(claim, model, _recovery([(own, best)]), evidence, [own, *published])


def _recovery(pairs: Sequence[tuple[Line, Line]]) -> Verdict:
    """Whether any line gained so much over the one before, or all that had been lost, where anything had."""
    pairs = [(line, before) for line, before in pairs if before.dsc_drop > LOSSLESS_PERCENT]
    if not pairs:
        return "nothing was lost"
    gains = [(line.dsc - before.dsc, line.dsc_drop <= LOSSLESS_PERCENT) for line, before in pairs]
    if any(gained >= GAIN or (gained > 0 and lossless) for gained, lossless in gains):
        return "holds"
    return "does not hold"


def _told(holds: bool) -> Verdict:
    return "holds" if holds else "does not hold"


def _finding(claim: str, model: str, verdict: Verdict, evidence: str, decided_by: Sequence[Line]) -> Finding:
    counts = sorted({line.cases for line in decided_by})
    scans = "1 scan" if counts == [1] else f"{' or '.join(map(str, counts))} scans"
    return Finding(claim, model, verdict, f"{evidence} ({scans})")


def _where(lines: Lines, wanted: Callable[[Line], bool]) -> list[Line]:
    return [line for line in lines.values() if wanted(line)]


def _dsc(line: Line) -> str:
    return f"{line.dsc:.3f}"

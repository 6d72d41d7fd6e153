"""The paper's tables of the results, in Markdown and as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from medquant.bench.medquanbench.findings import Finding
from medquant.bench.medquanbench.measure import TIMED_PASSES, TIMING_SECONDS
from medquant.bench.medquanbench.narrow import Part, deployment_parts, finding_parts, score_parts
from medquant.bench.medquanbench.plan import FP32, PRODUCT
from medquant.bench.medquanbench.summary import Line
from medquant.evaluation import wording
from medquant.files import atomic_path


@dataclass(frozen=True)
class Table:
    """Cells as they are shown; an empty first one stands for that above."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    parts: tuple[Part, ...]
    """The same for a terminal."""
    note: str = ""


def tables(lines: Sequence[Line], found: Sequence[Finding], found_by_fp32: float = 0.0) -> list[Table]:
    """Scores, size and latency, findings; those that have a row. `found_by_fp32` is that of `summarize`."""
    left_out = f" Structures that FP32 finds with a DSC below {found_by_fp32} are left out." if found_by_fp32 else ""
    made = (_scores(lines, _SIMULATED + left_out + _splits(lines)), _deployment(lines), _findings(found))
    return [table for table in made if table.rows]


def markdown(made: Sequence[Table]) -> str:
    """The tables as GitHub shows them."""
    return "\n\n".join(_markdown(table) for table in made) + "\n"


def write_tables(made: Sequence[Table], folder: Path) -> list[Path]:
    """`tables.md` and `tables.html` in `folder`; both stand alone."""
    environment = Environment(
        loader=PackageLoader("medquant.bench.medquanbench"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("tables.html").render(tables=made)
    written = []
    for name, text in (("tables.md", markdown(made)), ("tables.html", page)):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written


def _scores(lines: Sequence[Line], note: str) -> Table:
    """Table 1 of the paper, with a column for the method."""
    head = ("backbone", "network", "precision", "granularity", "method", "DSC (drop)", "spread", "NSD (drop)")
    head += ("bits", "cases", "structures")
    rows, before = [], None
    for line in lines:
        new, before = line.model != before, line.model
        rows.append(
            (
                line.backbone if new else "",
                line.model if new else "",
                line.precision,
                line.granularity,
                line.method,
                _with_drop(line.dsc, line.dsc_drop, line),
                "" if line.dsc_spread is None else f"{line.dsc_spread:.3f}",
                _with_drop(line.nsd, line.nsd_drop, line),
                f"{line.effective_bits:.1f}",
                str(line.cases),
                str(line.structures),
            )
        )
    return Table("Scores by precision and granularity", head, tuple(rows), score_parts(lines), note)


_SIMULATED = (
    "Means over cases, drops in per cent of FP32. spread: standard deviation of DSC between cases. Quantized rows are "
    "computed by PyTorch on rounded numbers, that is, simulated. bits: what is stored for each weight. rtn with a "
    "granularity is the paper's; medquant is this program's own recipe."
)


def _splits(lines: Sequence[Line]) -> str:
    found = list(dict.fromkeys(split for line in lines for split in line.splits))
    return f" Cases of the data set's split {' and '.join(found)}." if found else ""


def _with_drop(value: float, drop: float | None, line: Line) -> str:
    return f"{value:.3f}" if line.precision == FP32 or drop is None else f"{value:.3f} ({drop:.1f} %)"


def _deployment(lines: Sequence[Line]) -> Table:
    """Table 5 of the paper: size and latency of FP32 and of integers that run as integers."""
    head = ("network", "precision", "size (ratio)", "runtime", "device", "network's time (gain)", "DSC to PyTorch's")
    rows, full = [], {line.model: line for line in lines if line.precision == FP32}
    for line in lines:
        if line.precision != FP32 and line.method != PRODUCT:
            continue
        base = full[line.model]
        ratio = "" if line is base else f" ({base.bytes / line.bytes:.2f}{wording.TIMES})"
        rows.append(
            (
                line.model if line is base else "",
                line.precision,
                wording.size(line.bytes) + ratio,
                line.runtime or "none",
                line.place if line.runtime else "",
                _time(line, base),
                "" if line.runtime_dsc_change is None else f"{line.runtime_dsc_change:+.3f}",
            )
        )
    note = (
        "A gain stands only where one runtime computed FP32 and integers of the same cases on one kind of device, "
        "with as many threads. Quantized rows are medquant's recipe; the paper's scales are found on "
        f"each input, which is simulated. Time is that of the network alone on a case: the median of {TIMED_PASSES} "
        f"passes after one that does not count; where that one takes {TIMING_SECONDS:.0f} s or more, that one."
    )
    return Table(
        "Size and latency of what runs on integer kernels",
        head,
        tuple(rows),
        deployment_parts(lines),
        note + _reasons(lines),
    )


def _reasons(lines: Sequence[Line]) -> str:
    """Why a runtime computed nothing, of the lines of the table."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.no_runtime and (line.precision == FP32 or line.method == PRODUCT):
            found.setdefault(line.no_runtime, []).append(f"{line.model} {line.precision}")
    return "".join(f" No runtime for {', '.join(which)}: {why}" for why, which in found.items())


def _time(line: Line, base: Line) -> str:
    if line.runtime_seconds is None:
        return ""
    told, gain = wording.seconds(line.runtime_seconds), None if line is base else line.gain_over(base)
    return told if gain is None else f"{told} ({gain:.2f}{wording.TIMES})"


def _findings(found: Sequence[Finding]) -> Table:
    rows, before = [], None
    for finding in found:
        new, before = finding.claim != before, finding.claim
        rows.append((finding.claim if new else "", finding.model, finding.verdict, finding.evidence))
    head = ("claim", "network", "here", "figures")
    return Table("What the paper finds, on these models", head, tuple(rows), finding_parts(found))


def _markdown(table: Table) -> str:
    rows = [table.head, tuple("---" for _ in table.head), *table.rows]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    return "\n\n".join(filter(None, (f"### {table.title}", table.note, body)))

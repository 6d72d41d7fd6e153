"""Rows of cells brought together: the mean over the cases for each model and setting, and the drop from FP32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medquant.bench.medquanbench.plan import FP32


@dataclass(frozen=True)
class Line:
    """A line of the paper's tables."""

    model: str
    backbone: str
    precision: str
    granularity: str
    method: str
    cases: int
    structures: int
    """That count, by name, over all cases."""
    splits: tuple[str, ...]
    """Of the data set, that the cases are of; empty where they have none."""
    dsc: float
    dsc_spread: float | None
    """Standard deviation between cases; None of one case."""
    nsd: float
    dsc_drop: float | None
    """Per cent of FP32's; negative where it is better; None where FP32 has nothing to lose."""
    nsd_drop: float | None
    effective_bits: float
    bytes: int
    device: str | None
    """The name of what computed every case; None: several did."""
    threads: int | None
    seconds: float
    """Of the network on a case, computed by PyTorch; quantized ones are simulated there."""
    runtime: str | None
    """What computed it with kernels of its own, FP32 or integers; None: nothing could."""
    runtime_kind: str | None
    """ "openvino" or "tensorrt"."""
    runtime_seconds: float | None
    runtime_dsc_change: float | None
    """DSC there less that of PyTorch, over the same structures as `dsc`."""
    no_runtime: str | None
    """Why `runtime` is None, in a sentence."""
    by_case: dict[str, tuple[float, float]]
    """By `case_id`: DSC, and FP32's. Two lines may lack different cases, and compare on those that both have."""

    @property
    def place(self) -> str:
        """What computed it and with how many threads, in words."""
        if self.device is None or self.threads is None:
            return "several"
        return f"{self.device}, {self.threads} threads" if self.threads > 1 else f"{self.device}, 1 thread"

    def gain_over(self, full: Line) -> float | None:
        """How many times faster than FP32; None where a runtime did not compute both under the same conditions."""
        conditions = [(line.runtime_kind, line.device, line.threads, line.cases) for line in (self, full)]
        if conditions[0] != conditions[1] or None in conditions[0] or not self.runtime_seconds:
            return None
        return full.runtime_seconds / self.runtime_seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def summarize(rows: Sequence[dict[str, Any]], *, found_by_fp32: float = 0.0) -> list[Line]:
    """A line for each model and setting, in the order of the rows.

    Only cases that FP32 was run on count, and of these only structures that FP32 itself finds with a DSC of
    `found_by_fp32` at least: what was never found cannot be lost. A case is the mean of its structures.
    """
    full = {(row["model"], row["case_id"]): row for row in rows if row["precision"] == FP32}
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        kept = _kept(full.get((row["model"], row["case_id"])), found_by_fp32)
        scores = [score for score in row["structures"] if score["name"] in kept]
        if scores:
            counted = {name: float(np.mean([score[name] for score in scores])) for name in ("dsc", "nsd")}
            counted["counted"] = [score["name"] for score in scores]
            by_runtime = [score["dsc"] for score in row["runtime_structures"] or () if score["name"] in kept]
            counted["runtime_dsc_change"] = float(np.mean(by_runtime)) - counted["dsc"] if by_runtime else None
            group = (row["model"], row["precision"], row["granularity"], row["method"])
            groups.setdefault(group, []).append({**row, **counted})
    reference = {group[0]: members for group, members in groups.items() if group[1] == FP32}
    return [_line(members, reference[group[0]]) for group, members in groups.items() if group[0] in reference]


def _kept(full: dict[str, Any] | None, least: float) -> set[str]:
    return set() if full is None else {score["name"] for score in full["structures"] if score["dsc"] >= least}


def _line(members: list[dict[str, Any]], full: list[dict[str, Any]]) -> Line:
    first, cases = members[0], {row["case_id"] for row in members}
    # Where a part of the cells is still missing, FP32 is that of the cases which are there.
    full = [row for row in full if row["case_id"] in cases]
    by_full = {row["case_id"]: row["dsc"] for row in full}
    means = {name: (_mean(members, name), _mean(full, name)) for name in ("dsc", "nsd")}
    drops = {name: percent_lost(*both) if both[1] else None for name, both in means.items()}
    by_runtime = all(row["runtime"] for row in members)
    return Line(
        **{name: first[name] for name in ("model", "backbone", "precision", "granularity", "method")},
        cases=len(members),
        structures=len({name for row in members for name in row["counted"]}),
        device=_common(members, "processor"),
        threads=_common(members, "threads"),
        splits=tuple(dict.fromkeys(row["split"] for row in members if row["split"])),
        dsc=_mean(members, "dsc"),
        dsc_spread=float(np.std([row["dsc"] for row in members], ddof=1)) if len(members) > 1 else None,
        nsd=_mean(members, "nsd"),
        dsc_drop=drops["dsc"],
        nsd_drop=drops["nsd"],
        effective_bits=first["effective_bits"],
        bytes=first["bytes"],
        seconds=_mean(members, "seconds"),
        runtime=first["runtime"] if by_runtime else None,
        runtime_kind=_common(members, "runtime_kind") if by_runtime else None,
        runtime_seconds=_mean(members, "runtime_seconds") if by_runtime else None,
        runtime_dsc_change=_mean(members, "runtime_dsc_change") if by_runtime else None,
        no_runtime=next((row["no_runtime"] for row in members if not row["runtime"]), None),
        by_case={row["case_id"]: (row["dsc"], by_full[row["case_id"]]) for row in members},
    )


def percent_lost(value: float, full: float) -> float:
    """How much of FP32's, which is not 0, a value lacks; negative where it is better."""
    return 100.0 * (full - value) / full


def _common(rows: list[dict[str, Any]], name: str) -> Any:
    """What all rows have; None where they differ."""
    found = {row[name] for row in rows}
    return found.pop() if len(found) == 1 else None


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))

"""How fast each runtime executes each network, against PyTorch, the runtime's own FP32, and NNCF's INT8 model.

Every step has a process of its own, one after the other. Seconds are the median of one pass with the model ready, its
input and output in the processor's memory. Peak memory is that of a second start, imports and loading included, with
the compiled model in the cache as every start but the first finds it; on a GPU its own stands beside it. Masks
are those of an input that calibrated nothing; with random weights the classes are near ties, so their Dice is a lower
bound.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medquant.bench import nncf_peer
from medquant.bench.child import run_child, run_step
from medquant.bench.runtime_cases import CASES, REAL, Case, case_of, quantized_file
from medquant.deploy.runtime import RUNTIMES
from medquant.errors import UserError
from medquant.evaluation.metrics import mean_dice
from medquant.progress import CancelCheck, Progress, ProgressCallback

CONTENDERS = (
    ("pytorch", "fp32"),
    ("pytorch", "bf16"),
    ("pytorch-compiled", "fp32"),
    ("pytorch-compiled", "bf16"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("tensorrt", "fp32"),
    ("tensorrt", "bf16"),
    ("tensorrt", "int8"),
)
PEER = "nncf"
RUNTIMES_ON = {"cpu": ("pytorch", "openvino"), "cuda": ("pytorch", "tensorrt")}
"""What is measured where nobody chose."""


def run(
    *,
    networks: Sequence[str] = (),
    data: Path | None = None,
    runtimes: Sequence[str] = (),
    device: str = "cpu",
    threads: int = 2,
    nncf_python: Path | None = None,
    folder: Path | None = None,
    float_share: float | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> list[dict[str, Any]]:
    """One row for each network and contender, PyTorch in FP32 first.

    `nncf_python`: an interpreter that has nncf and openvino; without it the peer's row says that it is absent. A
    contender that fails has its reason in the row. `networks`: none means all; `data` is the folder of real scans and
    weights, for the one that has them. `runtimes`: none means `RUNTIMES_ON` the device. `device`: "cpu" or
    "cuda". `folder`: keeps quantized and compiled models for another run; None keeps nothing. `float_share`: the part
    of the arithmetic that the network of real weights has in floating point; 0: none; None: as `bench quality` has it.
    Raises `UserError` for another share, networks, runtimes and devices that are not known, and a GPU that is not
    there.
    """
    networks = networks or (*CASES, *([] if data is None else [REAL]))
    cases = {name: case_of(name, data, float_share) for name in networks}
    for chosen, known in ((runtimes, RUNTIMES), ([device], RUNTIMES_ON)):
        if unknown := [name for name in chosen if name not in known]:
            raise UserError(f"There is no {', '.join(unknown)} here. Choose among {', '.join(known)}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "PyTorch finds no NVIDIA GPU on this machine. Use --device cpu, or install a PyTorch for CUDA where there "
            "is one."
        )
    tracker = Progress(progress, cancelled)
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for number, (name, case) in enumerate(cases.items()):
            part = tracker.span(number / len(cases), (number + 1) / len(cases))
            share = float_share if name == REAL else None
            bench = _Bench(name, case, folder, device, threads, nncf_python, part, data, share)
            rows += bench.rows(runtimes or RUNTIMES_ON[device])
    return rows


@dataclass
class _Bench:
    """One network's rows under way."""

    name: str
    case: Case
    folder: Path
    device: str
    threads: int
    nncf_python: Path | None
    tracker: Progress
    data: Path | None = None
    float_share: float | None = None

    def rows(self, runtimes: Sequence[str]) -> list[dict[str, Any]]:
        wanted = [one for one in CONTENDERS if one[0] in runtimes and (one[1] != "int8" or self.case.quantized)]
        rows: list[dict[str, Any]] = []
        model = self.case.build()
        truth: torch.Tensor | None = None
        peers = [(PEER, "int8")] if self.case.quantized and "openvino" in runtimes and self.device == "cpu" else []
        for number, (runtime, precision) in enumerate(wanted + peers):
            self.tracker.report(number / len(wanted + peers), f"{self.case.title}: {runtime} {precision}")
            row: dict[str, Any] = {"network": self.case.title, "runtime": runtime, "precision": precision}
            row["device"] = self.device
            try:
                row |= self._measured(runtime, precision)
                output = torch.from_numpy(np.load(self.folder / "output.npy"))
                mask = self.case.mask(model, output)
                truth = mask if truth is None else truth
                row["dsc_vs_fp32"] = mean_dice(mask.numpy(), truth.numpy())
            except UserError as error:
                row["note"] = str(error)
            rows.append(_with_speedups(row, rows))
            rows[-1] |= _told(rows[-1])
        return rows

    def _measured(self, runtime: str, precision: str) -> dict[str, Any]:
        if runtime == PEER:
            return self._nncf()
        known = RUNTIMES[runtime]
        if known.version() is None or precision not in known.precisions(self.device):
            raise UserError("absent: not installed, or this machine lacks the precision. Install it to have this row.")
        if self.device not in (name.lower() for name in known.devices()):
            raise UserError(f"absent: {runtime} does not run on {self.device} here. Choose another --device for it.")
        facts: dict[str, Any] = {"version": known.version()}
        job = {"step": "time", "runtime": runtime, "precision": precision}
        if precision == "int8":
            target = quantized_file(self.folder, self.name, self.float_share)
            job["quantized"] = str(target)
            made = self._once(target, lambda: self._step({**job, "step": "quantize"}))
            facts["quantize_seconds"] = made.get("seconds")
            facts["beyond_peer"] = made.get("beyond_peer") or None
        if not runtime.startswith("pytorch"):  # compiles; the second start finds it in the cache
            facts["first_start_seconds"] = self._step({**job, "prepare": True})["start_seconds"]
        return facts | self._step(job)

    def _nncf(self) -> dict[str, Any]:
        if self.nncf_python is None:
            raise UserError("absent: no interpreter with nncf was given. Give one with --nncf-python.")
        paths = {name: str(self.folder / f"{self.name}.{name}") for name in ("fp32.xml", "npz", "nncf.xml")}

        def quantized() -> dict[str, Any]:
            self._step({"step": "export", "exported": paths["fp32.xml"], "inputs": paths["npz"]})
            kind = ["transformer"] if self.case.transformer else []
            files = [paths["fp32.xml"], paths["npz"], paths["nncf.xml"]]
            command = [str(self.nncf_python), nncf_peer.__file__, *files, *kind]
            child = run_child(command, self.folder, self.tracker.check, name="It", threads=self.threads)
            return json.loads(child.printed.splitlines()[-1])

        told = self._once(Path(paths["nncf.xml"]), quantized)
        found = self._step({"step": "time", "runtime": PEER, "precision": "int8", "peer": paths["nncf.xml"]})
        return {"version": told.get("version"), "quantize_seconds": told.get("seconds"), **found}

    def _once(self, target: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is told by making the file `target`, now or in an earlier run with the same folder."""
        told = target.with_suffix(".told.json")
        if not target.is_file():
            told.write_text(json.dumps(make()), encoding="utf-8")
        return json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}

    def _step(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do one step in a process of its own; what it answers, and its memory."""
        places = {"cache": str(self.folder / "cache"), "output": str(self.folder / "output.npy")}
        places |= {} if self.data is None else {"data": str(self.data)}
        share = {} if self.float_share is None else {"float_share": self.float_share}
        job = {**job, **places, **share, "case": self.name, "device": self.device, "threads": self.threads}
        found, peak = run_step("medquant.bench.runtime_worker", job, self.folder, self.tracker.check, name="It")
        return {**found, "peak_memory_mb": peak}


def _told(row: dict[str, Any]) -> dict[str, str]:
    """What is to be said of a row that was measured."""
    said = [row["note"]] if "note" in row else []
    if (row["speedup_vs_runtime_fp32"] or 1.0) < 1.0:
        said.append("slower than FP32 in this runtime on this machine")
    products = row.get("quantized_products", 0), row.get("integer_products", 0)
    layers = row.get("layers", 0), row.get("integer_layers", 0)
    for what, (count, on_integers) in (("layers", layers), ("products of attention", products)):
        if on_integers < count:
            said.append(f"{count - on_integers} of {count} {what} in floating point")
    return {"note": "; ".join(said)} if said else {}


def _with_speedups(row: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """The row with every column, compared with the FP32 rows of its network that came before it."""
    runtime = "openvino" if row["runtime"] == PEER else row["runtime"]
    fp32 = {one["runtime"]: one["seconds"] for one in [*before, row] if one["precision"] == "fp32" and "seconds" in one}
    seconds = row.get("seconds")
    columns = {
        "seconds": seconds,
        "speedup_vs_pytorch_fp32": fp32["pytorch"] / seconds if seconds and fp32.get("pytorch") else None,
        "speedup_vs_runtime_fp32": fp32[runtime] / seconds if seconds and fp32.get(runtime) else None,
        **dict.fromkeys(("peak_memory_mb", "dsc_vs_fp32", "simulated")),
    }
    return {**columns, **{key: value for key, value in row.items() if value is not None}}

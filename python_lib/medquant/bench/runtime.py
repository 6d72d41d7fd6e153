"""How fast each runtime executes each network, against PyTorch, the runtime's own FP32, and NNCF's INT8 model.

Every step has a process of its own, one after the other. Seconds are the median of one pass with the model ready. Peak
memory is that of a second start, imports and loading included, with the compiled model in the cache as every start but
the first finds it. Masks are those of an input that calibrated nothing; with random weights the classes are near ties,
so their Dice is a lower bound.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medquant.bench import nncf_peer
from medquant.bench.runtime_cases import CASES, Case, quantized_file
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
    ("tensorrt", "int8"),
)
PEER = "nncf"


def run(
    *,
    networks: Sequence[str] = tuple(CASES),
    runtimes: Sequence[str] = ("pytorch", "openvino"),
    threads: int = 2,
    nncf_python: Path | None = None,
    folder: Path | None = None,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> list[dict[str, Any]]:
    """One row for each network and contender, PyTorch in FP32 first.

    `nncf_python`: an interpreter that has nncf and openvino; without it the peer's row says that it is absent. A
    contender that fails has its reason in the row. `folder`: keeps quantized and compiled models for another run; None
    keeps nothing. Raises `UserError` for networks and runtimes that are not known.
    """
    for chosen, known in ((networks, CASES), (runtimes, RUNTIMES)):
        if unknown := [name for name in chosen if name not in known]:
            raise UserError(f"There is no {', '.join(unknown)} here. Choose among {', '.join(known)}.")
    tracker = Progress(progress, cancelled)
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(networks):
            part = tracker.span(number / len(networks), (number + 1) / len(networks))
            rows += _Bench(name, CASES[name], folder, threads, nncf_python, part).rows(runtimes)
    return rows


@dataclass
class _Bench:
    """One network's rows under way."""

    name: str
    case: Case
    folder: Path
    threads: int
    nncf_python: Path | None
    tracker: Progress

    def rows(self, runtimes: Sequence[str]) -> list[dict[str, Any]]:
        wanted = [one for one in CONTENDERS if one[0] in runtimes and (one[1] != "int8" or self.case.quantized)]
        rows: list[dict[str, Any]] = []
        model = self.case.build()
        truth: torch.Tensor | None = None
        peers = [(PEER, "int8")] if self.case.quantized and "openvino" in runtimes else []
        for number, (runtime, precision) in enumerate(wanted + peers):
            self.tracker.report(number / len(wanted + peers), f"{self.case.title}: {runtime} {precision}")
            row: dict[str, Any] = {"network": self.case.title, "runtime": runtime, "precision": precision}
            try:
                row |= self._measured(runtime, precision)
                output = torch.from_numpy(np.load(self.folder / "output.npy"))
                mask = self.case.mask(model, output)
                truth = mask if truth is None else truth
                row["dsc_vs_fp32"] = mean_dice(mask.numpy(), truth.numpy())
            except UserError as error:
                row["note"] = str(error)
            rows.append(_with_speedups(row, rows))
            if (rows[-1]["speedup_vs_runtime_fp32"] or 1.0) < 1.0:
                rows[-1].setdefault("note", "slower than FP32 in this runtime on this machine")
        return rows

    def _measured(self, runtime: str, precision: str) -> dict[str, Any]:
        if runtime == PEER:
            return self._nncf()
        known = RUNTIMES[runtime]
        if known.version() is None or precision not in known.precisions():
            raise UserError("absent: not installed, or this machine lacks the precision. Install it to have this row.")
        facts: dict[str, Any] = {"version": known.version()}
        job = {"step": "time", "runtime": runtime, "precision": precision}
        if precision == "int8":
            target = quantized_file(self.folder, self.name)
            job["quantized"] = str(target)
            if not target.is_file():
                facts["quantize_seconds"] = self._step({**job, "step": "quantize"})["seconds"]
        if not runtime.startswith("pytorch"):  # compiles; the second start finds it in the cache
            facts["first_start_seconds"] = self._step({**job, "prepare": True})["start_seconds"]
        return facts | self._step(job)

    def _nncf(self) -> dict[str, Any]:
        if self.nncf_python is None:
            raise UserError("absent: no interpreter with nncf was given. Give one with --nncf-python.")
        paths = {name: str(self.folder / f"{self.name}.{name}") for name in ("fp32.xml", "npz", "nncf.xml")}
        told = {}
        if not Path(paths["nncf.xml"]).is_file():
            self._step({"step": "export", "exported": paths["fp32.xml"], "inputs": paths["npz"]})
            kind = ["transformer"] if self.case.transformer else []
            files = [paths["fp32.xml"], paths["npz"], paths["nncf.xml"]]
            printed = self._run([str(self.nncf_python), nncf_peer.__file__, *files, *kind])
            told = json.loads(printed.splitlines()[-1])
        found = self._step({"step": "time", "runtime": PEER, "precision": "int8", "peer": paths["nncf.xml"]})
        return {"version": told.get("version"), "quantize_seconds": told.get("seconds"), **found}

    def _step(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do one step in a process of its own; what it answers."""
        file, answer = self.folder / "job.json", self.folder / "answer.json"
        answer.unlink(missing_ok=True)
        shared = {"case": self.name, "threads": self.threads, "answer": str(answer)}
        places = {"cache": str(self.folder / "cache"), "output": str(self.folder / "output.npy")}
        file.write_text(json.dumps({**job, **shared, **places}), encoding="utf-8")
        self._run([sys.executable, "-m", "medquant.bench.runtime_worker", str(file)])
        if not answer.is_file():
            raise UserError("The process gave no answer. See whether the memory sufficed.")
        return json.loads(answer.read_text(encoding="utf-8"))

    def _run(self, command: list[str]) -> str:
        """Run a process to its end, or to the user's wish to stop; what it printed."""
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        printed, errors = self.folder / "printed.txt", self.folder / "errors.txt"
        with printed.open("w") as out, errors.open("w") as err:
            try:
                child = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
            except OSError as error:
                raise UserError(f"{command[0]} cannot be started ({error.strerror}). Give another one.") from error
            try:
                while child.poll() is None:
                    self.tracker.check()
                    time.sleep(0.05)
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        if child.returncode:
            last = [line for line in errors.read_text(errors="replace").splitlines() if line.strip()][-1:]
            raise UserError(f"It failed ({''.join(last)}). Leave it out, or see what it needs.")
        return printed.read_text(errors="replace")


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

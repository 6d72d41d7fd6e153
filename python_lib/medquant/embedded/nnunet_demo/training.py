"""Trains the demonstration nnU-Net from nothing: draw phantoms, let nnunetv2 do the rest, keep what inference needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from medquant.embedded.nnunet_demo.checkpoint import collect_results
from medquant.embedded.nnunet_demo.dataset import write_dataset
from medquant.embedded.nnunet_demo.layout import CONFIGURATION, DATASET, FIRST_TRAINING_SEED, PLANS
from medquant.errors import UserError
from medquant.models.weight_files import numpy_types, read_checkpoint
from medquant.progress import Progress, ProgressCallback

VALIDATION_CASES = 2  # watched during training only; the reported figures are from other seeds


def train(
    output: Path,
    *,
    cases: int = 36,
    epochs: int = 80,
    iterations: int = 25,
    seed: int = 0,
    threads: int = 2,
    work: Path | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Train on `cases` phantoms and write `<output>/Dataset900_PhantomAbdomen/nnUNetTrainer__...`.

    Parameters
    ----------
    output: folder that receives the results folder (at most 10 MB).
    cases: number of phantoms, seeds from 1000 on; two more are watched during training.
    epochs, iterations: length of the training; nnunetv2's learning rate schedule spans it.
    seed: of the initial weights and of the patches drawn.
    work: where phantoms, preprocessed cases and checkpoints go; a folder given here is reused, so that an interrupted
        training resumes: with its phantoms, and a checkpoint that holds data only. A temporary one by default.
    progress: told what is being done and how far it is.

    Returns the model folder, ready for nnunetv2's predictor. Raises `UserError` when nnunetv2 fails, and for a
    checkpoint that could run code.
    """
    reporter = Progress(progress)
    if work is not None:
        return _train_in(Path(work), Path(output), cases, epochs, iterations, seed, threads, reporter)
    with tempfile.TemporaryDirectory(prefix="medquant-nnunet-") as folder:
        return _train_in(Path(folder), Path(output), cases, epochs, iterations, seed, threads, reporter)


def _train_in(
    work: Path, output: Path, cases: int, epochs: int, iterations: int, seed: int, threads: int, progress: Progress
) -> Path:
    raw, trained = work / "raw" / DATASET, work / "results" / DATASET / f"ShortTrainer__{PLANS}__{CONFIGURATION}"
    # What nnunetv2 loads again, it unpickles, and a folder may come from elsewhere: its checkpoint is read here first,
    # without running anything, and its preprocessed cases are made anew.
    latest = trained / "fold_0" / "checkpoint_latest.pth"
    if latest.exists():
        read_checkpoint(latest, allowed=numpy_types())
    shutil.rmtree(work / "preprocessed" / DATASET, ignore_errors=True)
    split_file = work / "split.json"
    if not split_file.exists():
        seeds = list(range(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + cases + VALIDATION_CASES))
        names = write_dataset(raw, seeds, progress.span(0.0, 0.15), threads)
        split_file.write_text(json.dumps({"train": names[:cases], "val": names[cases:]}), encoding="utf-8")
    job = {
        "preprocessed": str(work / "preprocessed"),
        "split": json.loads(split_file.read_text(encoding="utf-8")),
        "epochs": epochs,
        "iterations": iterations,
        "seed": seed,
        "threads": threads,
        "processes": threads,
    }
    _run_worker(work, job, progress.span(0.15, 0.99))
    model = collect_results(trained, output / DATASET)
    progress.report(1.0, "Network trained")
    return model


def _run_worker(work: Path, job: dict, progress: Progress) -> None:
    environment = os.environ | {f"nnUNet_{part}": str(work / part) for part in ("raw", "preprocessed", "results")}
    # One process augments while the other trains.
    environment |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": str(job["processes"]), "nnUNet_compile": "false"}
    for part in ("preprocessed", "results"):
        (work / part).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "medquant.embedded.nnunet_demo.worker", json.dumps(job)]
    progress.report(0.0, "Preprocessing")
    log = work / "nnunet.log"
    with (
        log.open("a", encoding="utf-8") as record,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=record, text=True) as process,
    ):
        try:
            for line in process.stdout:
                record.write(line)
                if line.startswith('{"epoch"'):
                    state = json.loads(line)
                    progress.report(state["epoch"] / state["of"], f"Training epoch {state['epoch']} of {state['of']}")
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        reason = last[0] if last else f"exit code {process.returncode}"
        raise UserError(f"nnunetv2 stopped while training ({reason}). Its messages are in {log}.")

"""One engine from file to file, in a process of its own so that its memory is its own.

Called as `python -m medquant.bench.pipeline_engine JOB.json`; writes the seconds of each stage to the job's answer.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Stages = dict[str, float]


def run_nnunetv2(job: dict[str, Any]) -> Stages:
    """nnunetv2's own predictor as its documentation calls it, without worker processes, which take more memory."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    began = time.perf_counter()
    predictor = nnUNetPredictor(use_mirroring=job["mirroring"], device=torch.device("cpu"), allow_tqdm=False)
    folds = tuple(int(fold) if fold.isdigit() else fold for fold in job["folds"])
    predictor.initialize_from_trained_model_folder(job["weights"], folds, "checkpoint_final.pth")
    stages = {"model": time.perf_counter() - began}
    network = predictor.predict_logits_from_preprocessed_data
    marks: list[float] = []

    def timed(data: torch.Tensor) -> torch.Tensor:
        marks.append(time.perf_counter())
        logits = network(data)
        marks.append(time.perf_counter())
        return logits

    predictor.predict_logits_from_preprocessed_data = timed
    began = time.perf_counter()
    mask = job["mask"].removesuffix(predictor.dataset_json["file_ending"])
    predictor.predict_from_files_sequential([[job["scan"]]], [mask], overwrite=True)
    ended = time.perf_counter()
    return stages | {
        "load, preprocess": marks[0] - began,
        "network": marks[1] - marks[0],
        "resample, write": ended - marks[1],
    }


def run_medquant(job: dict[str, Any]) -> Stages:
    """The same as `medquant segment` does it."""
    from medquant.imaging.reading import read_volume
    from medquant.imaging.writing import save_segmentation
    from medquant.models.registry import load_model
    from medquant.segment import segment

    began = time.perf_counter()
    options = {} if Path(job["weights"]).is_file() else {"mirroring": job["mirroring"]}
    model = load_model(job["weights"], device="cpu", **options)
    if job["runtime"] != "pytorch":
        from medquant.deploy.accelerate import accelerate

        model = accelerate(model, job["runtime"], precision=job["precision"])
    loaded = time.perf_counter()
    if job["only_prepare"]:
        return {"model": loaded - began}
    volume = read_volume(job["scan"])
    read = time.perf_counter()
    found = segment(model, volume)
    done = time.perf_counter()
    save_segmentation(found, job["mask"])
    written = time.perf_counter()
    stages = {"model": loaded - began, "load": read - loaded, **found.stages, "write": written - done}
    stages["rest"] = written - loaded - sum(s for name, s in stages.items() if name != "model")
    return stages


ENGINES: dict[str, Callable[[dict[str, Any]], Stages]] = {"nnunetv2": run_nnunetv2, "medquant": run_medquant}


def main(path: str) -> None:
    """Do the job that the file tells."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    if job["threads"]:
        import torch

        torch.set_num_threads(job["threads"])
    stages = ENGINES[job["engine"]](job)
    Path(job["answer"]).write_text(json.dumps(stages), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])

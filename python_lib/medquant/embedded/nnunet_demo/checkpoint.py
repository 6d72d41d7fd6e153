"""Cuts a training checkpoint down to what inference needs, in types that load without running code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from medquant.embedded.nnunet_demo.layout import MODEL
from medquant.models.weight_files import numpy_types, read_checkpoint

COMPANIONS = ("plans.json", "dataset.json", "dataset_fingerprint.json")


def strip_checkpoint(source: Path, target: Path) -> None:
    """Keeps weights (float32, as trained) and the plain facts that nnunetv2's predictor reads; the optimizer goes.

    `target` loads with `weights_only=True`. Raises `UserError` where `source` could run code.
    """
    kept = read_checkpoint(source, allowed=numpy_types())
    # nnunetv2 names shared tensors several times; kept as they are, they are stored once.
    weights = {name: value.detach() for name, value in kept["network_weights"].items()}
    torch.save(
        {
            "network_weights": weights,
            "init_args": {name: kept["init_args"][name] for name in ("configuration", "fold")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": kept["inference_allowed_mirroring_axes"],
            "current_epoch": int(kept["current_epoch"]),
        },
        target,
    )


def collect_results(trained: Path, output: Path) -> Path:
    """Copies a finished training folder into `output` in nnunetv2's layout; returns the model folder."""
    model = output / MODEL
    staging = output / f".{MODEL}.part"
    shutil.rmtree(staging, ignore_errors=True)
    (staging / "fold_0").mkdir(parents=True)
    for name in COMPANIONS:
        content = json.loads((trained / name).read_text(encoding="utf-8"))
        (staging / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    strip_checkpoint(trained / "fold_0" / "checkpoint_final.pth", staging / "fold_0" / "checkpoint_final.pth")
    shutil.rmtree(model, ignore_errors=True)
    staging.replace(model)
    return model

"""nnunetv2's own predictor on a results folder, without its unpickling."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import torch

from medquant.embedded.nnunet_demo.layout import CONFIGURATION


def load_predictor(model: Path):
    """An `nnUNetPredictor` on the processor, with the weights of `fold_0`."""
    # nnunetv2 prints about environment variables that prediction does not need.
    with contextlib.redirect_stdout(io.StringIO()):
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    plans = PlansManager(json.loads((model / "plans.json").read_text(encoding="utf-8")))
    description = json.loads((model / "dataset.json").read_text(encoding="utf-8"))
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=True)
    configuration = plans.get_configuration(CONFIGURATION)
    network = nnUNetTrainer.build_network_architecture(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        plans.get_label_manager(description).num_segmentation_heads,
        enable_deep_supervision=False,
    )
    network.load_state_dict(checkpoint["network_weights"])
    predictor.manual_initialization(
        network, plans, configuration, [checkpoint["network_weights"]], description, checkpoint["trainer_name"], None
    )
    return predictor


def predict(predictor, image: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Labels (k, j, i) of a CT whose axes run superior, posterior, left; `spacing` in mm, (k, j, i)."""
    turned = np.ascontiguousarray(image[None, :, ::-1, ::-1], dtype=np.float32)  # the plans ask for RAS
    with contextlib.redirect_stdout(io.StringIO()):
        labels = predictor.predict_single_npy_array(turned, {"spacing": list(spacing)}, None, None, False)
    return np.ascontiguousarray(labels[:, ::-1, ::-1])

"""The process in which nnunetv2 plans, preprocesses and trains; it alone sees nnunetv2's environment variables.

Run by `training.train` as `python -m medquant.embedded.nnunet_demo.worker <json>`.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import torch

from medquant.embedded.nnunet_demo.layout import CONFIGURATION, DATASET, PLANS, TARGET_SPACING, shrink_plans


def prepare(preprocessed: Path, processes: int) -> None:
    """nnunetv2's fingerprint, plans (made small) and preprocessing."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    api.extract_fingerprints([900], num_processes=processes)
    api.plan_experiments([900], overwrite_target_spacing=TARGET_SPACING, overwrite_plans_name=PLANS)
    file = preprocessed / DATASET / f"{PLANS}.json"
    file.write_text(json.dumps(shrink_plans(json.loads(file.read_text(encoding="utf-8"))), indent=2), encoding="utf-8")
    api.preprocess([900], PLANS, (CONFIGURATION,), num_processes=[processes])


def as_float(output):
    return [level.float() for level in output] if isinstance(output, (list, tuple)) else output.float()


def drop_broken_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Skips a step whose gradients overflowed: rare in bfloat16, and one is enough to lose the network."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not all(bool(torch.isfinite(p.grad).all()) for p in parameters):
        optimizer.zero_grad(set_to_none=True)


def make_trainer(preprocessed: Path, epochs: int, iterations: int):
    """nnunetv2's trainer with AdamW (its own variant), made short; left and right are not mirrored."""
    from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam1en3

    class ShortTrainer(nnUNetTrainerAdam1en3):
        def __init__(self, plans, configuration, fold, dataset_json, device):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.num_epochs = epochs
            self.num_iterations_per_epoch = iterations
            self.num_val_iterations_per_epoch = 1
            # Most patches hold an organ, each as often as any other: small ones are seen in a short training too.
            self.probabilistic_oversampling = True
            self.oversample_foreground_percent = 0.8
            self.save_every = 5

        def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
            _, _, initial, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
            self.inference_allowed_mirroring_axes = None  # the liver is on one side only
            small_angle = (-np.pi / 12, np.pi / 12)
            return small_angle, False, initial, None

        def initialize(self):
            super().initialize()
            # Whatever the network computes in, the loss sums over millions of voxels in float32.
            self.network.register_forward_hook(lambda module, inputs, output: as_float(output))
            self.optimizer.register_step_pre_hook(lambda optimizer, *_: drop_broken_gradients(optimizer))

        def train_step(self, batch):
            # On a processor nnunetv2 trains in float32; bfloat16 takes less than half the time.
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cpu"):
                return super().train_step(batch)

        def on_epoch_end(self):
            super().on_epoch_end()
            print(json.dumps({"epoch": self.current_epoch, "of": epochs}), file=sys.__stdout__, flush=True)

    folder = preprocessed / DATASET
    plans = json.loads((folder / f"{PLANS}.json").read_text(encoding="utf-8"))
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return ShortTrainer(plans, CONFIGURATION, 0, description, device)


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    random.seed(job["seed"])
    np.random.seed(job["seed"])  # noqa: NPY002 - nnunetv2 draws from numpy's global state
    torch.manual_seed(job["seed"])
    preprocessed = Path(job["preprocessed"])
    prepare(preprocessed, job["processes"])
    (preprocessed / DATASET / "splits_final.json").write_text(json.dumps([job["split"]]), encoding="utf-8")
    trainer = make_trainer(preprocessed, job["epochs"], job["iterations"])
    latest = Path(trainer.output_folder) / "checkpoint_latest.pth"
    if latest.exists():
        trainer.load_checkpoint(str(latest))  # `training.train` has seen that it holds nothing but data
    trainer.run_training()


if __name__ == "__main__":
    main()

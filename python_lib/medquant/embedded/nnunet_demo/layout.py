"""Names that nnunetv2 expects, and the plan of the demonstration network."""

from __future__ import annotations

DATASET = "Dataset900_PhantomAbdomen"
PLANS = "nnUNetPlans"
CONFIGURATION = "3d_fullres"
MODEL = f"nnUNetTrainer__{PLANS}__{CONFIGURATION}"

# Phantoms are drawn at this grid, and resampled by nnunetv2 to its target spacing; both (k, j, i).
PHANTOM_SHAPE, PHANTOM_SPACING = (60, 256, 256), (3.0, 1.5, 1.5)
TARGET_SPACING = (3.0, 2.25, 2.25)
PATCH = (32, 80, 96)

# Seeds 900 and above 999 are never the demonstration's own scan (seed 0).
FIRST_TRAINING_SEED, FIRST_TEST_SEED = 1000, 900

FEATURES = (12, 24, 48, 96, 128)
# One convolution at full resolution on either side: that is where the time goes.
ENCODER_CONVOLUTIONS, DECODER_CONVOLUTIONS = (1, 2, 2, 2, 2), (2, 2, 2, 1)


def shrink_plans(plans: dict) -> dict:
    """nnunetv2's own plans, cut down to one small full-resolution configuration."""
    configuration = dict(plans["configurations"][CONFIGURATION])
    architecture = dict(configuration["architecture"])
    stages = len(FEATURES)
    architecture["arch_kwargs"] = {
        **architecture["arch_kwargs"],
        "n_stages": stages,
        "features_per_stage": list(FEATURES),
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_conv_per_stage": list(ENCODER_CONVOLUTIONS),
        "n_conv_per_stage_decoder": list(DECODER_CONVOLUTIONS),
    }
    configuration |= {"patch_size": list(PATCH), "batch_size": 1, "batch_dice": False, "architecture": architecture}
    return {**plans, "configurations": {CONFIGURATION: configuration}}

"""Fixtures that every room shares."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# A busy machine is no failure: properties have no deadline.
settings.register_profile("medquant", deadline=None)
settings.load_profile("medquant")

CHECKOUT = Path(__file__).resolve().parents[1]


def _test_data_folder() -> Path:
    return Path(os.environ.get("MEDQUANT_TEST_DATA", CHECKOUT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real scans and weights; a missing one skips, or fails where the data are required."""
    folder = _test_data_folder()
    if not folder.is_dir():
        reason = f"real scans and weights not found at {folder}; set MEDQUANT_TEST_DATA"
        if os.environ.get("MEDQUANT_REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny_sam() -> Callable[[], Any]:
    """Makes a real SAM of transformers with a few thousand weights, the library's own start, seeded."""

    def make() -> Any:
        import torch
        from transformers import SamConfig, SamModel

        torch.manual_seed(0)
        wide, heads = {"hidden_size": 16}, {"num_attention_heads": 2, "num_hidden_layers": 2, "mlp_dim": 32}
        vision = wide | heads | {"image_size": 64, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1]}
        vision |= {"output_channels": 16, "num_pos_feats": 8}
        prompt = wide | {"image_size": 64, "patch_size": 8, "image_embedding_size": 8, "mask_input_channels": 8}
        decoder = wide | heads | {"iou_head_hidden_dim": 16, "iou_head_depth": 2}
        config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
        return SamModel(config)

    return make

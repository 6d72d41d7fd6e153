"""Small random networks and small scans for the tests of the model adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from transformers import SamConfig, SamModel

from medquant.imaging.volume import Volume
from medquant.models.prompt_images import SlicePreprocessing
from medquant.models.sam import SamModelAdapter


def _small_config(size: int = 64) -> SamConfig:
    return SamConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mlp_dim": 48,
            "image_size": size,
            "patch_size": 8,
            "window_size": 3,
            "global_attn_indexes": [1],
            "output_channels": 32,
            "num_pos_feats": 16,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": size, "patch_size": 8},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 40, "iou_head_hidden_dim": 24, "num_attention_heads": 2},
    )


def _small_network(seed: int = 0, size: int = 64) -> SamModel:
    """Random, with masks that depend on the picture and on the box and are neither empty nor full."""
    torch.manual_seed(seed)
    model = SamModel(_small_config(size)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or "embed" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(
            model.shared_image_embedding.positional_embedding
        )
    return model


def _small_adapter(settings: SlicePreprocessing, seed: int = 0) -> SamModelAdapter:
    network = _small_network(seed, settings.image_size)
    spec = {
        "family": "medsam",
        "name": "small",
        "config": network.config.to_dict(),
        "preprocessing": settings.to_dict(),
    }
    return SamModelAdapter(network, preprocessing=settings, name="small", spec=spec, weights_hash="0" * 64)


def _blob_ct(shape: tuple[int, int, int] = (5, 40, 52), affine: np.ndarray | None = None) -> Volume:
    """A CT with a body, an organ and texture."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    rng = np.random.default_rng(1)
    body = ((j - 20) / 17) ** 2 + ((i - 26) / 23) ** 2 < 1
    organ = ((j - 16) / 7) ** 2 + ((i - 18) / 9) ** 2 + ((k - 2) / 3) ** 2 < 1
    array = np.where(body, 40, -1000) + np.where(organ, 80, 0) + rng.normal(0, 15, shape)
    affine = np.diag([1.0, 1.0, 4.0, 1.0]) if affine is None else affine
    return Volume(array.astype(np.int16), affine, modality="CT")


@pytest.fixture(scope="session")
def small_adapter() -> Callable[..., SamModelAdapter]:
    """Makes a box-prompted model of a few thousand random weights, (settings, seed) -> adapter."""
    return _small_adapter


@pytest.fixture(scope="session")
def blob_ct() -> Callable[..., Volume]:
    """Makes a small CT, (shape, affine) -> volume."""
    return _blob_ct


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks of a few thousand weights are slower on several threads, much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

"""Attention in chunks gives the numbers of transformers' own."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import SamModel

from medquant.models import sam_attention
from medquant.models.sam_attention import ChunkedAttention, attend_in_chunks


@pytest.mark.parametrize("cells", [1, 7 * 64, 64 * 64, 5 * 64 * 64, 2**21])
@pytest.mark.parametrize("rel_pos", [True, False])
def test_equals_the_whole_map(small_sam: SamModel, cells: int, rel_pos: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam_attention, "CELLS", cells)
    encoder = small_sam.vision_encoder
    generator = torch.Generator().manual_seed(1)
    for layer in encoder.layers:
        layer.attn.use_rel_pos = rel_pos
        for position in (layer.attn.rel_pos_h, layer.attn.rel_pos_w):
            position.data = torch.randn(position.shape, generator=generator)
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    chunked = copy.deepcopy(encoder)
    attend_in_chunks(chunked)
    assert all(isinstance(layer.attn, ChunkedAttention) for layer in chunked.layers)
    assert not any(isinstance(layer.attn, ChunkedAttention) for layer in encoder.layers)
    with torch.inference_mode():
        expected, found = encoder(pixels).last_hidden_state, chunked(pixels).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_tensors_and_names_stay(small_sam: SamModel) -> None:
    before = {name: tensor.data_ptr() for name, tensor in small_sam.state_dict().items()}
    attend_in_chunks(small_sam)
    assert {name: tensor.data_ptr() for name, tensor in small_sam.state_dict().items()} == before


def test_attention_has_integer_factors_that_a_file_keeps(small_adapter, blob_ct, tmp_path) -> None:
    from medquant import artifact
    from medquant.activation_settings import IntActivations
    from medquant.models.base import CalibrationSelection
    from medquant.models.prompt_images import SlicePreprocessing
    from medquant.quantize import quantize
    from medquant.recipe import IntWeights, Recipe

    model, scan = small_adapter(SlicePreprocessing(image_size=64)), blob_ct()
    recipe = Recipe(weights=IntWeights(8), activations=IntActivations(8))
    quantized = quantize(model, scan, recipe=recipe, selection=CalibrationSelection(count=2))
    encoder = quantized.model.network.vision_encoder
    assert all(layer.attn.watch is None and len(layer.attn.quantizers) == 4 for layer in encoder.layers)
    assert model.network.vision_encoder.layers[0].attn.quantizers is None
    named = {name for name, reason in quantized.report.kept.items() if "products" in reason}
    assert named == {name for name, m in model.network.named_modules() if type(m).__name__ == "SamAttention"} != set()
    (batch, *_) = model.calibration_batches(scan, CalibrationSelection(count=2))
    pixels = batch.inputs[0]
    with torch.inference_mode():
        rounded = encoder(pixels).last_hidden_state
        expected = model.network.vision_encoder(pixels).last_hidden_state
        assert 1e-4 < (rounded - expected).norm() / expected.norm() < 0.5
        quantized.save(tmp_path / "sam.mq.safetensors")
        loaded = artifact.load(tmp_path / "sam.mq.safetensors").model.network.vision_encoder
        assert torch.equal(loaded(pixels).last_hidden_state, rounded)
        for layer in encoder.layers:
            layer.attn.quantizers = None
        assert not torch.equal(encoder(pixels).last_hidden_state, rounded)

"""MedSAM2 by the authors' names, slice by slice, at a reduced size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Sam2Model, Sam2VideoConfig, Sam2VideoModel

from medquant.errors import UserError
from medquant.evaluation.activations import first_inputs
from medquant.imaging.volume import Volume
from medquant.models import sam2_weights
from medquant.models.base import CalibrationSelection
from medquant.models.prompt_images import masks_on_picture, pixel_values
from medquant.models.registry import from_spec, load_model
from medquant.models.sam2 import MEDSAM2, Sam2ModelAdapter
from medquant.prompts import Box, BoxPrompt
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe

MakeVolume = Callable[..., Volume]
SIZE = 64
ENCODER = "image_encoder.trunk."


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size that is small enough for a test."""
    monkeypatch.setitem(sam2_weights.GLOBAL_BLOCKS, (8, (1, 1, 2, 1)), ((3,), (4, 2, 2, 2), 1))


def authors_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the names and in the shapes of the SAM 2 code, for a width of 8 and five blocks."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def add(name: str, *shape: int, norm: bool = False) -> None:
        numbers = torch.randn(shape, generator=generator)
        state[name] = 1 + 0.1 * numbers if norm else numbers * (0.3 if len(shape) > 1 else 0.1)

    def layer(name: str, leaving: int, entering: int, *kernel: int) -> None:
        add(f"{name}.weight", leaving, entering, *kernel)
        add(f"{name}.bias", leaving)

    def norm(name: str, width: int) -> None:
        add(f"{name}.weight", width, norm=True)
        add(f"{name}.bias", width)

    add(f"{ENCODER}pos_embed", 1, 8, 3, 3)
    add(f"{ENCODER}pos_embed_window", 1, 8, 4, 4)
    layer(f"{ENCODER}patch_embed.proj", 8, 3, 7, 7)
    entering = 8
    for number, width in enumerate((8, 16, 32, 32, 64)):
        block = f"{ENCODER}blocks.{number}"
        norm(f"{block}.norm1", entering)
        layer(f"{block}.attn.qkv", 3 * width, entering)
        layer(f"{block}.attn.proj", width, width)
        norm(f"{block}.norm2", width)
        layer(f"{block}.mlp.layers.0", 4 * width, width)
        layer(f"{block}.mlp.layers.1", width, 4 * width)
        if width != entering:
            layer(f"{block}.proj", width, entering)
        entering = width
    for number, width in enumerate((64, 32, 16, 8)):
        layer(f"image_encoder.neck.convs.{number}.conv", 32, width, 1, 1)
    prompt, decoder = "sam_prompt_encoder", "sam_mask_decoder"
    add(f"{prompt}.pe_layer.positional_encoding_gaussian_matrix", 2, 16)
    for number in range(4):
        add(f"{prompt}.point_embeddings.{number}.weight", 1, 32)
    add(f"{prompt}.not_a_point_embed.weight", 1, 32)
    add(f"{prompt}.no_mask_embed.weight", 1, 32)
    layer(f"{prompt}.mask_downscaling.0", 4, 1, 2, 2)
    norm(f"{prompt}.mask_downscaling.1", 4)
    layer(f"{prompt}.mask_downscaling.3", 16, 4, 2, 2)
    norm(f"{prompt}.mask_downscaling.4", 16)
    layer(f"{prompt}.mask_downscaling.6", 32, 16, 1, 1)

    def attention(name: str, inner: int) -> None:
        for part in ("q_proj", "k_proj", "v_proj"):
            layer(f"{name}.{part}", inner, 32)
        layer(f"{name}.out_proj", 32, inner)

    def head(name: str, leaving: int) -> None:
        for number, out in enumerate((32, 32, leaving)):
            layer(f"{name}.layers.{number}", out, 32)

    for number in range(2):
        block = f"{decoder}.transformer.layers.{number}"
        attention(f"{block}.self_attn", 32)
        attention(f"{block}.cross_attn_token_to_image", 16)
        attention(f"{block}.cross_attn_image_to_token", 16)
        for place in range(1, 5):
            norm(f"{block}.norm{place}", 32)
        layer(f"{block}.mlp.layers.0", 40, 32)
        layer(f"{block}.mlp.layers.1", 32, 40)
    attention(f"{decoder}.transformer.final_attn_token_to_image", 16)
    norm(f"{decoder}.transformer.norm_final_attn", 32)
    for token, count in (("iou_token", 1), ("mask_tokens", 4), ("obj_score_token", 1)):
        add(f"{decoder}.{token}.weight", count, 32)
    layer(f"{decoder}.output_upscaling.0", 32, 8, 2, 2)
    state[f"{decoder}.output_upscaling.0.bias"] = torch.zeros(8)
    norm(f"{decoder}.output_upscaling.1", 8)
    layer(f"{decoder}.output_upscaling.3", 8, 4, 2, 2)
    state[f"{decoder}.output_upscaling.3.bias"] = torch.zeros(4)
    layer(f"{decoder}.conv_s0", 4, 32, 1, 1)
    layer(f"{decoder}.conv_s1", 8, 32, 1, 1)
    for number in range(4):
        head(f"{decoder}.output_hypernetworks_mlps.{number}", 4)
    head(f"{decoder}.iou_prediction_head", 4)
    head(f"{decoder}.pred_obj_score_head", 1)
    add("no_mem_embed", 1, 1, 32)
    # a few of what only videos need
    add("maskmem_tpos_enc", 7, 1, 1, 8)
    add("memory_attention.layers.0.linear1.weight", 16, 32)
    add("obj_ptr_proj.layers.0.weight", 32, 32)
    return state


@pytest.fixture
def model(tiny: None, tmp_path: Path) -> Sam2ModelAdapter:
    torch.save({"model": authors_state()}, tmp_path / "MedSAM2_tiny.pt")
    return load_model("medsam2", weights=tmp_path / "MedSAM2_tiny.pt", image_size=SIZE, device="cpu")


def picture_and_boxes() -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    return pixels, torch.tensor([[[4.0, 8.0, 40.0, 50.0], [20.0, 10.0, 60.0, 30.0]]])


def test_every_tensor_of_a_picture_finds_its_place(model: Sam2ModelAdapter) -> None:
    state, own = authors_state(), model.network.state_dict()
    assert torch.equal(own["vision_encoder.backbone.blocks.1.proj.weight"], state[f"{ENCODER}blocks.1.proj.weight"])
    assert torch.equal(
        own["prompt_encoder.point_embed.weight"][2:3], state["sam_prompt_encoder.point_embeddings.2.weight"]
    )
    assert torch.equal(own["no_memory_embedding"], state["no_mem_embed"])
    head = "sam_mask_decoder.iou_prediction_head.layers"
    assert torch.equal(own["mask_decoder.iou_prediction_head.layers.0.weight"], state[f"{head}.1.weight"])
    assert torch.equal(own["mask_decoder.iou_prediction_head.proj_out.weight"], state[f"{head}.2.weight"])


def test_the_parts_give_what_the_whole_network_gives(model: Sam2ModelAdapter) -> None:
    pixels, boxes = picture_and_boxes()
    with torch.inference_mode():
        whole = model.network(pixel_values=pixels, input_boxes=boxes, multimask_output=False).pred_masks[0, :, 0]
        parts = model.parts()
        embedding = parts["image_encoder"].module(pixels)
        torch.testing.assert_close(parts["mask_decoder"].module(embedding, boxes), whole, rtol=1e-4, atol=1e-5)
        first = parts["mask_decoder"].module(embedding, boxes[:, :1])
    torch.testing.assert_close(first, whole[:1], rtol=1e-4, atol=1e-5)
    assert whole.shape == (2, SIZE // 4, SIZE // 4) and float(whole.std()) > 1e-3


def test_a_spec_rebuilds_the_network(model: Sam2ModelAdapter) -> None:
    pixels, boxes = picture_and_boxes()
    rebuilt = from_spec(json.loads(json.dumps(model.spec)))
    rebuilt.network.load_state_dict(model.network.state_dict())
    with torch.inference_mode():
        expected = model.forward_for_calibration(model.network, pixels, boxes)
        assert torch.equal(rebuilt.forward_for_calibration(rebuilt.network, pixels, boxes), expected)


def test_quantized_to_eight_bits_it_segments_nearly_alike(model: Sam2ModelAdapter, blob_ct: MakeVolume) -> None:
    volume = blob_ct((3, 40, 52))
    prompt = BoxPrompt((Box((8, 8, 0), (30, 30, 2), name="organ"),))
    before = model.segment(volume, prompt)
    assert [s.name for s in before.structures] == ["organ"] and 0 < before.labels.mean() < 1
    batches = list(model.calibration_batches(volume, CalibrationSelection(count=2)))
    quantized = quantize(model, batches, recipe=Recipe(weights=IntWeights(bits=8), method="rtn"))
    after = quantized.model.segment(volume, prompt)
    assert (after.labels == before.labels).mean() > 0.95


def test_a_box_is_asked_for(model: Sam2ModelAdapter, blob_ct: MakeVolume) -> None:
    assert model.takes_boxes
    with pytest.raises(UserError, match="needs a box"):
        model.segment(blob_ct())


def test_pictures_are_prepared_and_masks_cut_as_the_authors_do() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (40, 52)).astype(np.uint8)
    small = Image.fromarray(grey).convert("RGB").resize((512, 512), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(small, dtype=np.float32) / 255).permute(2, 0, 1)
    expected = (expected - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    torch.testing.assert_close(pixel_values(grey, MEDSAM2)[0], expected, rtol=1e-4, atol=1e-4)
    logits = torch.randn(2, 16, 16) * 5
    large = torch.nn.functional.interpolate(logits[None], size=(40, 52), mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(masks_on_picture(logits, (40, 52), MEDSAM2), (large[0] > 0).numpy())


def test_the_published_sizes() -> None:
    """MedSAM2 is SAM 2.1 tiny, 38.9 million parameters, of which those for one picture are loaded."""
    with torch.device("meta"):
        whole = Sam2VideoModel(Sam2VideoConfig())
    assert sum(p.numel() for p in whole.parameters()) == 38_962_498
    shapes = {f"{ENCODER}blocks.{n}.norm1.weight": torch.empty(1) for n in range(12)}
    shapes |= {f"{ENCODER}blocks.{n}.proj.weight": torch.empty(1) for n in (1, 3, 10)}
    shapes |= {
        f"{ENCODER}patch_embed.proj.weight": torch.empty(96, 3, 7, 7),
        f"{ENCODER}pos_embed": torch.empty(1, 96, 7, 7),
        "sam_mask_decoder.iou_token.weight": torch.empty(1, 256),
        "sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight": torch.empty(2048, 256),
    }
    config = sam2_weights.infer_config(shapes, image_size=512, source="x")
    with torch.device("meta"):
        network = Sam2Model(config)
    assert sum(p.numel() for p in network.parameters()) == 31_440_721
    assert network.backbone_feature_sizes == [[128, 128], [64, 64], [32, 32]]


def test_what_does_not_fit_is_explained(tiny: None, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    state = authors_state()
    torch.save({"model": {**state, "sam_mask_decoder.new.weight": torch.zeros(1)}}, path)
    with pytest.raises(UserError, match=r"1 left over \(mask_decoder.new.weight\)"):
        Sam2ModelAdapter.load(path, image_size=SIZE)
    state.pop("no_mem_embed")
    torch.save({"model": state}, path)
    with pytest.raises(UserError, match=r"1 missing \(no_memory_embedding\)"):
        Sam2ModelAdapter.load(path, image_size=SIZE)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="not those of MedSAM2"):
        Sam2ModelAdapter.load(path)
    torch.save({"model": authors_state()}, path)
    with pytest.raises(UserError, match="no multiple of 32"):
        Sam2ModelAdapter.load(path, image_size=500)
    with pytest.raises(UserError, match="needs its weights"):
        load_model("medsam2")


def test_rows_of_the_encoder_lie_in_the_picture(model: Sam2ModelAdapter) -> None:
    """Through windows whose size changes from stage to stage, and queries that are pooled."""
    inputs = picture_and_boxes()
    places = model.places(model.network, *inputs)
    called: list[str] = []
    with torch.inference_mode(), first_inputs(model.network, lambda name, *_: called.append(name)):
        model.forward_for_calibration(model.network, *inputs)
    encoder = [name for name in called if name.startswith("vision_encoder.")]
    assert len(encoder) > 20
    for name in encoder:
        rows = places[name]
        real = rows[:, ~rows.isnan().any(0)]
        assert len(real.unique(dim=1).T) == real.shape[1], f"{name}: each row its own place"
        assert torch.allclose(real.mean(1), torch.full((2,), (SIZE - 1) / 2), atol=0.5), name

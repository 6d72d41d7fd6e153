"""segment-anything names and transformers names describe one network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import SamConfig, SamModel

from medquant.errors import UserError
from medquant.models.registry import list_models
from medquant.models.sam import SamModelAdapter
from medquant.models.sam_attention import attend_in_chunks
from medquant.models.sam_weights import from_segment_anything, infer_config

# transformers -> segment-anything, written down name by name: the opposite direction of what is tested.
BLOCK = ["attn.rel_pos_h", "attn.rel_pos_w"] + [
    f"{layer}.{kind}" for layer in ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2") for kind in ("weight", "bias")
]
ATTENTION = [f"{p}.{kind}" for p in ("q_proj", "k_proj", "v_proj", "out_proj") for kind in ("weight", "bias")]


def original_names(encoder_depth: int, decoder_depth: int, masks: int) -> dict[str, str]:
    names: dict[str, str] = {}

    def both(ours: str, theirs: str, kinds: tuple[str, ...] = ("weight", "bias")) -> None:
        names.update({f"{ours}.{kind}": f"{theirs}.{kind}" for kind in kinds})

    names["shared_image_embedding.positional_embedding"] = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    names["vision_encoder.pos_embed"] = "image_encoder.pos_embed"
    both("vision_encoder.patch_embed.projection", "image_encoder.patch_embed.proj")
    for n in range(encoder_depth):
        names.update({f"vision_encoder.layers.{n}.{x}": f"image_encoder.blocks.{n}.{x}" for x in BLOCK})
        both(f"vision_encoder.layers.{n}.layer_norm1", f"image_encoder.blocks.{n}.norm1")
        both(f"vision_encoder.layers.{n}.layer_norm2", f"image_encoder.blocks.{n}.norm2")
    both("vision_encoder.neck.conv1", "image_encoder.neck.0", ("weight",))
    both("vision_encoder.neck.layer_norm1", "image_encoder.neck.1")
    both("vision_encoder.neck.conv2", "image_encoder.neck.2", ("weight",))
    both("vision_encoder.neck.layer_norm2", "image_encoder.neck.3")
    for n in range(4):
        both(f"prompt_encoder.point_embed.{n}", f"prompt_encoder.point_embeddings.{n}", ("weight",))
    for same in ("not_a_point_embed", "no_mask_embed"):
        both(f"prompt_encoder.{same}", f"prompt_encoder.{same}", ("weight",))
    for ours, theirs in (("conv1", 0), ("layer_norm1", 1), ("conv2", 3), ("layer_norm2", 4), ("conv3", 6)):
        both(f"prompt_encoder.mask_embed.{ours}", f"prompt_encoder.mask_downscaling.{theirs}")
    for same in ("iou_token", "mask_tokens"):
        both(f"mask_decoder.{same}", f"mask_decoder.{same}", ("weight",))
    decoder = "mask_decoder.transformer"
    for n in range(decoder_depth):
        for attention in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token"):
            part = f"{decoder}.layers.{n}.{attention}"
            names.update({f"{part}.{x}": f"{part}.{x}" for x in ATTENTION})
        for k in (1, 2, 3, 4):
            both(f"{decoder}.layers.{n}.layer_norm{k}", f"{decoder}.layers.{n}.norm{k}")
        for lin in ("lin1", "lin2"):
            both(f"{decoder}.layers.{n}.mlp.{lin}", f"{decoder}.layers.{n}.mlp.{lin}")
    part = f"{decoder}.final_attn_token_to_image"
    names.update({f"{part}.{x}": f"{part}.{x}" for x in ATTENTION})
    both(f"{decoder}.layer_norm_final_attn", f"{decoder}.norm_final_attn")
    both("mask_decoder.upscale_conv1", "mask_decoder.output_upscaling.0")
    both("mask_decoder.upscale_layer_norm", "mask_decoder.output_upscaling.1")
    both("mask_decoder.upscale_conv2", "mask_decoder.output_upscaling.3")
    for head in [f"output_hypernetworks_mlps.{n}" for n in range(masks)] + ["iou_prediction_head"]:
        both(f"mask_decoder.{head}.proj_in", f"mask_decoder.{head}.layers.0")
        both(f"mask_decoder.{head}.layers.0", f"mask_decoder.{head}.layers.1")
        both(f"mask_decoder.{head}.proj_out", f"mask_decoder.{head}.layers.2")
    return names


def sam_config() -> SamConfig:
    """Small, but with windows, global attention, relative positions and another depth and width everywhere."""
    return SamConfig(
        vision_config={
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "mlp_dim": 80,
            "image_size": 80,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [1],
            "output_channels": 32,
            "num_pos_feats": 16,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 80, "patch_size": 8},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 40, "iou_head_hidden_dim": 24},
    )


def random_sam(seed: int = 0) -> SamModel:
    """A small SAM whose every tensor is random, so that two exchanged tensors show."""
    torch.manual_seed(seed)
    model = SamModel(sam_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(
            model.shared_image_embedding.positional_embedding
        )
    return model


def in_segment_anything_names(model: SamModel) -> dict[str, torch.Tensor]:
    names = original_names(3, 2, 4)
    state = model.state_dict()
    assert set(names) == set(state) - {"prompt_encoder.shared_embedding.positional_embedding"}
    return {theirs: state[ours].clone() for ours, theirs in names.items()}


@pytest.fixture(scope="module")
def model() -> SamModel:
    return random_sam()


@pytest.fixture
def original_file(model: SamModel, tmp_path: Path) -> Path:
    path = tmp_path / "medsam_vit_b.pth"
    torch.save(in_segment_anything_names(model), path)
    return path


def outputs(network: torch.nn.Module) -> torch.Tensor:
    attend_in_chunks(network)  # as the adapter does: another order of summation
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(1, 3, 80, 80, generator=generator)
    boxes = torch.tensor([[[8.0, 9.0, 40.0, 51.0], [30.0, 2.0, 70.0, 64.0]]])
    with torch.inference_mode():
        result = network(pixel_values=pixels, input_boxes=boxes, multimask_output=True)
        embedded = network.prompt_encoder.mask_embed(torch.randn(1, 1, 40, 40, generator=generator))
    return torch.cat([result.pred_masks.flatten(), result.iou_scores.flatten(), embedded.flatten()])


def test_original_names_give_equal_outputs(model: SamModel, original_file: Path) -> None:
    loaded = SamModelAdapter.load(original_file)
    assert torch.equal(outputs(loaded.network), outputs(model))


def test_a_training_checkpoint_with_wrappers_loads(model: SamModel, tmp_path: Path) -> None:
    state = {f"module.{name}": value for name, value in in_segment_anything_names(model).items()}
    torch.save({"model": state, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "medsam_model_best.pth")
    loaded = SamModelAdapter.load(tmp_path / "medsam_model_best.pth")
    assert torch.equal(outputs(loaded.network), outputs(model))


def test_a_transformers_folder_gives_equal_outputs(model: SamModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(SamModelAdapter.load(tmp_path).network), outputs(model))


def test_the_spec_rebuilds_the_network(model: SamModel, original_file: Path) -> None:
    import json

    loaded = SamModelAdapter.load(original_file)
    rebuilt = SamModelAdapter.from_spec(json.loads(json.dumps(loaded.spec)))
    rebuilt.network.load_state_dict(loaded.network.state_dict())
    assert torch.equal(outputs(rebuilt.network), outputs(model))
    assert rebuilt.preprocessing == loaded.preprocessing


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads", "everywhere"),
    [
        ("sam-vit-b", 768, 12, 12, [2, 5, 8, 11]),
        ("sam-vit-l", 1024, 24, 16, [5, 11, 17, 23]),
        ("sam-vit-h", 1280, 32, 16, [7, 15, 23, 31]),
    ],
)
def test_published_sizes_are_read_off_the_shapes(
    name: str, width: int, depth: int, heads: int, everywhere: list[int]
) -> None:
    vision = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "global_attn_indexes": everywhere,
    }
    with torch.device("meta"):
        state = SamModel(SamConfig(vision_config=vision)).state_dict()
    names = original_names(depth, 2, 4)
    original = {names[ours]: tensor for ours, tensor in state.items() if ours in names}
    found = infer_config(from_segment_anything(original), source="file")
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        assert getattr(found, part).to_dict() == getattr(SamConfig(vision_config=vision), part).to_dict()
    entry = next(entry for entry in list_models() if entry.name == name)
    learned = sum(tensor.numel() for key, tensor in state.items() if not key.endswith("positional_embedding"))
    assert learned == entry.parameters, "random positions are no parameters in the authors' code"
    assert entry.bytes_on_disk == pytest.approx(4 * learned, rel=5e-4), "the authors' file, and little beside them"


def test_missing_and_left_over_tensors_are_named(model: SamModel, tmp_path: Path) -> None:
    state = in_segment_anything_names(model)
    state["image_encoder.blocks.0.attn.extra"] = torch.zeros(3)
    del state["mask_decoder.output_upscaling.3.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"missing.*upscale_conv2\.bias.*left over.*attn\.extra"):
        SamModelAdapter.load(tmp_path / "w.pth")


def test_a_tensor_of_another_shape_is_named(model: SamModel, tmp_path: Path) -> None:
    state = in_segment_anything_names(model)
    state["image_encoder.blocks.2.mlp.lin2.weight"] = torch.zeros(48, 81)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"another shape.*layers\.2\.mlp\.lin2\.weight \(48, 81\) instead of \(48, 80\)"
    ):
        SamModelAdapter.load(tmp_path / "w.pth")


def test_not_a_number_in_the_weights_is_refused(model: SamModel, tmp_path: Path) -> None:
    state = in_segment_anything_names(model)
    state["image_encoder.neck.0.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match="not numbers"):
        SamModelAdapter.load(tmp_path / "w.pth")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 4).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(UserError, match="not those of a complete SAM"):
        SamModelAdapter.load(tmp_path / "linear.pth")

"""Networks with published weights: the whole way, with checkpoints as published, at a reduced size."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import UNETR, SwinUNETR
from torch import nn

from medquant.errors import UserError
from medquant.evaluation.activations import first_inputs
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection
from medquant.models.catalogue import PUBLISHED_NETWORKS
from medquant.models.networks.medformer import MedFormer
from medquant.models.networks.segformer3d import SegFormer3D
from medquant.models.networks.transunet import TransUNet, with_standard_weights
from medquant.models.networks.unest import UNesT, blocks_of, volume_of
from medquant.models.networks.vista3d import automatic_state, whole_vista3d
from medquant.models.published import ARCHITECTURES, PublishedModel
from medquant.models.registry import from_spec, load_model
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe

MakeVolume = Callable[..., Volume]

CUBE = (32, 32, 32)
SMALL_WIDTHS = {"widths": (8, 16, 32), "heads": (1, 1, 1), "depths": (1, 2, 1)}
SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "swinunetr": (lambda: SwinUNETR(1, 3, feature_size=12, depths=(1, 1, 1, 1)), CUBE),
    "unetr": (lambda: UNETR(1, 3, CUBE, feature_size=4, hidden_size=64, mlp_dim=32, num_heads=1), CUBE),
    "unest": (lambda: UNesT(3, size=64, **SMALL_WIDTHS), (64, 64, 64)),
    "medformer": (
        lambda: MedFormer(
            1,
            3,
            stem=4,
            widths=(4, 8, 16, 20, 16, 8, 4, 4),
            convolutions=(1, 0, 0, 0, 0, 1, 1, 2),
            attentions=(0, 1, 1, 1, 2, 1, 0, 0),
            map_size=(2, 2, 2),
            fusion_width=20,
            auxiliary=True,
        ),
        (8, 32, 32),
    ),
    "segformer3d": (
        lambda: SegFormer3D(1, 3, widths=(32, 32, 64, 96), depths=(1, 2, 1, 1), heads=(1, 1, 2, 3), decoder_width=16),
        CUBE,
    ),
    "transunet": (
        lambda: TransUNet(
            3, size=64, units=(1, 2, 1), resnet_width=32, width=24, depth=2, inner=40, first=32, decoder=(16, 8, 8, 4)
        ),
        (1, 64, 64),
    ),
    "vista3d": (lambda: whole_vista3d(8), CUBE),
}
CLASSES = {"spleen": 3, "liver": 1}
DEEP = ("*.layers.3.*", "*.layers.4.*", "*.up_layers_auto.0.*")
"""Layers of VISTA3D that are left out where a test would take long; they are like the others."""

MAPS = ("map_qv", "map_out", "map_fusion", "map_reduction")
"""Parts of names of MedFormer's queries, which stand for no place."""


def randomized(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every tensor random, so that one taken for another is seen; the counts of batch norms stay."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point():
                spread = 1 / math.sqrt(max(1, tensor[0].numel())) if tensor.ndim > 1 else 0.3
                offset = 1.0 if tensor.ndim == 1 and name.endswith("weight") else 0.0
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * spread + offset)
    return network.eval()


def expected_of(name: str, network: nn.Module, patch: torch.Tensor) -> torch.Tensor:
    """Logits of the network as published, without the adapter."""
    with torch.inference_mode():
        if name == "transunet":
            network.load_state_dict(with_standard_weights(network.state_dict()))
        if name == "vista3d":
            numbers = torch.tensor(list(CLASSES.values()))[:, None]
            logits = network(patch, class_vector=numbers, transpose=True)
            return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
        return network(patch)


def saved(name: str, folder: Path) -> tuple[Path, nn.Module]:
    network = randomized(SMALL[name][0]())
    path = folder / f"{name}.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, path)
    return path, network


def loaded(name: str, path: Path, **options: Any) -> PublishedModel:
    options |= {"labels": CLASSES} if name == "vista3d" else {}
    return load_model(f"published:{name}", weights=path, roi_size=SMALL[name][1], device="cpu", **options)


def test_every_network_that_is_listed_is_tested() -> None:
    assert set(SMALL) == set(ARCHITECTURES) == set(PUBLISHED_NETWORKS)


@pytest.mark.parametrize("name", SMALL)
def test_a_checkpoint_gives_the_outputs_of_its_network(name: str, tmp_path: Path) -> None:
    path, network = saved(name, tmp_path)
    model = loaded(name, path)
    window = (64, 64, 64) if name == "swinunetr" else SMALL[name][1]
    patch = torch.randn(1, 1, *window, generator=torch.Generator().manual_seed(1))
    expected = expected_of(name, network, patch)
    with torch.inference_mode():
        logits = model.forward_for_calibration(model.network, patch)
        rebuilt = from_spec(json.loads(json.dumps(model.spec)))
        rebuilt.network.load_state_dict(model.network.state_dict())
        again = rebuilt.forward_for_calibration(rebuilt.network, patch)
    assert logits.shape == (1, 3, *window)
    assert float(logits.std()) > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(again, logits)


# What the authors' files hold beside the tensors of today's network: convolutions that MONAI before 0.9 made in every
# residual block and ran only where the number of channels changes, and a token that only a classifier reads. The names
# are those of UNETR's BTCV weights, of UNesT's, and of the same blocks of SwinUNETR.
NEVER_RUN = {
    "unetr": (
        "vit.patch_embedding.cls_token",
        "encoder2.blocks.0.1.conv3.conv.weight",
        "encoder2.blocks.1.1.conv3.conv.weight",
        "encoder3.blocks.0.1.conv3.conv.weight",
    ),
    "unest": ("encoder3.layer.conv3.conv.weight", "encoder4.layer.conv3.conv.weight"),
    "swinunetr": tuple(f"encoder{n}.layer.conv3.conv.weight" for n in (2, 3, 4, 10)),
}


def as_published(name: str, folder: Path) -> tuple[Path, nn.Module, dict[str, torch.Tensor]]:
    """A checkpoint as the authors' trainers save it: with what is never run, and a score that is NumPy's."""
    network = randomized(SMALL[name][0]())
    state = {key: tensor for key, tensor in network.state_dict().items() if "cross_attn" not in key}
    for extra in NEVER_RUN[name]:
        assert extra not in state
        if extra.endswith("cls_token"):
            state[extra] = torch.randn(1, 1, state["vit.norm.weight"].shape[0])
        else:
            channels = state[extra.replace("conv3", "conv1")].shape[0]
            state[extra] = torch.randn(channels, channels, 1, 1, 1)
    path = folder / "model.pt"
    torch.save({"epoch": 4999, "best_acc": np.float32(0.8), "state_dict": state, "scheduler": {"last": 5}}, path)
    return path, network, state


@pytest.mark.parametrize("name", NEVER_RUN)
def test_files_of_an_older_monai_give_the_outputs_of_the_network(name: str, tmp_path: Path) -> None:
    path, network, _ = as_published(name, tmp_path)
    model = loaded(name, path)
    window = (64, 64, 64) if name == "swinunetr" else SMALL[name][1]
    patch = torch.randn(1, 1, *window, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = model.forward_for_calibration(model.network, patch)
    torch.testing.assert_close(logits, expected_of(name, network, patch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NEVER_RUN)
def test_a_shortcut_that_is_run_is_not_dropped(name: str, tmp_path: Path) -> None:
    """Of blocks that change the number of channels, of another shape, and of no block at all."""
    path, _, state = as_published(name, tmp_path)
    run = next(key for key in state if key.endswith(".conv3.conv.weight") and key not in NEVER_RUN[name])
    lacking = {key: tensor for key, tensor in state.items() if key != run}
    torch.save(lacking, path)
    with pytest.raises(UserError, match=rf"1 missing \({run}\)"):
        loaded(name, path)
    wide = {NEVER_RUN[name][-1]: torch.zeros(7, 7, 1, 1, 1), "encoder9.layer.conv3.conv.weight": torch.zeros(4, 4, 1)}
    torch.save(state | wide, path)
    with pytest.raises(UserError, match="2 left over"):
        loaded(name, path)


def test_with_what_is_never_run_unest_has_its_published_size() -> None:
    with torch.device("meta"):
        state = UNesT(133).state_dict()
    never_run = sum(state[key.replace("conv3", "conv1")].shape[0] ** 2 for key in NEVER_RUN["unest"])
    assert f"{(sum(t.numel() for t in state.values()) + never_run) / 1e6:.1f}" == "87.3"


@pytest.mark.parametrize("name", ["unest", "medformer", "segformer3d", "transunet", "vista3d"])
def test_quantized_to_eight_bits_it_segments_nearly_alike(name: str, tmp_path: Path, blob_ct: MakeVolume) -> None:
    volume = blob_ct((8, 40, 52)) if name in ("transunet", "medformer") else blob_ct((24, 40, 52))
    settings = {"orientation": "RAS", "intensity": "range"}
    if name in ("transunet", "medformer"):
        settings = {"axes": "kji", "intensity": "range"} | ({"side": 64} if name == "transunet" else {})
    model = loaded(name, saved(name, tmp_path)[0], preprocessing=settings)
    before = model.segment(volume)
    recipe = Recipe(weights=IntWeights(bits=8), method="rtn")
    batches = list(model.calibration_batches(volume, CalibrationSelection(count=1)))
    quantized = quantize(model, batches, recipe=recipe, ignore=DEEP if name == "vista3d" else ())
    assert all(any(fnmatchcase(layer, pattern) for pattern in DEEP) for layer in quantized.report.kept)
    assert {layer.bits for layer in quantized.report.layers} == {8}
    with torch.inference_mode():
        exact = model.forward_for_calibration(model.network, *batches[0].inputs)
        rounded = quantized.model.forward_for_calibration(quantized.model.network, *batches[0].inputs)
    assert 0 < float((rounded - exact).norm() / exact.norm()) < 0.1
    assert (quantized.model.segment(volume).labels == before.labels).mean() > 0.9


def test_vista3d_classes_are_checked(tmp_path: Path) -> None:
    path, network = saved("vista3d", tmp_path)
    with pytest.raises(UserError, match=r"no classes \[600\]"):
        load_model("published:vista3d", weights=path, labels={"horn": 600}, device="cpu")
    state = network.state_dict()
    assert automatic_state(state, (1, 2, 3))["classes.weight"].shape == (3, 8, 1, 1, 1)
    model = loaded("vista3d", path)
    assert [(s.label, s.name) for s in model.structures] == [(1, "spleen"), (2, "liver")]


def test_blocks_come_back_as_the_volume() -> None:
    volume = torch.randn(2, 3, 4, 8, 12)
    blocks = blocks_of(volume, 4)
    assert blocks.shape == (2, 1 * 2 * 3, 64, 3)
    assert torch.equal(blocks[1, 4].reshape(4, 4, 4, 3), volume[1, :, :, 4:8, 4:8].permute(1, 2, 3, 0))
    assert torch.equal(volume_of(blocks, 4, (4, 8, 12)), volume)


@pytest.mark.parametrize("name", SMALL)
def test_weights_of_another_network_are_refused(name: str, tmp_path: Path) -> None:
    torch.save(nn.Conv3d(1, 2, 3).state_dict(), tmp_path / "other.pt")
    with pytest.raises(UserError, match="Choose"):
        load_model(f"published:{name}", weights=tmp_path / "other.pt", device="cpu")


def test_left_over_and_missing_tensors_are_told(tmp_path: Path) -> None:
    path, network = saved("segformer3d", tmp_path)
    state = network.state_dict()
    torch.save({**state, "extra.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"1 left over \(extra.weight\)"):
        loaded("segformer3d", path)
    state.pop("segformer_encoder.norm2.weight")
    torch.save(state, path)
    with pytest.raises(UserError, match=r"1 missing \(segformer_encoder.norm2.weight\)"):
        loaded("segformer3d", path)


def test_weights_of_four_channels_and_unknown_names_are_refused(tmp_path: Path) -> None:
    torch.save(SegFormer3D(4, 3).state_dict(), tmp_path / "brats.pt")
    with pytest.raises(UserError, match="takes 4 channels"):
        load_model("published:segformer3d", weights=tmp_path / "brats.pt", device="cpu")
    with pytest.raises(UserError, match="Choose one of swinunetr"):
        load_model("published:cotr", weights=tmp_path / "brats.pt", device="cpu")
    with pytest.raises(UserError, match="needs its weights"):
        load_model("published:unest")


def test_standard_weights_are_those_of_the_authors_convolution() -> None:
    """Against PyTorch's own normalisation of each output channel's weights."""
    name = "transformer.embeddings.hybrid_model.root.conv.weight"
    weight = torch.randn(5, 3, 7, 7) * 3 + 1
    done = with_standard_weights({name: weight, "decoder.conv_more.0.weight": weight})
    assert torch.equal(done["decoder.conv_more.0.weight"], weight)
    expected = nn.functional.layer_norm(weight, weight.shape[1:], eps=1e-5)
    torch.testing.assert_close(done[name], expected, rtol=1e-5, atol=1e-6)


def test_slices_of_a_side_are_cubic_splines(blob_ct: MakeVolume) -> None:
    from scipy import ndimage

    from medquant.models.volume_preprocessing import VolumePreprocessing

    volume = blob_ct((3, 40, 52))
    data, turned = VolumePreprocessing(axes="kji", side=24).apply(volume)
    assert data.shape == (1, 3, 24, 24)
    expected = ndimage.zoom(volume.array[1].astype(np.float32), (24 / 40, 24 / 52), order=3)
    np.testing.assert_allclose(data[0, 1].numpy(), expected, rtol=1e-5)
    labels = VolumePreprocessing(axes="kji", side=24).labels(torch.randn(2, 3, 24, 24), volume, turned)
    assert labels.shape == volume.shape
    with pytest.raises(UserError, match="A side above 0"):
        VolumePreprocessing(side=24)


@pytest.mark.parametrize("name", SMALL)
def test_rows_of_every_published_network_have_a_place(name: str, tmp_path: Path) -> None:
    model = loaded(name, saved(name, tmp_path)[0])
    window = (64, 64, 64) if name == "swinunetr" else SMALL[name][1]
    image = torch.zeros(1, 1, *window)
    places = model.places(model.network, image)
    called: list[str] = []
    with torch.inference_mode(), first_inputs(model.network, lambda name, *_: called.append(name)):
        model.forward_for_calibration(model.network, image)
    without = [one for one in called if one not in places]
    assert all(any(part in one for part in MAPS) for one in without) and (not without or name == "medformer")
    for one, rows in places.items():
        assert rows.shape[0] == 3, one
        for axis, size in enumerate(window):
            known = rows[axis][~rows[axis].isnan()]
            assert len(known) and float(known.min()) >= -0.5 and float(known.max()) <= size - 0.5, one
            assert float(known.mean()) == pytest.approx((size - 1) / 2, abs=1.5), one

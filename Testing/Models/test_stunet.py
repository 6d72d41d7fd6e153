"""STU-Net: the published file and results folders of its trainers, as nnU-Nets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch, CalibrationSelection
from medquant.models.networks.stunet import SIZES, STUNet
from medquant.models.nnunet import NnUNetModel
from medquant.models.registry import from_spec, load_model
from medquant.models.stunet_folder import LABELS, build_stunet
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe

MakeVolume = Callable[..., Volume]
STRIDES = [[2, 2, 2]] * 4 + [[1, 1, 2]]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size that is small enough for a test."""
    monkeypatch.setitem(SIZES, "tiny", (2, 3))


def published(folder: Path, classes: int = 4) -> tuple[Path, STUNet]:
    torch.manual_seed(0)
    network = STUNet(1, classes, depth=2, width=3, strides=STRIDES).eval()
    path = folder / "tiny_ep4k.model"
    content = {"epoch": 4000, "state_dict": network.state_dict(), "plot_stuff": ([1.0], [np.float64(2.0)])}
    torch.save(content, path)
    return path, network


def test_the_published_file_is_an_nnunet_with_its_plans(tiny: None, tmp_path: Path) -> None:
    path, network = published(tmp_path)
    (tmp_path / LABELS).write_text(json.dumps({"0": "background", "1": "aorta", "2": "lung_left", "3": "brain"}))
    model = load_model("stunet", weights=path, device="cpu")
    assert isinstance(model, NnUNetModel)
    assert [(s.label, s.name) for s in model.structures] == [(1, "aorta"), (2, "lung left"), (3, "brain")]
    assert model.plans.patch_size == (128, 128, 128) and model.mirroring_axes == (0, 1, 2)
    patch = torch.randn(1, 1, 32, 32, 64)
    with torch.inference_mode():
        logits = model.forward_for_calibration(model.network, patch)
        assert torch.equal(logits, network(patch))
        rebuilt = from_spec(json.loads(json.dumps(model.spec)))
        rebuilt.network.load_state_dict(model.network.state_dict())
        assert torch.equal(rebuilt.forward_for_calibration(rebuilt.network, patch), logits)


def test_the_outputs_of_training_are_left_out(tiny: None, tmp_path: Path) -> None:
    path, _ = published(tmp_path)
    names = load_model(path, device="cpu").network.state_dict()
    assert [n for n in names if n.startswith("seg_outputs")] == ["seg_outputs.4.weight", "seg_outputs.4.bias"]


def test_grey_values_have_mean_zero_over_the_whole_scan(tiny: None, tmp_path: Path, blob_ct: MakeVolume) -> None:
    model = load_model(published(tmp_path)[0], device="cpu")
    array = blob_ct((10, 20, 24)).array
    data, _ = model.plans.preprocess(array, [1.5, 1.5, 1.5])
    expected = (array - array.mean()) / array.std()
    np.testing.assert_allclose(data[0], expected, atol=1e-4)


def test_quantized_to_eight_bits_its_logits_stay(tiny: None, tmp_path: Path) -> None:
    model = load_model(published(tmp_path)[0], device="cpu")
    patch = torch.randn(1, 1, 32, 32, 64, generator=torch.Generator().manual_seed(1))
    batch = CalibrationBatch((patch,))
    quantized = quantize(model, [batch], recipe=Recipe(weights=IntWeights(bits=8), method="rtn"))
    with torch.inference_mode():
        before = model.forward_for_calibration(model.network, patch)
        after = quantized.model.forward_for_calibration(quantized.model.network, patch)
    assert float((after - before).norm() / before.norm()) < 0.05


def test_upsampling_before_or_after_a_convolution_of_size_one_is_the_same() -> None:
    """The authors enlarge first; copies of a voxel have the same outputs."""
    network = STUNet(1, 2, depth=1, width=2, strides=STRIDES)
    layer, features = network.upsample_layers[1], torch.randn(1, 32, 2, 3, 4)
    enlarged = functional.interpolate(features, scale_factor=(2.0, 2.0, 2.0), mode="nearest")
    torch.testing.assert_close(layer(features), layer.conv(enlarged))


@pytest.mark.parametrize(
    ("trainer", "strides", "expected"),
    [
        ("STUNetTrainer", [[1, 1, 1], *STRIDES], (16 * 32, (1, 1, 2))),
        ("STUNetTrainer_small_ft", [[1, 1, 1], *STRIDES, [1, 2, 2]], (16 * 16, (1, 1, 2))),
        ("STUNetTrainer_large_ep2k", [[1, 1, 1], *STRIDES[:3]], (16 * 64, (1, 1, 1))),
    ],
    ids=["base, five steps", "small, six steps", "large, three steps"],
)
def test_trainers_name_the_size_and_plans_give_five_steps(
    trainer: str, strides: list[list[int]], expected: tuple[int, tuple[int, int, int]]
) -> None:
    with torch.device("meta"):
        network = build_stunet(trainer, "", {"strides": strides}, [], 1, 3)
    last = network.conv_blocks_context[5][0].conv1
    assert (last.out_channels, last.stride) == expected


def test_a_results_folder_of_version_two_loads(
    tiny: None,
    tmp_path: Path,
    blob_ct: MakeVolume,
    plans_of: Callable[..., dict[str, Any]],
    write_results: Callable[..., Path],
) -> None:
    folder = write_results(tmp_path / "STUNetTrainer_tiny__nnUNetPlans__3d_fullres", plans_of())
    file = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    network = STUNet(1, 4, depth=2, width=3, strides=[[2, 2, 2], [2, 2, 2], [1, 1, 1], [1, 1, 1], [1, 1, 1]]).eval()
    torch.save(content | {"trainer_name": "STUNetTrainer_tiny", "network_weights": network.state_dict()}, file)
    model = load_model("stunet", weights=folder, device="cpu")
    batch = next(model.calibration_batches(blob_ct(), CalibrationSelection(count=1)))
    with torch.inference_mode():
        logits = model.forward_for_calibration(model.network, *batch.inputs)
        assert torch.equal(logits, network(*batch.inputs))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": 1}, "holds no state_dict"),
        ({"state_dict": {"a": torch.zeros(2)}}, "not STU-Net of a published size"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: dict[str, object], message: str) -> None:
    torch.save(content, tmp_path / "x.model")
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "x.model", device="cpu")


def test_names_of_another_number_of_labels_are_refused(tiny: None, tmp_path: Path) -> None:
    path, _ = published(tmp_path)
    (tmp_path / LABELS).write_text(json.dumps({"0": "background", "1": "aorta"}))
    with pytest.raises(UserError, match="names 2 labels, the network has 4"):
        load_model(path, device="cpu")

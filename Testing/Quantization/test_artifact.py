"""Quantized models as files: bit-identical after loading, as small as their codes, refused when damaged."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import SamConfig, SamModel

from medquant import artifact
from medquant.errors import UserError
from medquant.granularity import PerGroup
from medquant.imaging.reading import read_volume
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch, CalibrationSelection
from medquant.models.prompt_images import SlicePreprocessing
from medquant.models.registry import load_model
from medquant.models.sam import SamModelAdapter
from medquant.models.torch_program import TorchModel, from_module
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import IntWeights, Recipe

MakeNetwork = Callable[..., nn.Module]
MakePictures = Callable[..., list[torch.Tensor]]
Quantized = Callable[..., QuantizedModel]


def around(network: nn.Module) -> TorchModel:
    return from_module(network, name="small")


@torch.inference_mode()
def same_outputs(one: QuantizedModel, other: QuantizedModel, inputs: list[torch.Tensor]) -> bool:
    return all(torch.equal(one.model.network(x), other.model.network(x)) for x in inputs)


RECIPES = {
    "two bits, half-integer": {"bits": IntWeights(2, zero_point="half")},
    "three bits in groups": {"bits": IntWeights(3, PerGroup(16))},
    "sorted over the layer": {"bits": 4, "settings": {"scope": "layer"}},
    "eight bits, symmetric": {"bits": IntWeights(8, symmetric=True)},
    "norms kept": {"bits": 4, "settings": {"fold_batch_norm": False}},
    "layers kept, one with a norm folded into it": {"bits": 4, "ignore": ("enter*", "up")},
}


@pytest.mark.parametrize("how", RECIPES.values(), ids=RECIPES)
def test_bit_identical_after_loading(
    how: dict[str, Any], tmp_path: Path, small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized
) -> None:
    before = quantized(small_unet(), pictures(), **how)
    size = before.save(tmp_path / "a.mq.safetensors")
    given_network = small_unet(seed=9)
    weights = {name: tensor.clone() for name, tensor in given_network.state_dict().items()}
    after = artifact.load(tmp_path / "a.mq.safetensors", model=around(given_network))
    assert same_outputs(before, after, pictures(3, seed=7))
    assert after.recipe == before.recipe and after.provenance == before.provenance and after.name == before.name
    assert after.report.layers == before.report.layers and after.report.kept == before.report.kept
    assert after.report.bytes_on_disk == size == (tmp_path / "a.mq.safetensors").stat().st_size
    assert all(torch.equal(t, weights[n]) for n, t in given_network.state_dict().items()), "the caller's is left alone"
    # A second generation is the same file, but for nothing.
    assert after.save(tmp_path / "b.mq.safetensors") == size
    assert same_outputs(artifact.load(tmp_path / "b.mq.safetensors", model=around(small_unet())), before, pictures())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_are_really_packed(bits: int, tmp_path: Path, quantized: Quantized) -> None:
    """A layer of 2^20 weights: a quarter of a million bytes at two bits."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1024, 1024))
    result = quantized(network, [torch.randn(1, 64, 1024)], bits, settings={"method": "rtn", "ends_bits": None})
    size = result.save(tmp_path / "a.mq.safetensors")
    codes, numbers = 1024 * 1024 * bits // 8, 1024 * ((4 + 4 if bits == 8 else 2 + 2) + 4)
    assert codes + numbers < size < codes + numbers + 5000, "scale, offset and bias of each output, and a description"
    assert abs(size * 8 - result.report.effective_bits * 1024 * 1024) < 8 * 10_000


def test_layers_known_by_two_names_are_stored_once(tmp_path: Path, quantized: Quantized) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 64, 5, bias=False), nn.BatchNorm2d(64)
            self.all_modules = nn.Sequential(self.conv, self.norm, nn.ReLU())
            self.kept = nn.Conv2d(64, 64, 3)
            self.also = self.kept

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.also(self.all_modules(x))

    inputs = [torch.randn(1, 1, 12, 12)]
    before = quantized(Block().eval(), inputs, 8, ignore=("kept",))
    size = before.save(tmp_path / "a.mq.safetensors")
    assert size < 25 * 64 + 2 * 9 * 64 * 64 + 10_000
    after = artifact.load(tmp_path / "a.mq.safetensors", model=around(Block().eval()))
    assert same_outputs(before, after, inputs)
    assert after.model.network.conv is after.model.network.all_modules[0]


@pytest.fixture(scope="module")
def saved(
    tmp_path_factory: pytest.TempPathFactory, small_unet: MakeNetwork, pictures: MakePictures, quantized: Quantized
) -> Path:
    path = tmp_path_factory.mktemp("saved") / "a.mq.safetensors"
    quantized(small_unet(), pictures(), 3).save(path)
    return path


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), in_header=st.booleans())
def test_no_flipped_bit_is_overlooked(
    where: float, bit: int, in_header: bool, saved: Path, small_unet: MakeNetwork
) -> None:
    data = bytearray(saved.read_bytes())
    (header,) = struct.unpack("<Q", data[:8])
    start, length = (0, 8 + header) if in_header else (8 + header, len(data) - 8 - header)
    data[start + int(where * length)] ^= 1 << bit
    path = saved.with_name("flipped.mq.safetensors")
    path.write_bytes(data)
    with pytest.raises(UserError):
        artifact.load(path, model=around(small_unet()))


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.3, 0.9, 0.9999])
def test_truncated_files(keep: float, saved: Path, small_unet: MakeNetwork, tmp_path: Path) -> None:
    data, path = saved.read_bytes(), tmp_path / "cut.mq.safetensors"
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=r"truncated or damaged|not a quantized model"):
        artifact.load(path, model=around(small_unet()))
    path.write_bytes(data + b"more")
    with pytest.raises(UserError):
        artifact.load(path, model=around(small_unet()))


def test_files_of_another_kind(tmp_path: Path, saved: Path) -> None:
    other = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3)}, other, {"format": "pt"})
    bare = tmp_path / "bare.safetensors"
    save_file({"a": torch.zeros(3)}, bare)
    pickle, empty = tmp_path / "model.pth", tmp_path / "empty"
    torch.save({"a": torch.zeros(3)}, pickle)
    empty.write_bytes(b"")
    for path in (other, bare, pickle, empty):
        assert not artifact.is_artifact(path)
        with pytest.raises(UserError, match=r"not a quantized model.*Choose a file"):
            artifact.load(path)
    for path in (tmp_path, tmp_path / "missing.mq.safetensors"):
        assert not artifact.is_artifact(path)
        with pytest.raises(UserError, match=r"no file.*Check the path"):
            artifact.load(path)
    assert artifact.is_artifact(saved)


def forged(saved: Path, target: Path, change: Callable[[dict[str, Any]], object], *, sign: bool = True) -> Path:
    """The file with another description, and with the hash that fits it."""
    data = saved.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    description = json.loads(metadata["description"])
    changed = change(description)
    description = description if changed is None else changed
    metadata["description"] = json.dumps(description)
    tensors = load_file(saved)
    if sign:
        metadata["sha256"] = artifact._digest(metadata["description"], tensors)
    save_file(tensors, target, metadata)
    return target


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another shape": lambda d: d["layers"]["head"]["geometry"].update(weight_shape=[3, 12, 2, 2]),
    "a huge shape": lambda d: d["layers"]["head"]["geometry"].update(weight_shape=[2**30, 2**30, 1, 1]),
    "another stride": lambda d: d["layers"]["down.0"]["geometry"].update(stride=[1, 1]),
    "an unknown kind": lambda d: d["layers"]["head"]["geometry"].update(kind="Embedding"),
    "other bits": lambda d: d["layers"]["head"].update(bits=4),
    "impossible bits": lambda d: d["layers"]["head"].update(bits=64),
    "a layer that is not there": lambda d: d["layers"].update(nowhere=d["layers"]["head"]),
    "no layers": lambda d: d.pop("layers"),
    "no family": lambda d: d.update(spec={}),
    "an unknown family": lambda d: d["spec"].update(family="os.system"),
    "a wrong recipe": lambda d: d["recipe"].update(method="awq"),
    "no provenance": lambda d: d.update(provenance=None),
    "a list": lambda d: [1, 2],
    "a number": lambda d: 3,
    "a version in words": lambda d: d.update(version="new"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_descriptions_that_do_not_fit(what: str, saved: Path, tmp_path: Path, small_unet: MakeNetwork) -> None:
    """Signed as it should be, so that nothing but the content is wrong."""
    path = forged(saved, tmp_path / "forged.mq.safetensors", CHANGES[what])
    # A family is asked for only where no model is given.
    with pytest.raises(UserError):
        artifact.load(path, model=None if "family" in what else around(small_unet()))


def test_the_untouched_file_loads(saved: Path, tmp_path: Path, small_unet: MakeNetwork) -> None:
    """What makes the tests above mean something."""
    assert artifact.load(forged(saved, tmp_path / "a", lambda d: None), model=around(small_unet()))


def test_changed_descriptions_and_newer_versions(saved: Path, tmp_path: Path, small_unet: MakeNetwork) -> None:
    path = forged(saved, tmp_path / "a", lambda d: d["provenance"].update(model="better"), sign=False)
    with pytest.raises(UserError, match=r"changed after it was written.*again"):
        artifact.load(path, model=around(small_unet()))
    path = forged(saved, tmp_path / "b", lambda d: d.update(version=artifact.VERSION + 1), sign=False)
    with pytest.raises(UserError, match=r"newer version.*Update medquant"):
        artifact.load(path, model=around(small_unet()))


def test_the_wrong_network(saved: Path) -> None:
    with pytest.raises(UserError, match="does not describe"):
        artifact.load(saved, model=around(nn.Sequential(nn.Conv2d(1, 3, 1))))
    with pytest.raises(UserError, match="from_module"):
        artifact.load(saved)


@pytest.mark.parametrize("old", [b"", b"an older model"])
def test_a_full_disk_leaves_nothing_new(
    old: bytes, tmp_path: Path, saved: Path, small_unet: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, target = artifact.load(saved, model=around(small_unet())), tmp_path / "a.mq.safetensors"
    if old:
        target.write_bytes(old)
    real = Path.write_bytes

    def half(path: Path, data: bytes) -> int:
        real(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(UserError, match=r"disk is full.*Free some space"):
        model.save(target)
    assert [path.name for path in tmp_path.iterdir()] == ([target.name] if old else [])
    assert not old or target.read_bytes() == old


def test_a_folder_where_nothing_can_be_written(tmp_path: Path, saved: Path, small_unet: MakeNetwork) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"Cannot write.*Choose a folder"):
        artifact.load(saved, model=around(small_unet())).save(tmp_path / "file" / "a.mq.safetensors")


def test_no_patient_data(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    array = rng.normal(size=(8, 12, 12)).astype(np.float32)
    volume = Volume(array, np.diag([1.25, 1.25, 7.125, 1.0]), name="DOE^JANE 1970-01-01", modality="CT")
    model = from_module(nn.Sequential(nn.Conv3d(1, 4, 3), nn.Conv3d(4, 2, 1)), name="mine", roi_size=(8, 8, 8))
    result = quantize(model, volume, selection=CalibrationSelection(2, "even"))
    result.save(tmp_path / "a.mq.safetensors")
    description = artifact.describe(tmp_path / "a.mq.safetensors")
    assert description["provenance"]["calibration_sha256"] == [volume.content_hash()]
    assert set(description["provenance"]) == {
        "model", "family", "weights_sha256", "calibration_sha256", "medquant_version", "torch_version", "created",
        "licence", "redesign",
    }  # fmt: skip
    data = (tmp_path / "a.mq.safetensors").read_bytes()
    assert not any(part in data for part in (b"DOE", b"JANE", b"1970-01", b"7.125", str(tmp_path).encode()))


IN_ANOTHER_PROCESS = """
import sys, torch
from medquant.models.registry import load_model
torch.set_num_threads(1)
inputs = torch.load(sys.argv[2], weights_only=True)
quantized = load_model(sys.argv[1], device="cpu")
with torch.inference_mode():
    torch.save(quantized.model.forward_for_calibration(quantized.model.network, *inputs), sys.argv[3])
"""


def test_a_sam_in_a_fresh_process(tiny_sam: SamConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = SlicePreprocessing(image_size=48)
    spec = {"family": "medsam", "name": "tiny", "config": tiny_sam.to_dict(), "preprocessing": settings.to_dict()}
    spec = json.loads(json.dumps(spec, default=str))
    model = SamModelAdapter(SamModel(tiny_sam), preprocessing=settings, name="tiny", spec=spec, weights_hash="0" * 64)
    inputs = (torch.randn(1, 3, 48, 48), torch.tensor([[[5.0, 6.0, 30.0, 40.0]]]))
    result = quantize(model, [CalibrationBatch(inputs, torch.ones(1, 48, 48))], recipe=Recipe(weights=IntWeights(4)))
    path, given_file, output = (tmp_path / name for name in ("a.mq.safetensors", "inputs.pt", "output.pt"))
    result.save(path)
    torch.save(inputs, given_file)
    with torch.inference_mode():
        expected = model.forward_for_calibration(result.model.network, *inputs)
        here = load_model(path, device="cpu")
        assert torch.equal(here.model.forward_for_calibration(here.model.network, *inputs), expected)
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(path), str(given_file), str(output)]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert torch.equal(torch.load(output, weights_only=True), expected)


@pytest.mark.data
def test_a_real_network_on_a_real_scan(test_data: Path, tmp_path: Path) -> None:
    """The centre of a CT through a trained network: four bits change little, and the file gives the same labels."""
    from medquant.bench.allconvunet import AllConvUNet, box_around, load, to_cube, to_network_axes

    volume, labels = (read_volume(test_data / "ct_abdomen_3mm" / f"{name}.nii.gz") for name in ("ct", "labels"))
    organs = np.isin(to_network_axes(labels), range(1, 8))
    cube = to_cube(to_network_axes(volume), box_around(organs, (6, 4, 2)))
    # The network takes any size; the field of view is what it needs.
    x = nn.functional.interpolate(cube, size=(64, 64, 64), mode="trilinear")
    network = load(test_data / "weights" / "allconvunet" / "allconvunet_tcia_fold2.pth")
    model = from_module(network, name="allconvunet")
    result = quantize(model, [CalibrationBatch((x,))], recipe=Recipe(weights=IntWeights(4)))
    assert len(result.report.layers) == 17 and not result.report.kept and 3.5 < result.report.effective_bits < 4.3
    size = result.save(tmp_path / "a.mq.safetensors")
    assert size < 883_740 * 4.4 / 8 + 60_000
    after = artifact.load(tmp_path / "a.mq.safetensors", model=from_module(AllConvUNet(), name="allconvunet"))
    with torch.inference_mode():
        expected, found, again = (n(x).argmax(1) for n in (network, result.model.network, after.model.network))
    assert torch.equal(found, again)
    assert len(expected.unique()) > 2, "the network sees organs"
    both = ((found > 0) & (expected > 0)).sum()
    assert 2 * both / ((found > 0).sum() + (expected > 0).sum()) > 0.95

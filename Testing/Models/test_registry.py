"""Models by name and by path, the list of models, and what is not one."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection
from medquant.models.catalogue import EMBEDDED_NNUNET, EMBEDDED_PROMPTABLE, EMBEDDED_UNETR
from medquant.models.prompt_images import MEDSAM, SAM, SlicePreprocessing
from medquant.models.registry import adapter_class, choose_device, list_models, load_model
from medquant.models.sam import SamModelAdapter
from medquant.prompts import Box, BoxPrompt
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe
from medquant.segment import segment

MakeModel = Callable[..., SamModelAdapter]


@pytest.fixture
def folder(small_adapter: MakeModel, tmp_path: Path) -> Path:
    small_adapter(SlicePreprocessing(image_size=64)).network.save_pretrained(tmp_path / "folder")
    return tmp_path / "folder"


def test_the_list_tells_what_a_user_must_know() -> None:
    entries = {entry.name: entry for entry in list_models()}
    own = ("embedded", "embedded-nnunet", "embedded-unetr")
    for name in (*own, "medsam", "sam-vit-b", "sam-vit-l", "sam-vit-h", "nnunet"):
        assert name in entries
    for name in ("UNet", "DynUNet", "SegResNet", "UNETR", "SwinUNETR"):
        assert entries[f"monai:{name}"].family == "monai"
    for entry in entries.values():
        adapter_class(entry.family)
        assert entry.title and entry.task and entry.modality and entry.prompt in ("box", "none") and entry.licence
        assert entry.offline or entry.needs or entry.name.startswith("embedded")
        assert json.loads(json.dumps(entry.to_dict()))["name"] == entry.name
    assert entries["medsam"].parameters == 93_735_472
    assert entries["embedded"].offline == EMBEDDED_PROMPTABLE.is_dir()


def test_a_transformers_folder_is_recognised(folder: Path) -> None:
    model = load_model(folder, device="cpu")
    assert isinstance(model, SamModelAdapter) and model.preprocessing.image_size == 64


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sam_vit_b_01ec64", SAM), ("sam-vit-base", SAM), ("medsam_vit_b", MEDSAM), ("my_finetuned", MEDSAM)],
)
def test_names_decide_the_preprocessing(folder: Path, name: str, expected: SlicePreprocessing) -> None:
    model = load_model(folder.rename(folder.with_name(name)), device="cpu")
    assert model.preprocessing == replace(expected, image_size=64)
    assert model.name == name


def test_mistakes_are_explained(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no weights")
    (tmp_path / "empty").mkdir()
    for spec, weights, message in (
        ("medsamm", None, "no model and no file 'medsamm'.*Known names"),
        ("medsan", None, r"Did you mean medsam\?.*monai:NETWORK"),
        (tmp_path / "none.pth", None, r"no file or folder .*none\.pth.*typing error"),
        ("small.mq.safetensors", None, "typing error"),
        (tmp_path / "notes.txt", None, "no model file that is known"),
        (tmp_path / "empty", None, r"no plans\.json"),
        ("nnunet", None, "needs a results folder"),
        ("monai:UNet", None, "needs trained weights"),
        ("sam-vit-b", None, r"sam_vit_b_01ec64\.pth"),
        ("sam-vit-l", folder, "not of sam-vit-l"),
        ("medsam", tmp_path / "none.pth", "There is no file"),
    ):
        with pytest.raises(UserError, match=message):
            load_model(spec, weights=weights, device="cpu")


def test_quantized_models_are_opened_and_damaged_ones_named(
    small_adapter: MakeModel, blob_ct: Callable[..., Volume], tmp_path: Path
) -> None:
    model = small_adapter(SlicePreprocessing(image_size=64))
    recipe = Recipe(weights=IntWeights(bits=8), method="rtn")
    quantized = quantize(model, blob_ct(), recipe=recipe, selection=CalibrationSelection(count=1))
    path = tmp_path / "small.mq.safetensors"
    quantized.save(path)
    prompt = BoxPrompt((Box((8, 9, 1), (30, 25, 2), plane="axial"),))
    again = load_model(path, device="cpu")
    np.testing.assert_array_equal(
        segment(again, blob_ct(), prompt=prompt).labels, segment(quantized, blob_ct(), prompt=prompt).labels
    )
    with pytest.raises(UserError, match="has no option window_level"):
        load_model(path, window_level=3)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"small\.mq\.safetensors is truncated or damaged"):
        load_model(path)


def test_a_folder_of_another_kind_of_model(folder: Path) -> None:
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(data | {"model_type": "bert"}))
    with pytest.raises(UserError, match="holds a bert, not a SAM"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps(data))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        load_model(folder)


def test_a_configuration_cannot_name_code(folder: Path) -> None:
    data = json.loads((folder / "config.json").read_text())
    data["attn_implementation"] = data["_attn_implementation"] = "someone/kernels"
    data["vision_config"]["attn_implementation"] = "someone/kernels"
    data["auto_map"] = {"AutoModel": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(data))
    model = load_model(folder, device="cpu")
    assert "someone" not in json.dumps(model.spec) and model.network.config._attn_implementation in ("sdpa", "eager")


def test_a_configuration_that_is_no_sam(folder: Path) -> None:
    data = json.loads((folder / "config.json").read_text())
    for broken in ({"vision_config": {"hidden_size": "wide"}}, {"vision_config": 3}, {"mask_decoder_config": None}):
        (folder / "config.json").write_text(json.dumps(data | broken))
        with pytest.raises(UserError, match="does not describe a SAM"):
            load_model(folder, device="cpu")
    (folder / "config.json").write_text(json.dumps(data | {"vision_config": data["vision_config"] | {"mlp_dim": 7}}))
    with pytest.raises(UserError, match="do not fit a SAM of width 32"):
        load_model(folder, device="cpu")


def test_devices() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected and choose_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="Unknown device"):
        choose_device("abacus")
    if expected == "cpu":
        with pytest.raises(UserError, match="no CUDA device"):
            choose_device("cuda")


def test_windows_are_options(folder: Path) -> None:
    model = load_model(folder, device="cpu", window_level=-600, window_width=1500)
    assert (model.preprocessing.window_level, model.preprocessing.window_width) == (-600.0, 1500.0)
    with pytest.raises(UserError, match=r"no option window.*It has name, preprocessing, window_level"):
        load_model(folder, device="cpu", window=400)
    with pytest.raises(UserError, match="positive width"):
        load_model(folder, device="cpu", window_width=0)


@pytest.mark.parametrize(
    "option", [{"window_level": "abc"}, {"window_width": [1]}, {"preprocessing": {"image_size": 64}}]
)
def test_unusable_options_are_told(folder: Path, option: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"An option of .*folder has an unusable value .*Correct --option"):
        load_model(folder, device="cpu", **option)


def test_a_deeply_nested_file_is_no_quantized_model(tmp_path: Path) -> None:
    header = b"[" * 200_000
    path = tmp_path / "deep.mq.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(UserError, match="is not a quantized model"):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("embedded", EMBEDDED_PROMPTABLE),
        ("embedded-nnunet", EMBEDDED_NNUNET),
        ("embedded-unetr", EMBEDDED_UNETR),
    ],
)
def test_embedded_models_load_without_a_network(name: str, place: Path) -> None:
    assert place.is_dir(), f"{name} is a part of this checkout"
    model = load_model(name, device="cpu")
    assert model.name == name and model.licence == "Apache-2.0" and len(model.weights_hash) == 64

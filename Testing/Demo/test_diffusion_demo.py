"""The diffusion network that comes with the package: what is in its folder, and the slices it learnt from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medquant.embedded.diffusion_demo.configuration import (
    OPTIONS,
    SIDE,
    images_of,
    latents_of,
    load_weights,
    save_weights,
    untrained,
)
from medquant.embedded.diffusion_demo.dataset import drawn_slices, single_slices
from medquant.embedded.diffusion_demo.training import train
from medquant.errors import UserError
from medquant.models.catalogue import EMBEDDED_DIFFUSION, list_models
from medquant.progress import Progress


def test_folder_is_complete_small_and_as_the_code_says() -> None:
    files = {file.name: file for file in EMBEDDED_DIFFUSION.iterdir()}
    assert set(files) == {"MODEL_CARD.md", "model.json", "model.safetensors", "training.json"}
    assert sum(file.stat().st_size for file in files.values()) <= 3_000_000
    assert json.loads(files["model.json"].read_text(encoding="utf-8")) == OPTIONS
    card = files["MODEL_CARD.md"].read_text(encoding="utf-8")
    parameters = sum(parameter.numel() for parameter in load_weights(EMBEDDED_DIFFUSION).parameters())
    assert parameters <= 1_500_000 and f"{parameters:,} parameters" in card
    told = json.loads(files["training.json"].read_text(encoding="utf-8"))
    assert f"{told['steps']} steps" in card and f"{told['phantoms']} procedural phantoms" in card
    assert "medquant bench generation" in card and "diagnoses nothing" in card
    assert all("diffusion" not in entry.name for entry in list_models()), "it segments nothing"


def test_it_attends_at_the_coarsest_level_as_maisi_does() -> None:
    names = [name for name, _ in untrained().named_modules() if name.endswith(".attn")]
    assert names and all(name.startswith(("down_blocks.2.", "middle_block.", "up_blocks.0.")) for name in names)


def test_folding_loses_nothing() -> None:
    images = torch.rand(2, 1, SIDE, SIDE) * 2 - 1
    assert latents_of(images).shape == (2, 4, 32, 32)
    assert torch.equal(images_of(latents_of(images)), images)


def test_slices_show_a_body_in_air_and_are_the_same_for_a_seed() -> None:
    slices = drawn_slices(905, 2)
    assert slices.shape == (2, 1, SIDE, SIDE) and slices.dtype == np.float32
    assert slices.min() >= -1 and slices.max() <= 1
    assert (slices[:, :, :4, :4] < -0.9).all() and (np.abs(slices[:, :, 20:44, 20:44]) < 0.9).mean() > 0.5
    assert np.array_equal(slices, drawn_slices(905, 2)) and not np.array_equal(slices[0], slices[1])


def test_of_each_held_out_phantom_one_slice_counts_at_any_height() -> None:
    found = single_slices([2000, 2001], Progress())
    assert found.shape == (2, 1, SIDE, SIDE)
    assert np.array_equal(found[0], drawn_slices(2000, 2)[0]) and np.array_equal(found[1], drawn_slices(2001, 2)[1])


def test_weights_are_kept_in_16_bits_and_damaged_ones_refused(tmp_path) -> None:
    network = untrained()
    save_weights(network, tmp_path, {})
    pairs = zip(load_weights(tmp_path).state_dict().values(), network.state_dict().values(), strict=True)
    assert all(torch.equal(one, other.half().float()) for one, other in pairs)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        load_weights(tmp_path)


@pytest.mark.heavy
def test_training_from_nothing_gives_the_same_folder_twice(tmp_path) -> None:
    folders = [train(tmp_path / name, phantoms=1, steps=3) for name in ("a", "b")]
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second
    assert json.loads((folders[0] / "training.json").read_text(encoding="utf-8"))["slices"] == 12

"""The UNETR that comes with the package is real, small, and it segments phantoms."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medquant import load_model, segment
from medquant.embedded.nnunet_demo.evaluate import dice_by_organ
from medquant.embedded.phantom import LABEL_NAMES, make_phantom
from medquant.embedded.unetr_demo.configuration import OPTIONS, WINDOW, save_weights, untrained
from medquant.embedded.unetr_demo.dataset import varied
from medquant.embedded.unetr_demo.training import train
from medquant.imaging.volume import Volume
from medquant.models.catalogue import EMBEDDED_UNETR, list_models
from medquant.models.monai_networks import MonaiModel


def test_folder_is_complete_small_and_as_the_code_says():
    files = {file.name: file for file in EMBEDDED_UNETR.iterdir()}
    assert set(files) == {"MODEL_CARD.md", "model.json", "model.safetensors", "training.json"}
    assert sum(file.stat().st_size for file in files.values()) <= 3_000_000
    assert json.loads(files["model.json"].read_text(encoding="utf-8")) == OPTIONS
    card = files["MODEL_CARD.md"].read_text(encoding="utf-8")
    assert "demonstrates and diagnoses nothing" in card and "medquant.embedded.unetr_demo.evaluate" in card
    entry = next(entry for entry in list_models() if entry.name == "embedded-unetr")
    assert entry.offline and entry.parameters == sum(p.numel() for p in untrained().network.parameters())
    assert f"{entry.parameters:,} parameters" in card


def test_segments_a_phantom_it_never_saw():
    image, labels, _, affine = make_phantom(905, (60, 128, 128), (3.0, 3.0, 3.0))
    volume = Volume(image, affine, modality="CT")
    found = segment(load_model("embedded-unetr", device="cpu"), volume)
    scores = dice_by_organ(found.labels, labels, volume.voxel_volume_ml)
    assert set(scores) == set(LABEL_NAMES.values())
    assert scores["liver"] > 0.9 and np.mean(list(scores.values())) > 0.8, scores


def test_weights_are_kept_in_16_bits(tmp_path):
    model = untrained()
    save_weights(model.network, tmp_path, {})
    again = MonaiModel.load(tmp_path / "model.safetensors", **OPTIONS)
    pairs = zip(again.network.state_dict().values(), model.network.state_dict().values(), strict=True)
    assert all(torch.equal(one, other.half().float()) for one, other in pairs)


@pytest.mark.parametrize("seed", range(3))
def test_image_and_labels_are_moved_alike(seed):
    """An image that is its own label map stays that, wherever it is moved to."""
    labels = torch.zeros(45, 96, 96, dtype=torch.uint8)
    labels[10:35, 30:70, 20:80] = 1
    image, truth = varied((labels[None].float(), labels), np.random.default_rng(seed))
    assert image.shape == truth.shape == (1, 1, *WINDOW)
    inside = image[truth == 1].median()
    wrong = (image > inside / 2) != (truth == 1)
    assert 0.3 < float(truth.sum()) / labels.sum() < 2
    assert wrong.float().mean() < 0.01


@pytest.mark.heavy
def test_training_from_nothing_gives_a_folder_that_loads_and_the_same_twice(tmp_path):
    folders = [train(tmp_path / name, cases=1, steps=3) for name in ("a", "b")]
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second
    assert MonaiModel.load(folders[0] / "model.safetensors", **OPTIONS).structures

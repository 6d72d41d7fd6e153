"""The shipped weights of the small promptable model, on scans that they were never trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import SamModel

from medquant.embedded.promptable.configuration import PREPROCESSOR, WEIGHTS_FOLDER
from medquant.embedded.promptable.evaluation import ellipse_in_box, evaluate, otsu_in_box
from medquant.imaging.volume import Volume
from medquant.models.registry import load_model
from medquant.prompts import Box, BoxPrompt
from medquant.segment import segment


def test_the_folder_is_complete_and_small() -> None:
    assert (WEIGHTS_FOLDER / "model.safetensors").stat().st_size <= 12e6
    stored = load_file(WEIGHTS_FOLDER / "model.safetensors")
    assert all(tensor.dtype == torch.float16 and torch.isfinite(tensor).all() for tensor in stored.values())
    assert json.loads((WEIGHTS_FOLDER / "preprocessor.json").read_text(encoding="utf-8")) == PREPROCESSOR
    card = (WEIGHTS_FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    for said in ("procedural", "Apache-2.0", "diagnose"):
        assert said in card


def test_transformers_loads_it_without_complaint() -> None:
    model, info = SamModel.from_pretrained(WEIGHTS_FOLDER, output_loading_info=True, local_files_only=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.dtype == torch.float32


def test_dice_on_every_section_of_unseen_scans(test_data: Path) -> None:
    scans = ("ct_abdomen_dicom", "ct_spleen_5mm")
    rows = evaluate(WEIGHTS_FOLDER, test_data, scans=scans)
    found = {(row["scan"], row["structure"]): row for row in rows}
    assert list(found) == [*((scans[0], organ) for organ in ("liver", "spleen", "stomach")), (scans[1], "spleen")]
    assert [row["masks"] for row in rows] == [20, 20, 20, 20]
    model, otsu, ellipse = (
        np.mean([row[kind] for row in rows if row["scan"] == scans[0]])
        for kind in ("dice", "dice_otsu", "dice_ellipse")
    )
    assert model >= 0.895
    assert model >= otsu + 0.06
    assert model >= ellipse + 0.11
    assert found[scans[0], "liver"]["dice"] >= 0.94
    assert found[scans[1], "spleen"]["dice"] >= 0.90


def test_a_box_of_one_voxel_is_segmented() -> None:
    array = np.full((3, 40, 40), -100, np.int16)
    array[:, 10:30, 10:30] = 60
    dot = Box((20, 21, 1), (20, 21, 1), label=3)
    found = segment(
        load_model("embedded", device="cpu"), Volume(array, np.eye(4), modality="CT"), prompt=BoxPrompt((dot,))
    ).labels
    found[1, 21, 20] = 0
    assert not found.any(), "nothing outside the box"


def test_the_ellipse_touches_its_box() -> None:
    reference = np.zeros((40, 50), bool)
    reference[5:25, 10:40] = True
    ellipse = ellipse_in_box(reference)
    rows, columns = np.flatnonzero(ellipse.any(1)), np.flatnonzero(ellipse.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (5, 24, 10, 39)
    assert ellipse.sum() == pytest.approx(np.pi / 4 * 20 * 30, rel=0.03)


@pytest.mark.parametrize("bright", [True, False])
def test_otsu_finds_a_disc_of_either_contrast(bright: bool) -> None:
    row, column = np.ogrid[:60, :60]
    disc = (row - 30) ** 2 + (column - 25) ** 2 <= 15**2
    grey = np.where(disc == bright, 200, 60).astype(np.uint8)
    assert np.array_equal(otsu_in_box(grey, disc), disc)


def test_otsu_of_a_flat_box_is_the_box() -> None:
    reference = np.zeros((20, 20), bool)
    reference[4:9, 3:12] = True
    assert np.array_equal(otsu_in_box(np.full((20, 20), 7, np.uint8), reference), reference)

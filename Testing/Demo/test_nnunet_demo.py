"""The results folder that comes with the package is a real nnU-Net, small, safe to load, and it segments phantoms."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medquant.embedded.nnunet_demo import results_folder, train
from medquant.embedded.nnunet_demo.checkpoint import strip_checkpoint
from medquant.embedded.nnunet_demo.dataset import other_phase, write_case
from medquant.embedded.nnunet_demo.evaluate import dice_by_organ, read_oriented, renumbered
from medquant.embedded.nnunet_demo.layout import CONFIGURATION, DATASET, MODEL, PLANS, TARGET_SPACING
from medquant.embedded.nnunet_demo.prediction import load_predictor, predict
from medquant.embedded.phantom import LABEL_NAMES, make_phantom
from medquant.errors import UserError

CHECKPOINT = "fold_0/checkpoint_final.pth"


def test_folder_is_complete_and_small():
    model = results_folder()
    assert model.parts[-2:] == (DATASET, MODEL)
    for name in ("plans.json", "dataset.json", "dataset_fingerprint.json", CHECKPOINT):
        assert (model / name).is_file(), name
    assert sum(file.stat().st_size for file in model.parents[1].rglob("*") if file.is_file()) <= 10_000_000
    labels = json.loads((model / "dataset.json").read_text(encoding="utf-8"))["labels"]
    assert labels == {"background": 0} | {name: value for value, name in LABEL_NAMES.items()}
    plans = json.loads((model / "plans.json").read_text(encoding="utf-8"))
    # It tells left from right, so the reader must turn every scan the same way.
    assert plans["image_reader_writer"] == "NibabelIOWithReorient"


def test_model_card_says_what_it_is():
    card = (results_folder().parents[1] / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "demonstrates and diagnoses nothing" in card
    assert "medquant.embedded.nnunet_demo.evaluate" in card


def test_checkpoint_loads_without_running_code():
    checkpoint = torch.load(results_folder() / CHECKPOINT, map_location="cpu", weights_only=True)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert checkpoint["init_args"]["configuration"] == CONFIGURATION
    assert checkpoint["inference_allowed_mirroring_axes"] is None
    assert "optimizer_state" not in checkpoint
    assert all(torch.isfinite(value).all() for value in checkpoint["network_weights"].values())


def test_own_predictor_of_nnunetv2_opens_the_folder():
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(results_folder()), (0,), "checkpoint_final.pth")
    ours = load_predictor(results_folder())
    image = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    with torch.no_grad():
        assert torch.equal(predictor.network.eval()(image), ours.network.eval()(image))


def test_segments_a_phantom_it_never_saw():
    image, labels, _, _ = make_phantom(905, (48, 128, 144), TARGET_SPACING, centre=(0.0, 0.0, 0.0))
    predicted = predict(load_predictor(results_folder()), image, TARGET_SPACING)
    assert predicted.shape == labels.shape
    scores = dice_by_organ(predicted, labels, float(np.prod(TARGET_SPACING)) / 1000)
    assert set(scores) == set(LABEL_NAMES.values())
    assert scores["liver"] > 0.94 and scores["spleen"] > 0.9
    assert np.mean(list(scores.values())) > 0.85, scores


def test_stripping_keeps_weights_and_drops_the_rest(tmp_path):
    shared = torch.randn(3, 4)
    torch.save(
        {
            "network_weights": {"encoder.weight": shared, "decoder.encoder.weight": shared},
            "optimizer_state": {"moment": torch.zeros(1000)},
            "logging": {"loss": [np.float64(1.0)]},
            "init_args": {
                "plans": {"a": 1},
                "configuration": CONFIGURATION,
                "fold": 0,
                "dataset_json": {"labels": {}},
                "device": torch.device("cpu"),
            },
            "inference_allowed_mirroring_axes": None,
            "current_epoch": np.int64(7),
        },
        tmp_path / "full.pth",
    )
    strip_checkpoint(tmp_path / "full.pth", tmp_path / "small.pth")
    kept = torch.load(tmp_path / "small.pth", weights_only=True)
    assert torch.equal(kept["network_weights"]["encoder.weight"], shared)
    first, second = kept["network_weights"].values()
    assert first.data_ptr() == second.data_ptr()  # shared tensors are stored once
    assert kept["current_epoch"] == 7 and kept["init_args"] == {"configuration": CONFIGURATION, "fold": 0}


@pytest.mark.parametrize("seed", range(4))
def test_other_contrast_phases_keep_the_order_of_tissues(seed):
    values = np.arange(-1024, 3072, dtype=np.int16)
    bent = other_phase(values, np.random.default_rng(seed))
    assert (np.diff(bent.astype(int)) >= 0).all()
    assert bent[0] == -1024 and bent[-1] <= 3071
    assert not np.array_equal(bent, values)


def test_cases_are_written_where_they_lie(tmp_path, monkeypatch):
    monkeypatch.setattr("medquant.embedded.nnunet_demo.dataset.PHANTOM_SHAPE", (20, 64, 64))
    monkeypatch.setattr("medquant.embedded.nnunet_demo.dataset.PHANTOM_SPACING", (9.0, 6.0, 6.0))
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
    name = write_case(tmp_path, 900)
    scan, labels = tmp_path / "imagesTr" / f"{name}_0000.nii.gz", tmp_path / "labelsTr" / f"{name}.nii.gz"
    image, reference, spacing = read_oriented(scan, labels)
    assert image.shape == (20, 64, 64) and spacing == pytest.approx((9.0, 6.0, 6.0))
    liver = np.argwhere(reference == 5).mean(0)
    assert liver[2] < 32  # patient's right comes first along i

    # A file stored the other way round reads as the same arrays.
    for file in (scan, labels):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), "RAS"), str(file))
    again = read_oriented(scan, labels)
    assert np.array_equal(again[0], image) and np.array_equal(again[1], reference)


def test_labels_of_other_numbering_are_read_and_clashes_dropped():
    labels = np.array([5, 52, 8, 63, 9])
    assert renumbered(labels, ["52=8", "63=9"]).tolist() == [5, 8, 0, 9, 0]
    assert renumbered(labels, []).tolist() == labels.tolist()


def test_a_failing_training_says_where_its_messages_are_and_uses_no_pickles_from_elsewhere(tmp_path):
    work = tmp_path / "work"
    foreign = work / "preprocessed" / DATASET / f"{PLANS}_{CONFIGURATION}" / "phantom_1000.pkl"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"nnunetv2 keeps one beside each preprocessed case")
    (work / "split.json").write_text('{"train": ["missing"], "val": ["missing"]}', encoding="utf-8")
    with pytest.raises(UserError, match=r"nnunet\.log"):
        train(tmp_path / "out", cases=1, epochs=1, iterations=1, work=work)
    assert not (tmp_path / "out").exists()
    assert not foreign.exists()


class Evil:
    """Touches a file when it is unpickled the careless way."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


def test_a_checkpoint_from_elsewhere_cannot_run_code(tmp_path):
    marker, evil = tmp_path / "it ran", tmp_path / "evil.pth"
    torch.save({"network_weights": {}, "init_args": Evil(marker)}, evil)
    with pytest.raises(UserError, match="could run code"):
        strip_checkpoint(evil, tmp_path / "small.pth")
    fold = tmp_path / "work" / "results" / DATASET / f"ShortTrainer__{PLANS}__{CONFIGURATION}" / "fold_0"
    fold.mkdir(parents=True)
    evil.rename(fold / "checkpoint_latest.pth")
    with pytest.raises(UserError, match="could run code"):
        train(tmp_path / "out", cases=1, epochs=1, iterations=1, work=tmp_path / "work")
    assert not marker.exists()


@pytest.mark.heavy
def test_training_from_nothing_gives_a_folder_that_loads(tmp_path):
    seen = []
    model = train(
        tmp_path / "out", cases=1, epochs=1, iterations=2, work=tmp_path / "work", progress=lambda e: seen.append(e)
    )
    assert model == tmp_path / "out" / DATASET / MODEL
    assert load_predictor(model).network is not None
    assert not [name for name in os.environ if name.startswith("nnUNet_")]
    assert [event.fraction for event in seen] == sorted(event.fraction for event in seen)
    assert seen[-1].fraction == 1.0

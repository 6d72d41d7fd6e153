"""nnU-Net's results folders: found from several places, and those that are not as they should be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medquant.errors import UserError
from medquant.models.nnunet import NnUNetModel
from medquant.models.registry import load_model

Make = Callable[..., Any]


def broken(results: Path, tmp_path: Path, change: Callable[[Path], Any]) -> Path:
    folder = Path(shutil.copytree(results, tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"))
    change(folder)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "plans.json").unlink(), r"no plans\.json in .*3d_fullres"),
        (lambda f: (f / "dataset.json").unlink(), r"has no dataset\.json"),
        (lambda f: shutil.rmtree(f / "fold_0"), "no folder fold_0"),
        (lambda f: (f / "fold_0" / "checkpoint_final.pth").unlink(), r"fold_0 has no checkpoint_final\.pth"),
        (lambda f: (f / "plans.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "dataset.json").write_text('{"labels": {"background": 0}}'), "cannot be used"),
        (lambda f: (f / "plans.pkl").write_bytes(b""), "version 1"),
        (lambda f: torch.save({"a": torch.zeros(2)}, f / "fold_0" / "checkpoint_final.pth"), "lacks network_weights"),
        (lambda f: (f / "fold_0" / "checkpoint_final.pth").write_bytes(b"PK\x03\x04 cut"), "cannot be read as weights"),
    ],
)
def test_wrong_layouts_are_named(results: Path, tmp_path: Path, change: Callable[[Path], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_model("nnunet", weights=broken(results, tmp_path, change))


def test_a_missing_folder_fold_or_configuration_is_named(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        NnUNetModel.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no fold_4, only fold_0"):
        NnUNetModel.load(results, folds=(4,))
    with pytest.raises(UserError, match="has the configurations 3d_fullres, not 2d"):
        NnUNetModel.load(results.parent, configuration="2d")


def test_the_dataset_folder_the_fold_and_the_checkpoint_lead_to_the_model(results: Path) -> None:
    expected = NnUNetModel.load(results)
    for path in (results.parent, results / "fold_0", results / "fold_0" / "checkpoint_final.pth"):
        assert NnUNetModel.load(path).weights_hash == expected.weights_hash


def test_one_fold_is_a_number_too(tmp_path: Path, plans_of: Make, write_results: Make) -> None:
    folder = write_results(tmp_path / "results", plans_of(), folds=(0, 1))
    assert load_model("nnunet", weights=folder, folds=0).spec["folds"] == ["0"]
    assert load_model("nnunet", weights=folder / "fold_1", folds=0).spec["folds"] == ["0"]


@pytest.mark.parametrize("option", [{"folds": 0.5}, {"checkpoint": 3}, {"step_size": "a"}, {"folds": [[]]}])
def test_unusable_options_are_told(results: Path, option: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"Correct --option|has no"):
        load_model("nnunet", weights=results, **option)


def test_several_channels_are_counted(tmp_path: Path, plans_of: Make, write_results: Make) -> None:
    folder = write_results(tmp_path / "results", plans_of(), channels=3)
    with pytest.raises(UserError, match=r"trained on 3 channels \(CT, other 1, other 2\)"):
        NnUNetModel.load(folder)


def test_weights_of_other_plans_are_named(results: Path, tmp_path: Path) -> None:
    def wider(folder: Path) -> None:
        plans = json.loads((folder / "plans.json").read_text())
        plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 10, 8]
        (folder / "plans.json").write_text(json.dumps(plans))

    with pytest.raises(UserError, match="do not fit the plans beside it"):
        NnUNetModel.load(broken(results, tmp_path, wider))


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("network_class_name", "subprocess.Popen"),
        ("network_class_name", "dynamic_network_architectures.architectures.unet.torch.load"),
        ("conv_op", "torch.nn.modules.module.torch.hub.load"),
        ("preprocessor_name", "rmtree"),
        ("resampling_fn_data", "system"),
        ("normalization_schemes", ["Popen"]),
        ("conv_op", "os.system"),
    ],
)
def test_plans_cannot_name_just_anything(results: Path, tmp_path: Path, key: str, name: Any) -> None:
    def foreign(folder: Path) -> None:
        plans = json.loads((folder / "plans.json").read_text())
        configuration = plans["configurations"]["3d_fullres"]
        architecture = configuration["architecture"]
        places = (configuration, architecture, architecture["arch_kwargs"])
        next(place for place in places if key in place)[key] = name
        (folder / "plans.json").write_text(json.dumps(plans))

    with pytest.raises(UserError, match="which nnunetv2 does not have"):
        NnUNetModel.load(broken(results, tmp_path, foreign))


def test_a_checkpoint_that_would_run_code_is_refused(results: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    def poisoned(folder: Path) -> None:
        file = folder / "fold_0" / "checkpoint_final.pth"
        content = torch.load(file, weights_only=False)
        torch.save({**content, "logging": Evil()}, file)

    with pytest.raises(UserError, match="could run code"):
        NnUNetModel.load(broken(results, tmp_path, poisoned))
    assert not marker.exists()

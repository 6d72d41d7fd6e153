"""nnU-Net: the labels of nnunetv2's own predictor, voxel by voxel, and folders that are not as they should be."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from medquant.embedded.phantom import make_phantom
from medquant.errors import Cancelled, UserError
from medquant.imaging.reading import read_volume
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection
from medquant.models.catalogue import EMBEDDED_NNUNET
from medquant.models.nnunet import NnUNetModel
from medquant.models.nnunet_folder import quietly
from medquant.models.registry import from_spec, load_model
from medquant.progress import Progress
from medquant.prompts import Box, BoxPrompt

LABELS = {"background": 0, "liver": 1, "spleen": 2, "left kidney": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "inner": [3]}


def plans_of(
    dimensions: int = 3, reader: str = "SimpleITKIO", transpose: tuple[int, ...] = (0, 1, 2)
) -> dict[str, Any]:
    """Plans as nnU-Net's planner writes them, of a small PlainConvUNet."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 24, 16] if dimensions == 3 else [24, 32],
        "median_image_size_in_voxels": [30.0, 40.0, 40.0][3 - dimensions :],
        "spacing": [3.0, 1.5, 1.2][3 - dimensions :],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [4, 6, 8],
                "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
                "kernel_sizes": [[3] * dimensions] * 3,
                "strides": [[1] * dimensions, [2] * dimensions, [2] * dimensions],
                "n_conv_per_stage": [1, 1, 1],
                "n_conv_per_stage_decoder": [1, 1],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }
    return {
        "dataset_name": "Dataset901_Small",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 1.5, 1.2],
        "original_median_shape_after_transp": [30, 40, 40],
        "image_reader_writer": reader,
        "transpose_forward": list(transpose),
        "transpose_backward": [int(n) for n in np.argsort(transpose)],
        "configurations": {"3d_fullres" if dimensions == 3 else "2d": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "max": 300.0,
                "mean": 60.0,
                "median": 60.0,
                "min": -200.0,
                "percentile_00_5": -150.0,
                "percentile_99_5": 250.0,
                "std": 70.0,
            }
        },
    }


def write_results(
    folder: Path,
    plans: dict[str, Any],
    *,
    labels: dict[str, Any] = LABELS,
    folds: tuple[int | str, ...] = (0,),
    channels: int = 1,
    seed: int = 2,
) -> Path:
    """A results folder as the trainer leaves it, with random weights whose logits vary."""
    with quietly():
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    name, configuration = next(iter(plans["configurations"].items()))
    architecture = configuration["architecture"]
    dataset = {
        "channel_names": {str(n): "CT" if n == 0 else f"other {n}" for n in range(channels)},
        "labels": labels,
        "numTraining": 3,
        "training": [{"image": "imagesTr/mueller_hans_0000.nii.gz"}],
        "file_ending": ".nii.gz",
        **({"regions_class_order": [1, 2, 3]} if labels is REGIONS else {}),
    }
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for number, fold in enumerate(folds):
        torch.manual_seed(seed + number)
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            channels,
            3 if labels is REGIONS else len(labels),
            deep_supervision=True,
        )
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.randn_like(parameter) * (1.5 / parameter[0].numel() ** 0.5))
        checkpoint = {
            "network_weights": network.state_dict(),
            "optimizer_state": torch.optim.SGD(network.parameters(), 0.01, momentum=0.99).state_dict(),
            "grad_scaler_state": None,
            "logging": {"ema_fg_dice": [np.float64(0.5)], "dice_per_class_or_region": [[np.float32(0.4)] * 3]},
            "_best_ema": np.float64(0.61),
            "current_epoch": 5,
            "init_args": {
                "plans": plans,
                "configuration": name,
                "fold": fold,
                "dataset_json": dataset,
                "device": torch.device("cpu"),
            },
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": tuple(range(len(configuration["patch_size"]))),
        }
        (folder / f"fold_{fold}").mkdir()
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def scan_image(direction: np.ndarray | None = None, spacing: tuple[float, ...] = (1.0, 1.3, 4.0)) -> sitk.Image:
    """A CT with blobs of several sizes on an anisotropic grid, its border zero so that nnU-Net crops it."""
    rng = np.random.default_rng(0)
    k, j, i = np.meshgrid(np.arange(14), np.arange(34), np.arange(30), indexing="ij")
    array = 30 + 120 * np.sin(k / 3) * np.cos(j / 6) * np.sin(i / 5) + rng.normal(0, 30, k.shape)
    array[:, :3] = 0
    array[:, :, -4:] = 0
    image = sitk.GetImageFromArray(np.rint(array).astype(np.int16))
    image.SetSpacing(spacing)
    image.SetOrigin((-20.0, 13.0, 400.0))
    if direction is not None:
        image.SetDirection(direction.ravel().tolist())
    return image


def own_prediction(folder: Path, file: Path, *, mirroring: bool = True, folds: tuple[int, ...] = (0,)) -> np.ndarray:
    """The labels of nnunetv2's own predictor and reader, straight from the file."""
    with quietly(), contextlib.redirect_stdout(io.StringIO()):
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), folds, "checkpoint_final.pth")
        reader = predictor.plans_manager.image_reader_writer_class()
        array, properties = reader.read_images([str(file)])
        labels = predictor.predict_single_npy_array(array, properties)
        written = file.with_name("own.nii.gz")
        reader.write_seg(labels, str(written), properties)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(written)))


def oblique(angle: float = 0.4) -> np.ndarray:
    about_x = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    about_z = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])
    return about_x @ about_z


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("nnunet") / "nnUNetTrainer__nnUNetPlans__3d_fullres", plans_of())


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    sitk.WriteImage(scan_image(), str(tmp_path / "ct.nii.gz"))
    return tmp_path / "ct.nii.gz"


@pytest.fixture(scope="module")
def model(results: Path) -> NnUNetModel:
    return NnUNetModel.load(results)


def assert_equal_and_telling(found: np.ndarray, expected: np.ndarray, classes: int = 4) -> None:
    assert np.array_equal(found, expected), f"{(found != expected).sum()} of {found.size} voxels differ"
    shares = np.bincount(expected.ravel(), minlength=classes) / expected.size
    assert (shares > 0.01).sum() >= 3, f"too plain to tell anything: {shares}"


def test_labels_equal_those_of_nnunetv2(results: Path, model: NnUNetModel, scan: Path) -> None:
    volume = read_volume(scan)
    before = volume.array.copy()
    result = model.segment(volume)
    assert_equal_and_telling(result.labels, own_prediction(results, scan))
    np.testing.assert_array_equal(volume.array, before)
    assert [(s.label, s.name) for s in result.structures] == [(1, "liver"), (2, "spleen"), (3, "left kidney")]
    assert set(result.stages) == {"preprocess", "network", "resample"}


@pytest.mark.parametrize(
    "direction",
    [np.diag([-1.0, -1.0, 1.0]), np.diag([1.0, -1.0, -1.0]), np.diag([-1.0, 1.0, 1.0]), oblique()],
    ids=["RAS", "turned", "left-handed", "oblique"],
)
def test_any_direction_equals_nnunetv2(results: Path, tmp_path: Path, direction: np.ndarray) -> None:
    file = tmp_path / "ct.nrrd"
    sitk.WriteImage(scan_image(direction), str(file))
    found = NnUNetModel.load(results, mirroring=False).segment(read_volume(file)).labels
    assert_equal_and_telling(found, own_prediction(results, file, mirroring=False))


def test_the_reorienting_reader_equals_nnunetv2(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "results", plans_of(reader="NibabelIOWithReorient"))
    file = tmp_path / "ct.nii.gz"
    sitk.WriteImage(scan_image(np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]])), str(file))
    found = NnUNetModel.load(folder, mirroring=False).segment(read_volume(file)).labels
    assert_equal_and_telling(found, own_prediction(folder, file, mirroring=False))


def test_transposed_plans_equal_nnunetv2(tmp_path: Path, scan: Path) -> None:
    folder = write_results(tmp_path / "results", plans_of(transpose=(2, 0, 1)))
    found = NnUNetModel.load(folder, mirroring=False).segment(read_volume(scan)).labels
    assert_equal_and_telling(found, own_prediction(folder, scan, mirroring=False))


def test_a_scan_smaller_than_the_patch_equals_nnunetv2(results: Path, model: NnUNetModel, tmp_path: Path) -> None:
    file = tmp_path / "ct.nii.gz"
    sitk.WriteImage(scan_image()[5:20, 8:24, 3:9], str(file))
    np.testing.assert_array_equal(model.segment(read_volume(file)).labels, own_prediction(results, file))


def test_several_folds_equal_nnunetv2(tmp_path: Path, scan: Path) -> None:
    folder = write_results(tmp_path / "results", plans_of(), folds=(0, 3))
    model = NnUNetModel.load(folder, mirroring=False)
    assert model.spec["folds"] == ["0", "3"]
    found = model.segment(read_volume(scan)).labels
    assert_equal_and_telling(found, own_prediction(folder, scan, mirroring=False, folds=(0, 3)))
    one = NnUNetModel.load(folder, mirroring=False, folds="3").segment(read_volume(scan)).labels
    np.testing.assert_array_equal(one, own_prediction(folder, scan, mirroring=False, folds=(3,)))
    assert not np.array_equal(one, found)


def test_regions_equal_nnunetv2(tmp_path: Path, scan: Path) -> None:
    folder = write_results(tmp_path / "results", plans_of(), labels=REGIONS)
    model = NnUNetModel.load(folder, mirroring=False)
    assert_equal_and_telling(model.segment(read_volume(scan)).labels, own_prediction(folder, scan, mirroring=False))
    assert [(s.label, s.name) for s in model.structures] == [(1, "whole"), (2, "core"), (3, "inner")]
    logits = torch.tensor([-1.0, 2.0, -3.0, -1.0, -2.0, -1.0]).reshape(1, 3, 2)
    assert model.foreground(logits).tolist() == [[False, True]]


def test_two_dimensional_configurations_equal_nnunetv2(tmp_path: Path, scan: Path) -> None:
    folder = write_results(tmp_path / "nnUNetTrainer__nnUNetPlans__2d", plans_of(dimensions=2), seed=1)
    model = NnUNetModel.load(folder)
    assert_equal_and_telling(model.segment(read_volume(scan)).labels, own_prediction(folder, scan))
    batches = list(model.calibration_batches(read_volume(scan), CalibrationSelection(count=3)))
    assert [b.inputs[0].shape for b in batches] == [(1, 1, 24, 32)] * 3


def test_an_orientation_of_its_own_makes_the_order_of_voxels_irrelevant(results: Path, tmp_path: Path) -> None:
    model = NnUNetModel.load(results, mirroring=False, orientation="LPS")
    image = scan_image()
    flipped = sitk.Flip(image, (True, False, True))
    found = []
    for name, stored in (("a", image), ("b", flipped), ("c", sitk.PermuteAxes(image, (2, 0, 1)))):
        sitk.WriteImage(stored, str(tmp_path / f"{name}.nrrd"))
        volume = read_volume(tmp_path / f"{name}.nrrd")
        labels = sitk.GetImageFromArray(model.segment(volume).labels)
        labels.CopyInformation(stored)
        found.append(sitk.GetArrayFromImage(sitk.DICOMOrient(labels, "LPS")))
    assert len(np.unique(found[0])) >= 3
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_the_spec_rebuilds_the_network(model: NnUNetModel, scan: Path) -> None:
    assert "mueller" not in json.dumps(model.spec)
    rebuilt = from_spec(json.loads(json.dumps(model.spec)))
    rebuilt.network.load_state_dict(model.network.state_dict())
    volume = read_volume(scan)
    np.testing.assert_array_equal(rebuilt.segment(volume).labels, model.segment(volume).labels)


def test_calibration_calls_every_layer_on_patches_of_the_preprocessed_scan(model: NnUNetModel, scan: Path) -> None:
    volume = read_volume(scan)
    batches = list(model.calibration_batches(volume, CalibrationSelection(count=3)))
    assert [b.inputs[0].shape for b in batches] == [(1, 1, 16, 24, 16)] * 3
    layers = {n: m for n, m in model.network.named_modules() if isinstance(m, (nn.Conv3d, nn.ConvTranspose3d))}
    called: list[str] = []
    hooks = [m.register_forward_hook(lambda *_, n=n: called.append(n)) for n, m in layers.items()]
    with torch.inference_mode():
        logits = model.forward_for_calibration(model.network, *batches[0].inputs)
    for hook in hooks:
        hook.remove()
    assert sorted(called) == sorted(layers)
    assert logits.shape == (1, 4, 16, 24, 16) and model.foreground(logits).shape == (1, 16, 24, 16)
    data, _ = model._preprocessed(volume)
    windows = data[0].unfold(0, 16, 1).unfold(1, 24, 1).unfold(2, 16, 1)
    for batch in batches:  # each patch is cut from the preprocessed scan as it is
        assert (windows == batch.inputs[0][0, 0]).flatten(3).all(-1).any()


def test_cancel_stops_between_patches(model: NnUNetModel, scan: Path) -> None:
    seen: list[str] = []
    progress = Progress(lambda event: seen.append(event.message), lambda: len(seen) >= 4)
    with pytest.raises(Cancelled):
        model.segment(read_volume(scan), None, progress)
    assert len(seen) == 4 and seen[-1].startswith("Patch 3 of")


def test_a_box_is_refused(model: NnUNetModel, scan: Path) -> None:
    with pytest.raises(UserError, match="takes no box"):
        model.segment(read_volume(scan), BoxPrompt((Box((1, 1, 1), (5, 5, 5)),)))


def test_the_embedded_model_equals_nnunetv2_on_a_phantom(tmp_path: Path) -> None:
    if not EMBEDDED_NNUNET.is_dir():
        pytest.skip("the embedded nnU-Net is not in this checkout")
    array, labels, _, affine = make_phantom(seed=5, shape=(24, 96, 96), spacing=(6.0, 4.0, 4.0))
    file = tmp_path / "ct.nii.gz"
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(np.diag(affine)[:3].tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    sitk.WriteImage(image, str(file))
    model = load_model("embedded-nnunet", device="cpu")
    found = model.segment(read_volume(file)).labels
    np.testing.assert_array_equal(found, own_prediction(EMBEDDED_NNUNET, file))
    liver = next(s.label for s in model.structures if s.name == "liver")
    overlap = 2 * ((found == liver) & (labels == liver)).sum() / ((found == liver).sum() + (labels == liver).sum())
    assert overlap > 0.5


# -- folders that are not as they should be --------------------------------------------------------------------------


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


def test_several_channels_are_counted(tmp_path: Path) -> None:
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


def test_unusable_scans_are_refused(model: NnUNetModel, scan: Path) -> None:
    volume = read_volume(scan)
    broken_array = volume.array.astype(np.float32)
    broken_array[3, 3, 3] = np.inf
    with pytest.raises(UserError, match="not numbers"):
        model.segment(volume.with_array(broken_array))
    with pytest.raises(UserError, match="same value"):
        model.segment(Volume(np.full((8, 8, 8), 3), np.eye(4)))

"""The pipeline benchmark: its engines in processes of their own, and its network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medquant.bench import pipeline
from medquant.embedded.phantom import make_phantom
from medquant.errors import Cancelled, UserError
from medquant.models.catalogue import EMBEDDED_NNUNET


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    array, _, _, affine = make_phantom(seed=5, shape=(24, 96, 96), spacing=(6.0, 4.0, 4.0))
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(np.diag(affine)[:3].tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    file = tmp_path_factory.mktemp("pipeline") / "ct_0000.nii.gz"
    sitk.WriteImage(image, str(file))
    return file


def test_both_engines_write_the_same_mask(scan: Path) -> None:
    said: list[str] = []
    rows = pipeline.run(
        scan=scan,
        weights=EMBEDDED_NNUNET,
        contenders=("nnunetv2", "pytorch-fp32"),
        threads=1,
        progress=lambda event: said.append(event.message),
    )
    peer, ours = rows
    assert peer["engine"].startswith("nnunetv2 2") and ours["engine"] == "medquant pytorch"
    assert ours["dsc_vs_peer"] == 1.0 and ours["differing_voxels"] == 0
    assert set(ours["stages"]) >= {"model", "load", "preprocess", "network", "resample", "write"}
    for row in rows:
        assert row["case"] == scan.name and row["precision"] == "fp32" and row["peak_memory_mb"] > 100
        assert row["seconds"] == pytest.approx(sum(s for name, s in row["stages"].items() if name != "model"))
    assert ours["speedup_vs_peer"] == pytest.approx(peer["seconds"] / ours["seconds"])
    assert any("nnunetv2" in message for message in said)
    assert sorted(file.name for file in scan.parent.iterdir()) == [scan.name]


def test_an_engine_that_fails_is_named(scan: Path, tmp_path: Path) -> None:
    broken = tmp_path / "ct_0000.nii.gz"
    broken.write_bytes(scan.read_bytes()[:2000])
    with pytest.raises(UserError, match="medquant pytorch failed"):
        pipeline.run(scan=broken, weights=EMBEDDED_NNUNET, contenders=("pytorch-fp32",))


def test_the_wish_to_stop_ends_the_engine(scan: Path) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 5

    with pytest.raises(Cancelled):
        pipeline.run(scan=scan, weights=EMBEDDED_NNUNET, contenders=("pytorch-fp32",), cancelled=stop)


@pytest.mark.parametrize("wrong", [{"cases": ("30",)}, {"contenders": ("tensorflow",)}])
def test_an_unknown_choice_is_named(wrong: dict) -> None:
    with pytest.raises(UserError, match="Choose among"):
        pipeline.run(**wrong)


def test_the_real_case_needs_the_data() -> None:
    with pytest.raises(UserError, match="--data"):
        pipeline.run(weights=EMBEDDED_NNUNET, cases=("20",))


@pytest.mark.heavy
def test_the_whole_way_keeps_its_promises(test_data: Path) -> None:
    rows = pipeline.run(data=test_data)
    for case in pipeline.CASES.values():
        by = {(row["engine"].removeprefix("medquant "), row["precision"]): row for row in rows if row["case"] == case}
        assert by["pytorch", "fp32"]["differing_voxels"] == 0
        assert by["openvino", "int8"]["speedup_vs_peer"] >= 5
        assert max(row.get("speedup_vs_peer", 0) for row in by.values() if row["precision"] != "int8") >= 2
    assert by["openvino", "int8"]["memory_vs_peer"] <= 1 / 3

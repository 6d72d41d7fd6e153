"""`medquant bench permutation-comq` as a command, on a small data set in the published layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medquant.evaluation.metrics import agreement
from medquant.imaging.labels import read_labels
from medquant.imaging.reading import read_volume
from medquant.models.registry import load_model
from medquant.prompts import Box, BoxPrompt
from medquant.segment import segment

TABLES = ("bench", "permutation-comq", "--part", "tables")


@pytest.fixture(scope="module")
def abdomenct(scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AbdomenCT-1K with three cases, all of them the phantom."""
    folder = tmp_path_factory.mktemp("abdomenct")
    for number in (1, 2, 3):
        for part, name in (("Image", f"Case_0000{number}_0000"), ("Mask", f"Case_0000{number}")):
            (folder / part).mkdir(exist_ok=True)
            source = scan / ("ct.nii.gz" if part == "Image" else "labels.nii.gz")
            shutil.copy(source, folder / part / f"{name}.nii.gz")
    return folder


def _kept() -> dict[str, int]:
    """Each record and when it was written."""
    return {file.name: file.stat().st_mtime_ns for file in Path("out/cells").iterdir()}


def test_tables_on_the_data_set_and_on_where_they_stopped(
    medquant, monkeypatch: pytest.MonkeyPatch, abdomenct: Path, small_sam: Path
) -> None:
    monkeypatch.delenv("MEDQUANT_TEST_DATA", raising=False)
    words = (*TABLES, "--dataset", abdomenct, "--cases", "1", "-m", small_sam, "--bits", "2", "-o", "out")
    methods = ("fp32", "rtn", "comq", "per-layer", "layer", "rows")
    first = medquant(*words, "--method", "fp32", "--method", "layer", "--json", "first.json")
    assert first.exit_code == 0, first.output
    before = _kept()
    Path("out/cells/cut.json").write_text('{"key": "cut of')
    again = medquant(*words, *(w for m in methods for w in ("--method", m)), "--json", "rows.json")
    assert again.exit_code == 0, again.output
    rows = {row["method"]: row for row in json.loads(Path("rows.json").read_text())["tables"]}
    assert list(rows) == list(methods)
    for row in json.loads(Path("first.json").read_text())["tables"]:
        assert rows[row["method"]] == row
    after = _kept()
    assert before.items() <= after.items() and len(after) == 2 + 4 + 1, "what was there was not measured again"
    third = medquant(*words, *(w for m in methods for w in ("--method", m)), "--json", "third.json")
    assert third.exit_code == 0 and Path("third.json").read_text() == Path("rows.json").read_text()
    assert _kept() == after, "nor is anything a third time"
    for row in rows.values():
        assert list(row["by_organ"]) == ["Case_00002"] and row["calibration"] == "Case_00001"
        pairs = [pair for organs in row["by_organ"].values() for pair in organs.values()]
        assert row["dsc"] == pytest.approx(np.mean([dsc for dsc, _ in pairs]))
        assert row["nsd"] == pytest.approx(np.mean([nsd for _, nsd in pairs]))
    assert rows["rtn"]["effective_bits"] < 6 < rows["layer"]["effective_bits"] < rows["fp32"]["effective_bits"] == 32
    assert rows["per-layer"]["published_nsd"] == pytest.approx(0.54825)
    assert (
        "Table 1" in again.stdout
        and "Table 2" in again.stdout
        and "Measured on 1 case of AbdomenCT-1K." in again.stdout
    )
    second = again.stdout[again.stdout.index("Table 2") :]
    assert "a scale for each layer" in second and "RTN" not in second


def test_scores_are_those_of_boxes_around_each_section(medquant, abdomenct: Path, small_sam: Path) -> None:
    found = medquant(*TABLES, "--dataset", abdomenct, "--cases", "1", "-m", small_sam, "--method", "fp32",
                     "-o", "out", "--json", "-")  # fmt: skip
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)["tables"][0]["by_organ"]["Case_00002"]
    volume = read_volume(abdomenct / "Image" / "Case_00002_0000.nii.gz")
    mask = read_labels(abdomenct / "Mask" / "Case_00002.nii.gz", volume).labels == 1
    boxes = []
    for k in np.flatnonzero(mask.any((1, 2))):
        rows, columns = np.nonzero(mask[k])
        corners = (columns.min(), rows.min(), k), (columns.max(), rows.max(), k)
        boxes.append(Box(*(tuple(map(int, corner)) for corner in corners), plane="axial"))
    wanted = segment(load_model(str(small_sam)), volume, prompt=BoxPrompt(tuple(boxes))).labels > 0
    one = agreement(wanted, mask, volume.spacing)
    assert told["liver"] == pytest.approx([one.dsc, one.nsd])


def test_masks_that_were_not_unpacked_are_no_fault_of_the_command(medquant, abdomenct: Path, small_sam: Path) -> None:
    shutil.copytree(abdomenct / "Image", "bare/Image")
    found = medquant(*TABLES, "--dataset", "bare", "-m", small_sam)
    assert found.exit_code == 2, found.output
    assert "lacks its masks: none of the 3 scans has a reference" in found.stderr and "Mask" in found.stderr


@pytest.fixture
def small_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large layer that is small, and no scans."""
    monkeypatch.delenv("MEDQUANT_TEST_DATA", raising=False)
    monkeypatch.setattr("medquant.bench.permutation_comq.simulation.LARGE", 96)
    monkeypatch.setattr("medquant.bench.permutation_comq.simulation.LARGE_TOKENS", 128)


@pytest.mark.usefixtures("small_simulation")
def test_the_simulation_is_kept_where_no_cell_can_be_measured(medquant, abdomenct: Path, small_sam: Path) -> None:
    shutil.copytree(abdomenct, "data")
    for mask in Path("data/Mask").iterdir():
        mask.write_bytes(b"no mask")
    words = ("bench", "permutation-comq", "--bits", "2", "--json", "told.json")
    result = medquant(*words, "--dataset", "data", "-m", small_sam, "--method", "fp32", "-o", "out")
    assert result.exit_code == 2 and "No cell could be measured" in result.stderr
    told = json.loads(Path("told.json").read_text())
    assert list(told) == ["simulation"] and f"{told['simulation'][0]['effective_bits']:.2f}" in result.stdout


@pytest.mark.usefixtures("small_simulation")
def test_the_simulation_needs_nothing(medquant) -> None:
    found = medquant("bench", "permutation-comq", "--bits", "2", "-o", "out", "--json", "rows.json")
    assert found.exit_code == 0, found.output
    rows = json.loads(Path("rows.json").read_text())["simulation"]
    for row in rows:
        assert f"{row['effective_bits']:.2f}" in found.stdout and f"{100 * row['output_error']:#.3g}" in found.stdout
    assert {path.name for path in Path("out").iterdir()} >= {"figure2.png", "figure3.svg"}
    assert "give scans" in found.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--part", "appendix"), "Unknown part 'appendix'"),
        (("--part", "tables", "--data", "nowhere"), "There is no folder"),
        (("--part", "tables", "--data", "."), "The scans of the tables are not in"),
        (("--part", "tables", "--dataset", "."), "does not hold AbdomenCT-1K"),
        (("--part", "tables", "--gpus", "1"), "--gpus is of tasks on a cluster"),
        (("--part", "tables", "--ray", "auto", "--device", "cuda"), "give GPUs with --gpus"),
        (("--part", "tables", "--dataset", ".", "--method", "magic"), "Unknown method 'magic'"),
        (("--part", "simulation", "--dataset", "/nowhere", "-m", "medsam"), "does not take --dataset, --model."),
        (("--part", "simulation", "--method", "comq", "--cases", "3"), "does not take --cases, --method."),
        (("--part", "simulation", "--data", ".", "--threads", "1"), "does not take --data, --threads."),
        (("--part", "tables", "--cases", "3"), "--cases is of a data set"),
        (("--data", ".", "--dataset", "."), "in the place of a data set"),
    ],
)
def test_a_mistake_is_told(medquant, words: tuple[str, ...], told: str) -> None:
    result = medquant("bench", "permutation-comq", *words)
    assert result.exit_code == 2 and told in result.output
    assert not list(Path().iterdir())


def test_its_help_has_examples_and_fits_a_narrow_terminal(medquant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = medquant("bench", "permutation-comq", "--help").stdout
    assert "medquant bench permutation-comq" in told.partition("Examples")[2]
    assert "\N{HORIZONTAL ELLIPSIS}" not in told


def test_a_model_without_boxes_is_refused(medquant, abdomenct: Path) -> None:
    result = medquant(*TABLES, "--dataset", abdomenct, "-m", "embedded-nnunet")
    assert result.exit_code == 2 and "takes no boxes" in result.output
    result = medquant(*TABLES, "--dataset", abdomenct, "--method", "magic")
    assert result.exit_code == 2 and "Unknown method 'magic'" in result.output


def test_a_case_that_cannot_be_read_is_told_and_its_rows_are_left_out(
    medquant, abdomenct: Path, small_sam: Path
) -> None:
    shutil.copytree(abdomenct, "data")
    Path("data/Mask/Case_00003.nii.gz").write_bytes(b"no mask")
    words = (*TABLES, "--dataset", "data", "-m", small_sam, "--method", "fp32", "-o", "out", "--json", "told.json")
    found = medquant(*words)
    assert found.exit_code == 2, found.output
    assert found.stdout.count("Not measured") == 1 and "Table 1" not in found.stdout
    assert "Left out, as not all of their cases are measured: FP32." in found.stdout
    told = json.loads(Path("told.json").read_text())
    assert told["tables"] == [] and len(told["failed"]) == len(_kept()) == 1
    shutil.copy(abdomenct / "Mask" / "Case_00003.nii.gz", "data/Mask/Case_00003.nii.gz")
    assert medquant(*words).exit_code == 0
    (row,) = json.loads(Path("told.json").read_text())["tables"]
    assert list(row["by_organ"]) == ["Case_00002", "Case_00003"]


def test_a_row_belongs_to_its_voxels_and_not_to_their_names(medquant, abdomenct: Path, small_sam: Path) -> None:
    shutil.copytree(abdomenct, "data")
    words = (*TABLES, "--dataset", "data", "--cases", "1", "-m", small_sam, "--method", "fp32", "-o", "out")
    assert medquant(*words).exit_code == 0 and len(_kept()) == 1
    image = Path("data/Image/Case_00002_0000.nii.gz")
    shutil.copy(image, "other.nii.gz")
    shutil.copy("other.nii.gz", image)
    assert medquant(*words).exit_code == 0 and len(_kept()) == 2

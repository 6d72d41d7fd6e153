"""`medquant bench medquanbench` as it is typed: what it measures and prints, and what it refuses beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from medquant.bench.medquanbench.subjects import Subject
from medquant.cli import app
from medquant.commands.medquanbench_inputs import options_by_model, subjects_of
from medquant.errors import UserError
from medquant.imaging.writing import save_segmentation, write_volume

GIVEN = ("--case", "a.nii.gz", "--labels", "b.nii.gz")


def test_what_the_reference_lacks_is_told_once(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    case = subject.cases[0]
    reference = case.reference()
    renamed = tuple(replace(s, name="bone" if s.name == "spleen" else s.name) for s in reference.structures)
    save_segmentation(replace(reference, structures=renamed), tmp_path / "lacking.seg.nrrd")
    words = ["--json", tmp_path / "told", "--labels", tmp_path / "lacking.seg.nrrd"]
    result = _on_one_case(subject, tmp_path / "out", *words, "--precision", "W4A4", "--granularity", "per-tensor")
    assert result.exit_code == 0, result.output
    assert "labels have no names" not in result.output
    assert result.output.count("Not in the reference, so not counted: spleen of") == 1
    assert "Rows are CSV" in result.output and (tmp_path / "out" / "results.csv").is_file()
    rows = json.loads((tmp_path / "told").read_text(encoding="utf-8"))["rows"]
    assert [row["not_in_reference"] for row in rows] == [["spleen"], ["spleen"]]
    assert all({score["name"] for score in row["structures"]} <= {"right kidney", "liver"} for row in rows)


def test_labels_that_are_matched_by_their_number_are_told(subject: Subject, tmp_path: Path) -> None:
    case = subject.cases[0]
    nameless = replace(case.volume(), array=case.reference().labels.astype(np.int16))
    write_volume(nameless, tmp_path / "numbers.nii.gz")
    words = ["--labels", tmp_path / "numbers.nii.gz", "--precision", "W4A4", "--granularity", "per-tensor"]
    result = _on_one_case(subject, tmp_path / "out", *words)
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.split())
    pairs = "spleen with label 1, right kidney with label 2, liver with label 3"
    assert told.count(f"The labels have no names, so those of one number were compared: {pairs} of") == 1


def test_labels_of_another_scan_are_refused_before_anything_is_quantized(subject: Subject, tmp_path: Path) -> None:
    case = subject.cases[0]
    labels = case.reference().labels.astype(np.int16)
    write_volume(replace(case.volume(), array=labels[:-4, :-4]), tmp_path / "other.nii.gz")
    result = _on_one_case(subject, tmp_path / "out", "--labels", tmp_path / "other.nii.gz")
    assert result.exit_code == 2 and "does not cover the scan" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_rows_that_were_timed_with_other_threads_are_told(subject: Subject, tmp_path: Path) -> None:
    words = ["--labels", subject.cases[0].labels, "--granularity", "per-tensor", "--precision"]
    first = _on_one_case(subject, tmp_path / "out", *words, "W4A4")
    assert first.exit_code == 0 and "earlier run" not in first.output
    again = _on_one_case(subject, tmp_path / "out", *words, "W8A8", "--threads", "2")  # FP32 is kept
    assert again.exit_code == 0, again.output
    told = "Kept from an earlier run with --threads 1, their times too: 1 of 2 rows."
    assert told in " ".join(again.output.split())


def _on_one_case(subject: Subject, folder: Path, *given: str | Path) -> Result:
    """The command on the first scan that tests, without its labels."""
    words = ["bench", "medquanbench", "--output", folder, "--threads", "1", "--method", "rtn", *given]
    words += ["--model", subject.network.spec, "--weights", subject.network.weights]
    for name, value in json.loads(subject.network.options).items():
        words += ["--option", f"{name}={json.dumps(value)}"]
    words += ["--case", subject.cases[0].image, "--calibration", subject.calibration[0].image]
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "80"})


def test_the_command_measures_and_goes_on(subject: Subject, tmp_path: Path) -> None:
    words = ["bench", "medquanbench", "--output", tmp_path / "out", "--model", subject.network.spec, "--threads", "1"]
    words += ["--weights", subject.network.weights, "--method", "rtn", "--json", tmp_path / "rows.json"]
    for name, value in json.loads(subject.network.options).items():
        words += ["--option", f"{name}={json.dumps(value)}"]
    for case in (*subject.calibration, *subject.cases):
        words += ["--case", case.image, "--labels", case.labels]
    words += ["--precision", "W4A4"]
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert len(told["rows"]) == 2 * (1 + 3) and not told["failed"]
    assert {row["case"] for row in told["rows"]} == {"scan1", "scan2"}  # the first case calibrates
    page, text = ((tmp_path / "out" / f"tables.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    for line in told["lines"]:
        assert f"{line['dsc']:.3f}" in page and f"{line['dsc']:.3f}" in text and f"{line['dsc']:.3f}" in result.output
    assert "that is, simulated" in result.output and "…" not in result.output
    assert {row["dataset"] for row in told["rows"]} == {""}
    assert {4 * row["parameters"] for row in told["rows"]} == {told["rows"][0]["bytes"]}
    records = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cells").iterdir()}
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "80"})
    assert result.exit_code == 0 and records == {file: file.stat().st_mtime_ns for file in records}


def test_what_failed_is_told_and_the_exit_code_says_it(subject: Subject, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no scan")
    words = ["bench", "medquanbench", "--output", tmp_path / "out", "--model", subject.network.spec, "--threads", "1"]
    words += ["--weights", subject.network.weights, "--json", tmp_path / "told", "--calibration", broken]
    for name, value in json.loads(subject.network.options).items():
        words += ["--option", f"1:{name}={json.dumps(value)}"]
    words += ["--case", subject.cases[0].image, "--labels", subject.cases[0].labels, "--method", "comq"]
    words += ["--precision", "W8A8"]
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "80"})
    assert result.exit_code == 2, result.output
    assert result.output.count("Not measured") == 1 and "(3 of its 4 cells)" in result.output
    told = json.loads((tmp_path / "told").read_text(encoding="utf-8"))
    assert len(told["rows"]) == 1 and len(told["failed"]) == 3


def test_options_reach_the_models_that_they_are_of() -> None:
    specs = ["monai:UNet", "embedded", "monai:DynUNet"]
    words = ["2:window_level=30", '3:arguments={"a": 1}', "roi_size=[8,8,8]", "1:roi_size=[16,16,16]"]
    first, second, third = options_by_model(specs, words)
    assert first == {"roi_size": [16, 16, 16]}
    assert second == {"window_level": 30}
    assert third == {"arguments": {"a": 1}, "roi_size": [8, 8, 8]}
    assert options_by_model(specs[:2], ["nobody=1"]) == [{"nobody": 1}] * 2  # refused as they are loaded
    for number in (0, 4):
        with pytest.raises(UserError, match=f"of model {number}, but there are 3"):
            options_by_model(specs, [f"{number}:roi_size=[8,8,8]"])


def test_a_model_that_is_a_path_goes_anywhere_by_its_own_name(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fold_0.pth").touch()
    monkeypatch.chdir(tmp_path)
    (one,) = subjects_of(["fold_0.pth"], None, None, list(subject.cases), None, None)
    assert one.network.spec == str(tmp_path / "fold_0.pth") and one.network.name == "fold_0.pth"
    (named,) = subjects_of(["monai:UNet"], ["fold_0.pth"], None, list(subject.cases), None, None)
    assert named.network.spec == "monai:UNet" and named.network.name.startswith("monai:UNet ")


def test_the_limit_is_of_cases_that_test(subject: Subject) -> None:
    scans = [*subject.calibration, *subject.cases]
    (one,) = subjects_of(["embedded"], None, None, scans, None, 1)
    assert one.calibration == (scans[0],) and one.cases == (scans[1],)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "There is no case"),
        (["--case", "a.nii.gz"], "do not fit"),
        (["--case", "none.nii.gz", "--labels", "b.nii.gz"], "Correct --case"),
        (["--case", "a.nii.gz", "--labels", "none.nii.gz"], "Correct --labels"),
        ([*GIVEN, "--model", "embedded", "--calibration", "none.nii.gz"], "Correct --calibration"),
        (
            [*GIVEN, "--model", "embedded", "--calibration", "a.nii.gz", "--gpus", "1"],
            "--gpus is of tasks on a cluster",
        ),
        (["--mini", "--limit", "1"], "Leave the others out"),
        (["--case", "a.nii.gz", "--labels", "b.nii.gz"], "There is no model"),
        (["--case", "a.nii.gz", "--labels", "b.nii.gz", "--model", "embedded"], "no case left"),
        (["--mini", "--model", "embedded"], "Leave the others out"),
        (["--split", "val", "--case", "a.nii.gz", "--labels", "b.nii.gz"], "--split chooses among"),
        (["--mini", "--ray", "auto", "--device", "cuda"], "give GPUs with --gpus"),
    ],
    ids=[
        "nothing",
        "no-labels",
        "case",
        "labels",
        "calibration",
        "gpus",
        "mini-and-limit",
        "no-model",
        "calibrates",
        "mini-and-model",
        "split",
        "ray-and-device",
    ],
)
def test_what_is_missing_is_told(words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.nii.gz", "b.nii.gz"):
        Path(name).touch()
    words = ["bench", "medquanbench", "--output", str(tmp_path / "out"), *words]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "80", "MEDQUANT_TEST_DATA": ""})
    assert isinstance(result.exception, (UserError, SystemExit)) and result.exit_code != 0
    assert told in result.output + str(result.exception)
    assert not (tmp_path / "out").exists(), "nothing was measured before"

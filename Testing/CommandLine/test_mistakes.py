"""What a user reads after a mistake, and the exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

BOX = "liver=10,10,0,40,50,3"


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["segment", "no.nii.gz", "--box", BOX], "no file"),
        (["segment", "CT", "--box", "1,2,3"], "six numbers"),
        (["segment", "CT", "--model", "SAM"], "--box liver=10,20,30,80,90,35"),
        (["segment", "CT", "--model", "SAM", "--box", "900,900,0,950,950,1"], "outside the scan"),
        (["segment", "CT", "--box", BOX, "--boxes-from", "LABELS"], "twice"),
        (["segment", "CT", "--boxes-from", "LABELS", "--structures", "heart"], "no structure heart"),
        (["segment", "CT", "--box", BOX, "--plane", "oblique"], "axial, coronal or sagittal"),
        (["segment", "CT", "--box", BOX, "--output", "mask.png"], "suffix"),
        (["segment", "CT", "--model", "SAM", "--box", BOX, "--output", "CT"], "scan itself"),
        (["segment", "CT", "--box", BOX, "--model", "medsamm"], "no model"),
        (["segment", "CT", "--box", BOX, "--device", "abacus"], "auto, cpu or cuda"),
        (["segment", "CT", "--model", "SAM", "--box", BOX, "--option", "colour=3"], "colour"),
        (["segment", "CT", "--model", "sam-vit-b", "--box", BOX], "sam_vit_b_01ec64.pth"),
        (["segment", "CT", "--model", "LABELS", "--box", BOX], "labels.nii.gz"),
        (["segment", "CT", "--box", BOX, "--output", "nowhere/mask.nii.gz"], "nowhere. Make it first"),
        (["segment", "CT", "--box", BOX, "--json", "nowhere/numbers.json"], "correct --json"),
        (["demo", "--output", "nowhere/out"], "Make it first"),
        (["export", "embedded", "--output", "nowhere/out"], "Make it first"),
        (["train-demo", "--output", "nowhere/t", "--steps", "1"], "Make it first"),
        (["quantize", "CT", "--bits", "9"], "a whole number from 2 to 8"),
        (["quantize", "CT", "--method", "magic"], "permutation-comq"),
        (["quantize", "CT", "--granularity", "per-voxel"], "per-channel"),
        (["quantize", "CT", "--recipe", "no.json"], "recipe"),
        (["quantize", "CT", "--max-memory", "much"], "500MB"),
        (["quantize", "CT", "--where", "range"], "--first"),
        (["quantize", "CT", "--first", "3", "--last", "1"], "empty"),
        (["quantize", "CT", "--output", "FOLDER"], "is a folder"),
        (["quantize", "CT", "--output", "CT/x.mq.safetensors"], "not a folder you may write in"),
        (["compare", "LABELS", "no.nii.gz"], "no file"),
        (["compare", "LABELS", "--report", "r.html"], "--volume"),
        (["compare", "LABELS", "--labels", "a,b"], "one label for each"),
        (["compare", "LABELS", "--volume", "CT", "--figure", "slices.bmp"], ".png, .svg or .pdf"),
        (["compare", "LABELS", "--names", "liver"], "label=name"),
        (["export-mask", "LABELS", "--to", "jpeg"], "seg-nrrd"),
        (["export-mask", "LABELS", "--to", "dicom-seg"], "--volume"),
        (["export-mask", "LABELS", "--to", "nifti", "-o", "x.mha"], ".nii.gz"),
        (["export-mask", "LABELS", "--to", "nifti"], "mask itself"),
        (["series", "no-folder"], "no folder"),
        (["series", "FOLDER"], "no DICOM"),
        (["demo", "--bits", "16"], "8,4,2"),
        (["demo", "--box", BOX], "--volume"),
        (["demo", "--volume", "CT", "--model", "SAM"], "--reference"),
        (["demo", "--volume", "CT", "--model", "SAM", "--box", BOX, "--output", "CT"], "not a folder you may write in"),
        (["train-demo", "--output", "t", "--hours", "1", "--steps", "1"], "not both"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_a_line_with_code_2(medquant, scan, small_sam, arguments, advice) -> None:
    known = {"CT": scan / "ct.nii.gz", "LABELS": scan / "labels.nii.gz", "FOLDER": Path("empty"), "SAM": small_sam}
    known["CT/x.mq.safetensors"] = scan / "ct.nii.gz" / "x.mq.safetensors"
    Path("empty").mkdir()
    before = {path: path.stat().st_mtime_ns for path in scan.iterdir()}
    result = medquant(*[known.get(word, word) for word in arguments])
    assert result.exit_code == 2, result.output
    assert advice in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in scan.iterdir()} == before
    assert [path for path in Path().rglob("*") if path.is_file() and "training" not in path.parts] == []


def test_wrong_usage_has_code_2(medquant) -> None:
    for arguments in (["segment"], ["segment", "x.nii.gz", "--colour"], ["paint"], ["quantize", "x", "--bits", "four"]):
        result = medquant(*arguments)
        assert result.exit_code == 2
        assert "Usage" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["quantize", "x", "--bits", "5.5"], "'--bits' / '-b': it is not a whole number."),
     (["quantize", "x", "--slices", "0"], "'--slices': it is less than 1. Give 1 or more."),
     (["compare", "x", "--tolerance", "wide"], "'--tolerance': it is not a number.")],
)  # fmt: skip
def test_a_wrong_number_is_told_in_plain_words(medquant, arguments: list[str], told: str) -> None:
    result = medquant(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr and "Input should be" not in result.stderr


def test_with_json_on_standard_output_a_mistake_leaves_it_empty(medquant) -> None:
    result = medquant("segment", "no.nii.gz", "--box", BOX, "--json", "-")
    assert (result.exit_code, result.stdout) == (2, "")


def test_an_unexpected_error_has_code_1_and_a_log(medquant, monkeypatch, tmp_path: Path) -> None:
    import platformdirs

    from medquant.models import catalogue

    def broken() -> list:
        raise ZeroDivisionError("something deep inside")

    monkeypatch.setattr(catalogue, "list_models", broken)
    monkeypatch.setattr(platformdirs, "user_log_path", lambda *_, **__: tmp_path / "logs")
    result = medquant("models")
    assert result.exit_code == 1
    assert "something deep inside" in result.stderr
    (log,) = (tmp_path / "logs").iterdir()
    assert str(log) in result.stderr
    assert "ZeroDivisionError" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (MemoryError, 2)])
def test_other_ends(medquant, monkeypatch, error: type, code: int) -> None:
    from medquant.models import catalogue

    def ends() -> list:
        raise error

    monkeypatch.setattr(catalogue, "list_models", ends)
    assert medquant("models").exit_code == code

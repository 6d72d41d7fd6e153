"""Names with brackets, options that make no sense, and data that are nowhere: told in words, nothing broken or lost."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from medquant.commands.inputs import data_folder, existing_path
from medquant.commands.session import Session, output_folder, strong
from medquant.errors import UserError

BOX = "liver[1]=10,10,0,40,50,3"


def test_brackets_in_paths_and_names_are_shown_as_they_are(medquant, scan: Path, small_sam: Path) -> None:
    folder = Path("study [bold] [red] smile")
    folder.mkdir()
    mask = folder / "mask[1].nii.gz"
    result = medquant("segment", scan / "ct.nii.gz", "--model", small_sam, "--box", BOX, "--output", mask,
                      "--runtime", "pytorch")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert str(mask) in result.stdout
    result = medquant("compare", mask, mask, "--labels", "[a],[/b]", "--names", "1=organ [x]",
                      "--csv", folder / "table[2].csv")  # fmt: skip
    assert result.exit_code == 0, result.output
    for text in ("[a]", "[/b]", "organ [x]", str(folder / "table[2].csv")):
        assert text in result.stdout


@pytest.mark.parametrize("text", ["[bold]", "a[/b]", "C:\\scans\\", "\\[x]", ":smile:"])
def test_strong_shows_what_it_was_given(text: str) -> None:
    stream = io.StringIO()
    Session(Console(file=stream, emoji=False)).say(f"Masks: {strong(text)}.")
    assert stream.getvalue() == f"Masks: {text}.\n"


@pytest.mark.parametrize("option", ["window_level=abc", 'preprocessing={"image_size": 64}', "window_width=[1]"])
def test_an_option_of_no_use_is_told_in_a_line(medquant, scan: Path, small_sam: Path, option: str) -> None:
    result = medquant("segment", scan / "ct.nii.gz", "--model", small_sam, "--box", BOX, "--option", option)
    assert result.exit_code == 2, result.output
    assert "Correct --option" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_benchmark_says_where_it_looks_for_data(tmp_path: Path) -> None:
    for nothing in (None, ""):
        with pytest.raises(UserError, match=r"--data or in MEDQUANT_TEST_DATA"):
            data_folder(nothing)
    with pytest.raises(UserError, match="no folder"):
        data_folder(str(tmp_path / "nowhere"))
    assert data_folder(str(tmp_path)) == tmp_path


def test_a_path_that_is_not_there_is_told_with_its_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no file or folder .*nothing\.nii\. Correct --labels\."):
        existing_path(str(tmp_path / "nothing.nii"), "--labels")
    (tmp_path / "scan.nii").touch()
    monkeypatch.chdir(tmp_path)
    assert existing_path("scan.nii", "--case") == tmp_path / "scan.nii"


def test_the_summary_tells_bits_of_weights_and_of_everything(medquant, scan: Path, small_sam: Path) -> None:
    result = medquant("quantize", scan / "ct.nii.gz", "--model", small_sam, "--method", "rtn", "--slices", "1")
    assert result.exit_code == 0, result.output
    assert "bits for each weight" in result.stdout
    assert "with all that is stored beside the weights" in result.stdout


def test_a_folder_to_write_into_is_known_to_be_one_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert output_folder(tmp_path) == tmp_path and output_folder(tmp_path / "new") == tmp_path / "new"
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=r"not a folder you may write in.*--keep"):
        output_folder(file, "--keep")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match="may write in"):
        output_folder(tmp_path)

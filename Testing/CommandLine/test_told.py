"""What a person reads: help pages to copy from, where the time went, which file was replaced."""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest

from medquant import commands
from medquant.commands import session as terminal
from medquant.embedded import phantom

BOX = "liver=10,10,0,40,50,3"
EXAMPLES = {
    module.name.replace("_", "-"): text
    for module in pkgutil.iter_modules(commands.__path__)
    if (text := getattr(importlib.import_module(f"medquant.commands.{module.name}"), "EXAMPLES", None))
}


@pytest.mark.parametrize("command", sorted(EXAMPLES))
def test_examples_can_be_copied_from_a_narrow_terminal(medquant, monkeypatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = medquant(command, "--help").stdout.partition("Examples")[2]
    lines = [line.strip() for line in re.sub(r"\\ *\n", "", shown).splitlines() if line.strip()]
    assert lines and all(line.startswith(f"medquant {command}") for line in lines)
    assert [" ".join(line.split()) for line in lines] == [
        " ".join(line.split()) for line in EXAMPLES[command].replace("\\\n", "").splitlines()[3:-1] if line
    ]


@pytest.mark.parametrize("command", [*sorted(EXAMPLES), "bench runtime", "bench quality", "bench medquanbench"])
def test_no_option_is_cut_in_a_narrow_terminal(medquant, monkeypatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "\N{HORIZONTAL ELLIPSIS}" not in medquant(*command.split(), "--help").stdout.replace("...", "")


def test_the_time_of_a_command_adds_up(medquant, scan: Path, small_sam: Path) -> None:
    result = medquant("segment", scan / "ct.nii.gz", "--model", small_sam, "--box", BOX, "--runtime", "pytorch",
                      "--json", "numbers.json")  # fmt: skip
    data = json.loads(Path("numbers.json").read_text())
    parts = (data["start_seconds"], data["stages"]["load"], data["seconds"], data["stages"]["write"])
    assert min(parts) > 0 and sum(parts) == pytest.approx(data["command_seconds"], abs=0.1)
    for word in ("encoder", "decoder", "With start", "the command took"):
        assert word in result.stdout


def test_a_file_that_was_there_is_replaced_and_this_is_told(medquant, scan: Path, small_sam: Path) -> None:
    again = ("segment", scan / "ct.nii.gz", "--model", small_sam, "--box", BOX, "--output", "mask.nii.gz")
    assert "(replaced)" not in medquant(*again).stdout
    assert "mask.nii.gz (replaced)" in medquant(*again).stdout
    convert = ("export-mask", "mask.nii.gz", "--to", "mha")
    assert "(replaced)" not in medquant(*convert).stdout
    assert "mask.mha (replaced)" in medquant(*convert).stdout
    table = ("compare", "mask.nii.gz", "mask.nii.gz", "--csv", "table.csv")
    assert "(replaced)" not in medquant(*table).stdout
    assert "table.csv (replaced)" in medquant(*table).stdout


def test_labels_matched_by_their_number_are_told(medquant, scan: Path) -> None:
    named, nameless = scan / "labels.seg.nrrd", scan / "labels.nii.gz"
    told = medquant("compare", named, "--reference", nameless, "--structures", "liver")
    assert "liver with its label 5" in told.stdout and "--names 5=liver" in told.stdout
    for reference in (named, nameless):
        told = medquant("compare", named, "--reference", reference, "--names", "5=liver", "--structures", "liver")
        assert "with its label" not in told.stdout


def test_the_demonstration_has_one_bar_from_the_phantom_to_the_report(medquant, monkeypatch, small_sam: Path) -> None:
    small = functools.partial(phantom.make_phantom, shape=(4, 64, 64), spacing=(12.0, 6.0, 6.0))
    monkeypatch.setattr(phantom, "make_phantom", small)
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", 0.0)
    result = medquant("demo", "--model", small_sam, "--bits", "4", "--method", "rtn", "--slices", "1", "--no-open")
    assert result.exit_code == 0, result.output
    told = [int(percent) for percent in re.findall(r"^ *(\d+)%  ", result.stdout, re.MULTILINE)]
    assert told == sorted(told) and told[-1] == 100
    assert told[0] < 5 and "Slice 4 of 4" in result.stdout

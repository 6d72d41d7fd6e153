"""`medquant autoquant` with boxes of one's own: what it says of what checked, and of time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest


def test_the_boxes_given_check_and_the_time_is_told(medquant, scan: Path, small_sam: Path) -> None:
    words = "-m", small_sam, "--method", "rtn", "-b", "2", "-b", "8", "--slices", "2", "--keep-dice", "0.2"
    found = medquant("autoquant", scan / "ct.nii.gz", *words, "--box", "liver=10,10,0,40,50,3", "--json", "safe.json")
    assert found.exit_code == 0, found.output
    said = " ".join(found.stdout.split())
    assert "On 1 held-out slice with the boxes given, no voxel of which calibrated it" in said
    assert re.search(r", but which chose it among \d+ candidates: mean Dice \S+", said)
    assert re.search(r"lowest \S+ \(liver\), volumes within", said)
    assert re.search(r"Segments them in .* FP32 in .*, simulated\); searched for", said)
    data = json.loads(Path("safe.json").read_text())
    assert data["boxes"] == "given" and data["held_out"] == 1 and data["simulated"] is True
    assert min(data["seconds"], data["seconds_fp32"]) > 0 and data["search_seconds"] > data["seconds"]
    assert [one["name"] for one in data["structures"]] == ["liver"] and data["worst_dsc"] == data["dsc"]


def test_a_box_outside_the_scan_is_told_before_anything_is_written(medquant, scan: Path, small_sam: Path) -> None:
    found = medquant("autoquant", scan / "ct.nii.gz", "-m", small_sam, "--box", "900,900,0,950,950,3")
    assert found.exit_code == 2 and "lies outside the scan" in found.output and not list(Path().iterdir())


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ((), (0.99, None)),
        (("--keep-volume", "90"), (0.95, 0.9)),
        (("--keep-volume", "90", "--keep-dice", "0.3"), (0.3, 0.9)),
    ],
)
def test_beside_volumes_a_lower_dice_will_do(
    medquant, scan: Path, small_sam: Path, words: tuple[str, ...], asked: tuple[float, float | None]
) -> None:
    told = "-m", small_sam, "--method", "rtn", "-b", "8", "--slices", "2", "--json", "safe.json"
    found = medquant("autoquant", scan / "ct.nii.gz", *told, *words)
    assert found.exit_code == 0, found.output
    assert json.loads(Path("safe.json").read_text())["tolerance"] == {"dsc": asked[0], "volume_change": asked[1]}

"""Which layers break first, and the smallest model that is safe, as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.image import imread

from medquant.evaluation.wording import difference, score


def test_three_views_in_tables_figures_and_numbers(medquant, scan: Path, small_sam: Path) -> None:
    views = ["one-at-a-time", "incremental", "proxy"]
    chosen = [word for view in views for word in ("--view", view)]
    found = medquant("sensitivity", scan / "ct.nii.gz", "-m", small_sam, "-b", "2", "-b", "8", *chosen,
                     "--figure", "layers.png", "--json", "layers.json")  # fmt: skip
    assert found.exit_code == 0, found.output
    data = json.loads(Path("layers.json").read_text())
    assert {(cell["view"], cell["rounding"]) for cell in data["cells"]} == {(v, r) for v in views for r in ("W2", "W8")}
    assert len(data["cells"]) == 6 * len(data["layers"])
    for view in views:
        assert f"\n{view}:\n" in found.stdout
    worst = data["worst"][0]
    assert f"The output changes most at the fewest bits (one-at-a-time): {worst}" in found.stdout, (
        "of the masks, not the proxy"
    )
    alone = {cell["layer"]: cell["effect"] for cell in data["cells"]
             if (cell["view"], cell["rounding"]) == ("one-at-a-time", "W2")}  # fmt: skip
    assert worst == max(alone, key=alone.get)
    assert "rank the layers alike by" in found.stdout and "none given back" in found.stdout
    height, width, _ = imread("layers.png").shape
    assert width > 500 and height > 10 * len(data["layers"])


def test_dice_against_labels_where_there_are_any(medquant, scan: Path, small_sam: Path) -> None:
    words = ("sensitivity", scan / "ct.nii.gz", "-m", small_sam, "-b", "4", "--json", "layers.json")
    words += ("--view", "one-at-a-time", "--view", "incremental")
    found = medquant(*words, "--reference", scan / "labels.seg.nrrd")
    assert found.exit_code == 0, found.output
    data = json.loads(Path("layers.json").read_text())
    fp32, (whole,) = data["fp32_vs_reference"], data["whole"]
    assert f"FP32 against the reference: Dice {score(fp32)}" in found.stdout
    assert "ref. lost" in found.stdout and "ref. won" in found.stdout
    for cell in (*data["cells"], *data["types"]):
        against = cell["dsc_vs_reference"]
        meant = fp32 - against if cell["view"] == "one-at-a-time" else against - whole["dsc_vs_reference"]
        assert cell["reference_loss"] == pytest.approx(meant) and difference(meant) in found.stdout
    assert medquant(*words).exit_code == 0
    data = json.loads(Path("layers.json").read_text())
    assert data["fp32_vs_reference"] is None and all(cell["reference_loss"] is None for cell in data["cells"])


@pytest.mark.parametrize("columns", [80, 200])
def test_names_of_layers_are_read_in_a_narrow_terminal(
    medquant, monkeypatch, scan: Path, small_sam: Path, columns: int
) -> None:
    """Three numbers for each of three ways of rounding leave no room for names: each way has a table of its own."""
    monkeypatch.setenv("COLUMNS", str(columns))
    found = medquant("sensitivity", scan / "ct.nii.gz", "-m", small_sam, "--reference", scan / "labels.seg.nrrd",
                     "--json", "layers.json")  # fmt: skip
    assert found.exit_code == 0, found.output
    names = [layer["layer"] for layer in json.loads(Path("layers.json").read_text())["cells"]]
    lines = found.stdout.splitlines()
    assert all(sum(line.startswith(name[:30]) for line in lines) >= 1 for name in names)
    assert sum(line.startswith("layer ") for line in lines) == (3 if columns == 80 else 1)
    assert max(map(len, (line for line in lines if "%" in line and "Dice:" not in line))) <= columns
    assert "effect: error of the network's output in per cent" in found.stdout


@pytest.mark.parametrize(("method", "apart"), [("rtn", False), ("comq", True)])
def test_a_solver_is_measured_on_another_slice(medquant, scan: Path, small_sam: Path, method: str, apart: bool) -> None:
    found = medquant("sensitivity", scan / "ct.nii.gz", "-m", small_sam, "-b", "2", "--method", method, "--json", "-")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["measured_apart"] is apart


@pytest.mark.parametrize(("what", "label"), [("activations", "A4"), ("both", "W4A4")])
def test_inputs_are_rounded_too(medquant, scan: Path, small_sam: Path, what: str, label: str) -> None:
    found = medquant("sensitivity", scan / "ct.nii.gz", "-m", small_sam, "-b", "4", "--what", what, "--view", "proxy",
                     "--json", "-")  # fmt: skip
    assert found.exit_code == 0, found.output
    cells = json.loads(found.stdout)["cells"]
    assert {cell["rounding"] for cell in cells} == {label} and max(cell["effect"] for cell in cells) > 0


def test_the_smallest_safe_model_is_written_and_opens(medquant, scan: Path, small_sam: Path) -> None:
    ct = scan / "ct.nii.gz"
    found = medquant("autoquant", ct, "-m", small_sam, "--method", "rtn", "--slices", "3", "--keep-dice", "0.2",
                     "--json", "safe.json")  # fmt: skip
    assert found.exit_code == 0, found.output
    data = json.loads(Path("safe.json").read_text())
    file = Path(data["output"])
    assert file.name == f"{small_sam.name}-safe.mq.safetensors"
    assert data["bytes_on_disk"] == file.stat().st_size
    assert data["safe"] and data["dsc"] >= 0.2 and set(data["bits"].values()) <= {2, 3, 4, 8}
    assert "The smallest model with Dice against FP32 at least 0.2" in found.stdout
    for one in data["tried"]:
        assert f"Dice {one['dsc']:.3f}".replace(" 0.", " .") in found.stdout
    box = "liver=10,10,0,40,50,3"
    assert medquant("segment", ct, "-m", file, "--box", box, "--runtime", "pytorch").exit_code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("sensitivity", "--view", "sideways"), "Unknown view 'sideways'"),
        (("sensitivity", "--what", "biases"), "Unknown part 'biases'"),
        (("sensitivity", "-b", "1"), "2 to 8 bits"),
        (("sensitivity", "-b", "9"), "2 to 8 bits"),
        (("sensitivity", "--names", "5=liver"), "--reference"),
        (("sensitivity", "--figure", "layers.txt"), ".png, .svg or .pdf"),
        (("activations", "--figure", "act.jpg"), ".png, .svg or .pdf"),
        (("sensitivity", "--max-memory", "much"), "500MB"),
        (("sensitivity", "--max-memory", "1KB"), "MB are allowed"),
        (("autoquant", "--keep-dice", "2"), "lies between 0 and 1"),
        (("autoquant", "--keep-volume", "-3"), "positive"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    medquant, scan: Path, small_sam: Path, words: tuple[str, ...], told: str
) -> None:
    command, *rest = words
    result = medquant(command, scan / "ct.nii.gz", "-m", small_sam, *rest)
    assert result.exit_code == 2 and told in result.output
    assert not list(Path().iterdir())


def test_activations_are_described_and_drawn(medquant, scan: Path, small_sam: Path) -> None:
    found = medquant("activations", scan / "ct.nii.gz", "-m", small_sam, "--figure", "a.png", "--json", "a.json")
    assert found.exit_code == 0, found.output
    data = json.loads(Path("a.json").read_text())
    assert set(data["flops"]) >= {"linear", "convolution", "attention"}
    assert f"{sum(data['flops'].values()) / 1e9:.3g} GFLOPs" in found.stdout
    known = [layer["kurtosis_within"] for layer in data["layers"] if layer["kurtosis_within"] is not None]
    assert len(known) > 20 and all(f"{value:.1f}" in found.stdout for value in known)
    starred = [layer["layer"] for layer in data["layers"] if not layer["segmenting"]]
    assert found.stdout.count(" *") == len(starred) == 3 and all("mask_embed" in name for name in starred)
    unplaced = sum(not layer["placed"] for layer in data["layers"]) - len(starred)
    assert f"No map of outliers is drawn of {unplaced} layers" in found.stdout
    assert all(len(one["at"]) == 2 and max(one["shape"]) <= 256 for one in data["outliers"])
    assert imread("a.png").shape[1] > 1000

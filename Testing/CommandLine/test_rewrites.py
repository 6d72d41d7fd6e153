"""Rewrites that keep the function, as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medquant import load_model
from medquant.imaging.reading import read_volume
from medquant.models.base import CalibrationSelection
from medquant.published_recipes import published
from medquant.sensitivity.layers import sensitivity
from medquant.sensitivity.trials import Rounding


@pytest.mark.parametrize(
    ("activations", "granularity"),
    [(0, None), pytest.param(4, None, marks=pytest.mark.heavy), (4, "per-channel/token")],
)
def test_every_rewrite_is_tried_on_layers_and_on_the_whole(
    medquant, scan: Path, small_sam: Path, activations: int, granularity: str | None
) -> None:
    given = () if granularity is None else ("--granularity", granularity)
    found = medquant("rewrites", scan / "ct.nii.gz", "-m", small_sam, "--layers", "2", "-a", activations, *given,
                     "--json", "r.json")  # fmt: skip
    assert found.exit_code == 0, found.output
    data = json.loads(Path("r.json").read_text())
    assert data["rounding"] == ("W4A4" if activations else "W4") and len(data["layers"]) == 2
    variants = [
        "none",
        "smoothing 0.5",
        "smoothing, searched",
        "low rank 4",
        "smoothing 0.5, low rank 4",
        "rotation 32",
    ]
    variants += ["equalization", *(["the recipe's own factors"] if activations and granularity is None else [])]
    places = [(name, True) for name in data["layers"]] + [(data["layers"][0], False), ("", False)]
    for place in places:
        rows = {one["variant"]: one for one in data["effects"] if (one["layer"], one["alone"]) == place}
        assert list(rows) == variants + ["none, as large as low rank"] * (place == ("", False))
        for one in rows.values():
            assert one["variant"] in found.stdout
            assert (one["output_error"] is None) != place[1] and (one["effective_bits"] is None) == place[1]
    whole = {one["variant"]: one for one in data["effects"] if not one["layer"]}
    assert whole["low rank 4"]["effective_bits"] > whole["none"]["effective_bits"]
    assert whole["rotation 32"]["error"] != whole["none"]["error"]
    for name in data["layers"]:
        assert f"only {name} rounded" in found.stdout


def test_a_model_is_quantized_with_rewrites_and_opens(medquant, scan: Path, small_sam: Path) -> None:
    ct = scan / "ct.nii.gz"
    found = medquant("quantize", ct, "-m", small_sam, "--slices", "1", "--method", "rtn", "--rewrite", "rotation=8",
                     "--rewrite", "low-rank=1", "--output", "r.mq.safetensors", "--json", "q.json")  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "rotation 8 and rank 1" in found.stdout and "a low-rank branch, computed in floating point" in found.stdout
    data = json.loads(Path("q.json").read_text())
    branches = [name for name, why in data["kept"].items() if "low-rank" in why]
    told = [line for line in found.stdout.splitlines() if line.startswith("  kept:")]
    assert len(branches) > 5 and len(told) == 1, "not a line for each of them"
    assert f"{len(branches)} layers, {branches[0]} to {branches[-1]}" in told[0]
    assert ".rewritten" not in found.stdout, "layers are called as in the model"
    assert data["recipe"]["rewrites"]["*"]["rotation"] == {"order": 8}
    assert any("rotated by 8" in words for words in data["rewritten"].values())
    box = "liver=10,10,0,40,50,3"
    assert medquant("segment", ct, "-m", "r.mq.safetensors", "--box", box, "--runtime", "pytorch").exit_code == 0


def test_layers_are_ranked_in_the_setting_of_the_paper(medquant, scan: Path, small_sam: Path) -> None:
    given = ("-m", small_sam, "-b", "4", "--what", "both", "--view", "proxy")
    effects = {}
    for granularity in (None, "per-channel/token"):
        chosen = () if granularity is None else ("--granularity", granularity)
        found = medquant("sensitivity", scan / "ct.nii.gz", *given, *chosen, "--json", f"{len(effects)}.json")
        assert found.exit_code == 0, found.output
        data = json.loads(Path(f"{len(effects)}.json").read_text())
        effects[granularity] = {cell["layer"]: cell["effect"] for cell in data["cells"]}
    model = load_model(small_sam, device="cpu")
    recipe = published(8, "per-channel/token")  # bits are those of the rounding
    expected = sensitivity(
        model, read_volume(scan / "ct.nii.gz"), roundings=(Rounding(4, 4),), views=("proxy",), recipe=recipe,
        selection=CalibrationSelection(count=1),
    )  # fmt: skip
    assert effects["per-channel/token"] == {cell.layer: pytest.approx(cell.effect) for cell in expected.cells}
    assert effects["per-channel/token"] != effects[None]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("quantize", "--rewrite", "sideways"), "Unknown rewrite 'sideways'"),
        (("quantize", "--rewrite", "rotation=12"), "power of two"),
        (("quantize", "--redesign", "*"), "no convolution that reads one plane only"),
        (("rewrites", "-b", "1"), "2 to 8 bits"),
        (("rewrites", "--slices", "1"), "2"),
        (("rewrites", "--granularity", "per-token"), "Choose per-tensor, per-channel/token or adaptive"),
        (("sensitivity", "--granularity", "per-token"), "Choose per-tensor, per-channel/token or adaptive"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    medquant, scan: Path, small_sam: Path, words: tuple[str, ...], told: str
) -> None:
    command, *rest = words
    result = medquant(command, scan / "ct.nii.gz", "-m", small_sam, *rest)
    assert result.exit_code == 2 and told in result.output
    assert not list(Path().iterdir())

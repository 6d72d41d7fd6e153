"""Rewritten models as files for other programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.deploy.export.exporting import export
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection
from medquant.models.torch_program import from_module
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe
from medquant.rewrites.settings import LowRank, Rewrites, Rotation, Smoothing


@pytest.mark.parametrize(("form", "activations"), [("onnx", None), ("onnx", 8), ("openvino", 8), ("torch", 8)])
def test_an_export_computes_what_the_engine_does(
    form: str, activations: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`export` runs what it wrote on an example and refuses what differs."""
    generator = torch.Generator().manual_seed(0)
    volume = Volume(torch.randn(4, 16, 16, generator=generator).numpy(), torch.eye(4).numpy())
    monkeypatch.setattr("medquant.deploy.export.example._scan", lambda: volume)
    torch.manual_seed(0)
    layers = (
        nn.Conv3d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(16, 3, 1),
    )
    model = from_module(nn.Sequential(*layers), name="patches", roi_size=(4, 16, 16))
    wanted = Rewrites(True, Smoothing(), Rotation(), LowRank(2))
    rounded = activations and IntActivations(bits=activations)
    recipe = Recipe(weights=IntWeights(8), activations=rounded, method="rtn", rewrites={"*": wanted})
    made = quantize(model, volume, recipe=recipe, selection=CalibrationSelection(1))
    done = export(made, tmp_path / "out", form)
    assert (tmp_path / "out" / "README.md").is_file() and done is not None

"""Exports of MedSAM's network and of a large nnU-Net, each run by its own script with only what the card says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medquant.activation_settings import IntActivations
from medquant.deploy.export.example import _scan
from medquant.deploy.export.exporting import Exported, export
from medquant.models.base import CalibrationSelection, Model
from medquant.models.registry import load_model
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import CalibrationSettings, IntWeights, Recipe

pytestmark = pytest.mark.heavy
FORMATS = ["onnx", "openvino", "torch", "artifact"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """MedSAM's network with random weights, and an nnU-Net of 31 million."""
    from medquant.bench.footprint import random_vit_b
    from medquant.bench.pipeline_model import write_model

    folder = write_model(tmp_path_factory.mktemp("nnunet"))
    return {"sam": random_vit_b(), "nnunet": load_model("nnunet", weights=folder, device="cpu")}


@pytest.fixture(scope="module")
def quantized(originals: dict[str, Model]) -> dict[tuple[str, str], QuantizedModel]:
    """Made when asked for, and kept."""

    class Made(dict):
        def __missing__(self, key: tuple[str, str]) -> QuantizedModel:
            name, kind = key
            recipe = Recipe(
                weights=IntWeights(int(kind[1])),
                activations=IntActivations() if kind.endswith("A8") else None,
                method="rtn",
                calibration=CalibrationSettings(sequential=False, foreground_share=0.0),
            )
            self[key] = quantize(originals[name], _scan(), recipe=recipe, selection=CalibrationSelection(1))
            return self[key]

    return Made()


def run_as_the_card_says(made: Exported, fresh: Callable[[str], Path]) -> None:
    card = (made.folder / "README.md").read_text(encoding="utf-8")
    packages = re.search(r"^pip install (.+)$", card, re.MULTILINE)
    own = packages is None  # it is run by this package, which is here
    assert own == (made.format == "artifact")
    python, isolated = (Path(sys.executable), ()) if own else (fresh(packages[1]), ("-I",))
    command = [python, *isolated, made.folder / made.script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert own or subprocess.run([python, "-I", "-c", "import medquant"], capture_output=True).returncode != 0


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("kind", ["W4", "W8A8"])
@pytest.mark.parametrize("name", ["sam", "nnunet"])
def test_a_script_runs_what_was_exported(
    name: str,
    kind: str,
    format_name: str,
    quantized: dict[tuple[str, str], QuantizedModel],
    fresh: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    model = quantized[name, kind]
    made = export(model, tmp_path / "made", format_name)
    assert all(one.relative <= one.bound for one in made.differences)
    files = {"sam": ("image_encoder.", "mask_decoder."), "nnunet": ("network.",)}[name]
    if format_name != "artifact":
        assert all(any(file.startswith(stem) for file in made.files) for stem in files)
    # All that is stored of the model, graphs and what formats cannot pack included.
    assert made.bytes_on_disk < 1.2 * model.report.parameters * model.report.bits_per_parameter / 8 + 3e6
    run_as_the_card_says(made, fresh)


@pytest.mark.parametrize("format_name", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize(("name", "kind"), [("sam", "W4A8"), ("nnunet", "W2A8")])
def test_few_bits_with_integer_activations_stay_few_where_packed(
    name: str,
    kind: str,
    format_name: str,
    quantized: dict[tuple[str, str], QuantizedModel],
    fresh: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    model = quantized[name, kind]
    made = export(model, tmp_path / "made", format_name, storage="auto" if format_name == "torch" else "packed")
    assert all(one.relative <= one.bound for one in made.differences)
    assert made.bytes_on_disk < 1.25 * model.report.parameters * model.report.bits_per_parameter / 8 + 3e6
    run_as_the_card_says(made, fresh)

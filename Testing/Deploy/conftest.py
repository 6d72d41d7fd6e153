"""The helpers of these tests on the path, small networks in floating point and on integers, a cache of a test's own."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.deploy import choose, compiling
from medquant.deploy.runtime import RUNTIMES
from medquant.granularity import PerGroup
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch, CalibrationSelection
from medquant.models.torch_program import TorchModel, from_module
from medquant.quantize import quantize
from medquant.quantized_model import QuantizedModel
from medquant.recipe import IntWeights, Recipe

if (HERE := str(Path(__file__).resolve().parent)) not in sys.path:
    sys.path.insert(0, HERE)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where this test keeps compiled models and choices."""
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def an_idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run beside each other; the known times are apart enough for the better of two runs."""
    monkeypatch.setattr(choose, "BUSY", 2.0)
    monkeypatch.setattr(compiling, "MOST_RUNS", 2)


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Puts runtimes of known speed in the place of the real ones."""
    from timed_runtimes import Timed

    def put(**seconds: dict[str, float | None]) -> dict[str, Timed]:
        made = {}
        for name in ("openvino", "onnxruntime", "tensorrt"):
            made[name] = Timed(name, seconds.get(name, {}), "1.0" if name in seconds else None)
            monkeypatch.setitem(RUNTIMES, name, made[name])
        return made

    return put


@pytest.fixture(scope="session")
def small_scan() -> Volume:
    """A few patches of noise around a ball."""
    k, j, i = np.meshgrid(np.arange(8), np.arange(24), np.arange(24), indexing="ij")
    ball = ((k - 4) / 3) ** 2 + ((j - 12) / 8) ** 2 + ((i - 11) / 7) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, 0.3, ball.shape)
    return Volume((ball + noise).astype(np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))


@pytest.fixture(scope="session")
def patchwise() -> TorchModel:
    """Three convolutions over patches."""
    torch.manual_seed(0)
    layers = [nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 3, 1)]
    return from_module(nn.Sequential(*layers), name="patches", roi_size=(4, 16, 16))


@pytest.fixture(scope="session")
def integer_patchwise(patchwise: TorchModel, small_scan: Volume) -> QuantizedModel:
    """The same with 8-bit weights and 8-bit activations."""
    recipe = Recipe(weights=IntWeights(bits=8), activations=IntActivations(), method="rtn")
    return quantize(patchwise, small_scan, recipe=recipe, selection=CalibrationSelection(2))


@pytest.fixture(scope="session")
def light_patchwise(patchwise: TorchModel, small_scan: Volume) -> QuantizedModel:
    """The same with 4-bit weights only."""
    recipe = Recipe(weights=IntWeights(bits=4), method="rtn")
    return quantize(patchwise, small_scan, recipe=recipe, selection=CalibrationSelection(2))


@pytest.fixture(scope="session")
def two_bits(patchwise: TorchModel, small_scan: Volume) -> QuantizedModel:
    """All layers at 2 bits, several groups of rows."""
    recipe = Recipe(weights=IntWeights(2, PerGroup(32)), ends_bits=None, extra_bits=0)
    return quantize(patchwise, small_scan, recipe=recipe)


@pytest.fixture
def small_example(small_scan: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of a few patches in place of the phantom, which takes seconds."""
    monkeypatch.setattr("medquant.deploy.export.example._scan", lambda: small_scan)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The interpreter of an environment with nothing but the packages named, made when asked for; needs the network."""

    @cache
    def made(packages: str) -> Path:
        folder = tmp_path_factory.mktemp("fresh") / "env"
        venv.create(folder, with_pip=True)
        python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        command = [python, "-m", "pip", "install", "-q", *packages.split()]
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        if installed.returncode:
            reason = f"{packages} cannot be installed here: {installed.stderr.strip().splitlines()[-1]}"
            if os.environ.get("MEDQUANT_REQUIRE_DATA") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        return python

    return made


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """Smooth noise, 1 x 1 x 16 x 16 x 16."""
    torch.manual_seed(1)
    return nn.functional.interpolate(torch.randn(1, 1, 4, 4, 4), size=(16, 16, 16), mode="trilinear").contiguous()


@pytest.fixture(scope="module")
def unet(image: torch.Tensor) -> QuantizedModel:
    """Two levels, W8A8, symmetric activations as transposed convolutions need them for integer kernels."""
    from runtime_parts import UNet

    torch.manual_seed(0)
    activations = IntActivations(symmetric=True, equalize=False, observer="min-max", dither=False)
    recipe = Recipe(weights=IntWeights(8), activations=activations, method="rtn")
    model = from_module(UNet(), name="unet", roi_size=(16, 16, 16))
    return quantize(model, [CalibrationBatch((image,))], recipe=recipe)

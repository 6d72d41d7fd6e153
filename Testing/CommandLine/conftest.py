"""A small scan with labels, a small SAM, a way to call the command as a person does, and run.py as a module."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from medquant.cli import app
from medquant.deploy import choose, compiling

Command = Callable[..., Result]
CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands keep on disk stays out of the user's own cache; what one test measured the next remembers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDQUANT_CACHE", str(tmp_path_factory.mktemp("kept")))
        yield


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """A choice of a runtime tries one of them, once: with all of them it is tested where it is made."""
    monkeypatch.setattr(choose, "_ORDER", choose._ORDER[:2])
    monkeypatch.setattr(compiling, "MOST_RUNS", 1)


@pytest.fixture
def medquant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command in this process, in a folder of the test's own; nothing in it may end in a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> Result:
        result = CliRunner().invoke(app, [str(word) for word in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a coarse phantom, `ct.nii.gz`, and its labels, `labels.seg.nrrd` and `labels.nii.gz`."""
    from medquant.embedded.phantom import make_phantom
    from medquant.imaging.volume import Volume
    from medquant.imaging.writing import save_segmentation, write_volume
    from medquant.segmentation import Segmentation, Structure

    folder = tmp_path_factory.mktemp("scan")
    array, labels, names, affine = make_phantom(0, (4, 64, 64), (12.0, 6.0, 6.0))
    volume = Volume(array, affine, name="ct", modality="CT")
    structures = tuple(Structure(label, name) for label, name in names.items())
    write_volume(volume, folder / "ct.nii.gz")
    for name in ("labels.seg.nrrd", "labels.nii.gz"):
        save_segmentation(Segmentation(labels, volume, structures), folder / name)
    return folder


@pytest.fixture(scope="session")
def small_sam(tiny_sam: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder saved by transformers: a real SAM, tiny and untrained, so that every command runs in a moment."""
    import torch

    model = tiny_sam()
    for parameter in model.vision_encoder.parameters():  # the library's own start is too near zero to show anything
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("small-sam")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_w4a8(scan: Path, small_sam: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small SAM with weights of 4 bits and activations of 8, in its file."""
    target = tmp_path_factory.mktemp("w4a8") / "small-w4a8.mq.safetensors"
    words = ["quantize", scan / "ct.nii.gz", "--model", small_sam, "--activations", "8", "--method", "rtn",
             "--slices", "1", "--output", target]  # fmt: skip
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return target


@pytest.fixture
def run_py(tmp_path: Path) -> Iterator[ModuleType]:
    """A fresh copy of run.py as a module, with its environment in a folder of the test's own."""
    spec = importlib.util.spec_from_file_location("run_under_test", CHECKOUT / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.ENVIRONMENT = tmp_path / "environment"
    yield module
    del sys.modules[spec.name]

"""The folder of an export is written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medquant.deploy.export.exporting import export
from medquant.deploy.export.folder import whole_folder
from medquant.deploy.export.formats import PartFile
from medquant.errors import Cancelled, UserError
from medquant.models.torch_program import TorchModel
from medquant.quantized_model import QuantizedModel

pytestmark = pytest.mark.usefixtures("small_example")


def test_folders_in_use(light_patchwise: QuantizedModel, patchwise: TorchModel, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    export(light_patchwise, folder, "onnx")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"not empty\. Choose another, or add --overwrite"):
        export(patchwise, folder, "onnx")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    export(patchwise, folder, "onnx", overwrite=True)
    assert json.loads((folder / "model.json").read_text())["recipe"] is None
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("a year's work")
    with pytest.raises(UserError, match="is not replaced"):
        export(patchwise, other, "onnx", overwrite=True)
    assert (other / "chapter.txt").read_text() == "a year's work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "thesis"]


def test_a_full_disk_leaves_the_earlier_export(
    light_patchwise: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "made"
    export(light_patchwise, folder, "onnx")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(UserError, match="The disk is full"):
        export(light_patchwise, folder, "onnx", overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_stopping_leaves_nothing(light_patchwise: QuantizedModel, tmp_path: Path) -> None:
    seen: list[str] = []
    with pytest.raises(Cancelled):
        export(
            light_patchwise,
            tmp_path / "made",
            "onnx",
            progress=lambda event: seen.append(event.message),
            cancelled=lambda: any("Checking" in message for message in seen),
        )
    assert any("Writing" in message for message in seen)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("patience", [30.0, 0.05])
def test_stopping_inside_a_slow_writer_leaves_nothing(
    patience: float, light_patchwise: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converter that cannot be interrupted, makes its folder where it is gone, and keeps files open."""
    writing, done = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> PartFile:
        folder = next(argument for argument in arguments if isinstance(argument, Path))
        for number in range(20):
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"{number}.bin").open("wb") as stream:
                writing.set()
                stream.write(bytes(1000))
                time.sleep(0.02)
        done.set()
        return PartFile("0.bin", "nothing")

    monkeypatch.setattr("medquant.deploy.export.onnx_format.OnnxFormat.write", slow)
    monkeypatch.setattr("medquant.deploy.export.folder.PATIENCE", patience)
    with pytest.raises(Cancelled):
        export(light_patchwise, tmp_path / "made", "onnx", cancelled=writing.is_set)
    if patience > 1:
        assert done.is_set() and list(tmp_path.iterdir()) == []
    assert done.wait(30)
    deadline = time.monotonic() + 10
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_an_error_holds_is_let_go_before_the_folder_is_removed(tmp_path: Path, wrapped: bool) -> None:
    """On Windows, files that a session keeps open can neither be removed nor replaced."""
    held: list[weakref.ref] = []
    alive: list[bool] = []

    class Session:
        pass

    def check() -> None:
        session = Session()
        held.append(weakref.ref(session))
        raise UserError("It differs. Try another.")

    def rmtree(folder: Path, **options: object) -> None:
        alive.append(held[0]() is not None)
        real(folder, **options)

    real = shutil.rmtree
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", rmtree)
        with pytest.raises(UserError), whole_folder(tmp_path / "made"):
            if not wrapped:
                check()
            try:
                check()
            except UserError as error:
                raise UserError("The export differs.") from error
    assert alive == [False] and list(tmp_path.iterdir()) == []

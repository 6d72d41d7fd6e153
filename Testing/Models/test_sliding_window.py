"""The sliding window where the memory does not suffice: smaller windows, then a message."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medquant.deploy.accelerate import accelerate
from medquant.deploy.runtime import RUNTIMES, Session
from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.sliding_window import smaller_window
from medquant.models.torch_program import TorchModel, from_module
from medquant.segment import segment


class Hungry(nn.Module):
    """Finds what is bright, in windows of so many voxels at most; with `fixed`, of the first window's size only, and
    this is the error for others."""

    def __init__(self, most: int, fixed: Exception | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.most, self.fixed, self.seen = most, fixed, []

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(patch.shape[2:]))
        if patch[0, 0].numel() > self.most:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")
        if self.fixed and self.seen[-1] != self.seen[0]:
            raise self.fixed
        return torch.cat([0.5 - patch, patch - 0.5], 1) * self.scale


@pytest.fixture
def scan() -> Volume:
    array = np.zeros((40, 70, 70), np.float32)
    array[10:20, 30:60, 5:40] = 1
    return Volume(array, np.diag([1.0, 1, 1, 1]), name="block", modality="CT")


def model(network: nn.Module, window: tuple[int, ...]) -> TorchModel:
    return from_module(network.eval(), name="hungry", roi_size=window)


def test_smaller_windows_find_the_same(scan: Volume) -> None:
    network = Hungry(most=40_000)
    said: list[str] = []
    found = segment(model(network, (32, 64, 64)), scan, progress=lambda event: said.append(event.message))
    assert np.array_equal(found.labels, scan.array > 0)
    assert network.seen[0] == (32, 64, 64) and network.seen[-1] == (32, 32, 32)
    assert any("trying windows of 32 x 32 x 32" in text for text in said)
    assert "windows of 32 x 32 x 32" in found.execution.reason and found.execution.runtime == "pytorch"


@pytest.mark.skipif(RUNTIMES["openvino"].version() is None, reason="OpenVINO is not here")
def test_smaller_windows_are_computed_by_the_runtime(
    scan: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path))
    network = Hungry(most=10**9)
    twin = accelerate(model(network, (32, 64, 64)), "openvino")
    session = twin.sessions["network"]
    compute, kind, released = type(session).__call__, type(session), []

    def short(session: Session, patch: torch.Tensor) -> torch.Tensor:
        if patch.numel() > 40_000:
            raise MemoryError("running the model")
        return compute(session, patch)

    monkeypatch.setattr(kind, "__call__", short)
    monkeypatch.setattr(kind, "release", lambda session, own=kind.release: released.append(session) or own(session))
    network.seen.clear()
    found = segment(twin, scan)
    assert np.array_equal(found.labels, scan.array > 0) and released == [session]
    assert (found.execution.runtime, found.execution.precision) == ("openvino", "fp32")
    assert found.execution.reason.startswith("openvino fp32, in windows of 32 x 32 x 32 voxels")
    assert len(network.seen) <= 6, "PyTorch was there to convert and to compare"
    monkeypatch.setattr(kind, "__call__", compute)
    again = segment(twin, scan)
    assert np.array_equal(again.labels, found.labels) and not again.execution.reason


@pytest.mark.skipif(RUNTIMES["openvino"].version() is None, reason="OpenVINO is not here")
def test_pytorch_takes_over_where_the_runtime_cannot_take_smaller_windows(
    scan: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path))
    twin = accelerate(model(Hungry(most=10**9), (32, 64, 64)), "openvino")

    def fail(kind: type[Exception], *_: object, **__: object) -> None:
        raise kind("too little")

    monkeypatch.setattr(type(twin.sessions["network"]), "__call__", partial(fail, MemoryError))
    monkeypatch.setattr(type(RUNTIMES["openvino"]), "compile", partial(fail, UserError))
    found = segment(twin, scan)
    assert np.array_equal(found.labels, scan.array > 0)
    assert found.execution.runtime == "pytorch" and found.execution.reason.startswith("PyTorch, in windows of 32 x 32")


OTHERS = [RuntimeError("The size of tensor a must match"), ValueError("not divisible by 64"), AssertionError()]


@pytest.mark.parametrize("fixed", [None, *OTHERS])
def test_where_no_window_fits_the_message_says_what_to_do(scan: Volume, fixed: Exception | None) -> None:
    with pytest.raises(UserError, match="not enough memory to run hungry"):
        segment(model(Hungry(most=10, fixed=fixed), (32, 64, 64)), scan)


def test_other_errors_stay_what_they_are(scan: Volume) -> None:
    class Broken(Hungry):
        def forward(self, patch: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        segment(model(Broken(most=1), (32, 64, 64)), scan)


@pytest.mark.parametrize(
    ("window", "smaller"), [((96, 96, 96), (32, 96, 96)), ((64, 128), (64, 64)), ((32, 32), None), ((5, 160), (5, 64))]
)
def test_sizes_can_be_halved_five_times(window: tuple[int, ...], smaller: tuple[int, ...] | None) -> None:
    assert smaller_window(window) == smaller

"""Memory of calibration: counted from shapes, the same on every machine, and kept."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import nn

from medquant.alive import AliveTensors
from medquant.errors import UserError
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import from_module
from medquant.quantize import quantize


def test_alive_tensors_are_counted_by_hand() -> None:
    known = torch.randn(1000)
    with torch.inference_mode(), AliveTensors([known]) as alive:
        a = known * 2
        assert alive.bytes == 4000
        view, b = a[:10], a + 1
        b.mul_(3)
        assert alive.bytes == 8000
        del a
        assert alive.bytes == 8000, "a view keeps its storage"
        del view
        assert alive.bytes == 4000
        known.view(10, 100).sum()
        assert alive.bytes == 4000
        del b
    assert alive.bytes == 0 and alive.peak_bytes == 8000


def wide() -> tuple[object, list[CalibrationBatch]]:
    torch.manual_seed(0)
    model = from_module(
        nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 2, 1)), name="w"
    )
    return model, [CalibrationBatch((torch.randn(1, 1, 96, 96),)) for _ in range(4)]


def codes_of(result: object) -> list[torch.Tensor]:
    return [tensor for name, tensor in result.model.network.state_dict().items() if name.endswith("packed")]


def test_free_memory_does_not_change_the_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = wide()
    found = []
    for free in (64e9, 2e9):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        result = quantize(model, batches)
        assert result.report.calibration_inputs == 4
        found.append(codes_of(result))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1e6))
    with pytest.raises(UserError, match=r"MB are free\. Use fewer"):
        quantize(model, batches)


KEPT = """
import torch
from torch import nn
from medquant.memory import PeakMemory
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import from_module
from medquant.quantize import quantize
torch.manual_seed(0)
net = nn.Sequential(nn.Conv3d(1, 24, 3, padding=1), nn.ReLU(), nn.Conv3d(24, 40, 3, padding=1), nn.Conv3d(40, 2, 1))
model = from_module(net, name="net")
def batches(n, size): return [CalibrationBatch((torch.randn(1, 1, size, size, size),)) for _ in range(n)]
quantize(model, batches(1, 8))  # libraries load what they need
given = batches(6, 64)
with PeakMemory() as memory:
    report = quantize(model, given, max_memory_mb={limit}).report
print(report.calibration_inputs, memory.extra_mb)
"""


@pytest.mark.parametrize("limit", [600, 1200])
def test_a_limit_on_memory_is_kept(limit: int) -> None:
    """Measured in a process of its own; 20 per cent are left to the allocator."""
    answer = subprocess.run(
        [sys.executable, "-c", KEPT.format(limit=limit)], capture_output=True, text=True, check=True
    )
    used, extra = answer.stdout.split()
    assert 1 <= int(used) <= 6 and float(extra) < 1.2 * limit, answer.stdout

"""The rows of `medquant bench autoquant`, on a small network and random volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pytest
import torch
from torch import nn

from medquant.bench.autoquant import Row, rows_of
from medquant.bench.organ_case import CROPS, Crop
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import TorchModel, from_module
from medquant.progress import Progress, ProgressEvent
from medquant.recipe import Recipe
from medquant.sensitivity.change import mean_dice, overlaps

BITS = (2, 3, 4)


@dataclass
class SmallCase:
    """What the benchmark takes of a network and two scans."""

    model: TorchModel

    def batches(self, crops: Sequence[Crop] = CROPS) -> list[CalibrationBatch]:
        """An input of the scan that calibrates for each crop."""
        return [CalibrationBatch((_input(hash(crop) % 1000),)) for crop in crops]

    def scores(self, network: nn.Module) -> tuple[float, float]:
        """Against FP32's masks and against a reference, on another input."""
        cube = _input(100)
        with torch.inference_mode():
            found, full = network(cube).argmax(1), self.model.network(cube).argmax(1)
        reference = (cube[:, 0] > 0).long()
        return tuple(mean_dice(overlaps(found, other, 3)) for other in (full, reference))


def _input(seed: int) -> torch.Tensor:
    return torch.randn(1, 1, 12, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def told() -> list[ProgressEvent]:
    """What the run reported."""
    return []


@pytest.fixture(scope="module")
def rows(told: list[ProgressEvent]) -> list[Row]:
    """All of them, in the order in which they are told."""
    torch.manual_seed(0)
    layers = nn.Conv3d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv3d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv3d(32, 3, 1)
    case = SmallCase(from_module(nn.Sequential(*layers), name="small"))
    return rows_of(case, BITS, Recipe(method="rtn"), Progress(told.append))


def test_each_size_has_two_uniform_rows_and_a_mixed_one(rows: list[Row]) -> None:
    assert [row.kind for row in rows] == ["uniform", "uniform", "mixed"] * len(BITS)
    wanted = {"network", "kind", "recipe", "bytes_on_disk", "effective_bits", "dsc_vs_fp32", "dsc_vs_reference"}
    assert all(set(asdict(row)) == wanted for row in rows)
    assert all(0 <= score <= 1 for row in rows for score in (row.dsc_vs_fp32, row.dsc_vs_reference))


def test_no_mixed_model_is_larger_than_both_of_its_peers(rows: list[Row]) -> None:
    for plain, default, mixed in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert mixed.bytes_on_disk <= max(plain.bytes_on_disk, default.bytes_on_disk)
        assert mixed.effective_bits == pytest.approx(default.effective_bits, abs=1.0)
    assert [row.bytes_on_disk for row in rows[2::3]] == sorted(row.bytes_on_disk for row in rows[2::3])


def test_the_progress_never_goes_back(rows: list[Row], told: list[ProgressEvent]) -> None:
    fractions = [event.fraction for event in told]
    assert rows and fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] <= 1

"""The rows of `medquant bench autoquant`, on a small network and random volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from medquant.bench.autoquant import Row, first_within, rows_of, run, sizes_to_reach
from medquant.bench.organ_case import CROPS, Crop
from medquant.errors import UserError
from medquant.mixed.plan import everywhere
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import TorchModel, from_module
from medquant.progress import Progress, ProgressEvent
from medquant.quantize import quantize
from medquant.recipe import IntWeights, Recipe
from medquant.sensitivity.change import mean_dice, overlaps

BITS = (2, 3, 4)


@dataclass
class SmallCase:
    """What the benchmark takes of a network and two scans."""

    model: TorchModel

    def batches(
        self, crops: Sequence[Crop] = CROPS, *, first: int = 0, step: int = 1, mirrored: bool = False
    ) -> list[CalibrationBatch]:
        """An input of the scan that calibrates, or of some of its slices, for each crop."""
        return [CalibrationBatch((_input(hash((crop, first, step, mirrored)) % 1000),)) for crop in crops]

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


def test_there_is_a_uniform_and_a_default_row_of_each_bits_and_mixed_ones_between(rows: list[Row]) -> None:
    assert sorted(row.kind for row in rows) == ["default"] * len(BITS) + ["mixed"] * 4 + ["uniform"] * len(BITS)
    assert [row.bytes_on_disk for row in rows] == sorted(row.bytes_on_disk for row in rows)
    wanted = {"network", "kind", "recipe", "bytes_on_disk", "effective_bits", "dsc_vs_fp32", "dsc_vs_reference"}
    assert all(set(asdict(row)) == wanted for row in rows)
    assert all(0 <= score <= 1 for row in rows for score in (row.dsc_vs_fp32, row.dsc_vs_reference))


def test_a_mixed_model_is_no_larger_than_asked(rows: list[Row]) -> None:
    mixed = [row.bytes_on_disk for row in rows if row.kind == "mixed"]
    uniform = [row.bytes_on_disk for row in rows if row.kind == "uniform"]
    allowed = sizes_to_reach(dict(zip(BITS, uniform, strict=True)))
    assert all(size <= most for size, most in zip(mixed, allowed, strict=True))
    assert set(mixed) - set(uniform), "not all are the uniform models again"


@pytest.mark.parametrize("bits", BITS)
def test_uniform_is_the_same_bits_in_every_layer(bits: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 32, 3), nn.ReLU(), nn.Conv3d(32, 32, 3), nn.ReLU(), nn.Conv3d(32, 3, 1))
    with torch.no_grad():
        network[2].weight[:, :20] *= 1e-4  # channels that are switched off leave bits, which a rule would spend
    default = Recipe(method="rtn", weights=IntWeights(bits))
    model = from_module(network, name="small")
    uniform, usual, unpruned = (
        quantize(model, [CalibrationBatch((_input(1),))], recipe=recipe).report
        for recipe in (everywhere(default, bits), default, replace(everywhere(default, bits), drop_dead_channels=False))
    )
    assert {layer.bits for layer in uniform.layers} == {bits} != {layer.bits for layer in usual.layers}
    assert uniform.effective_bits < unpruned.effective_bits, "switched-off channels are left out"


def test_sizes_are_those_of_uniform_models_and_between() -> None:
    assert sizes_to_reach({2: 100, 3: 150, 4: 202}) == [125, 150, 176, 202]
    assert sizes_to_reach({3: 150}) == [150]
    assert sizes_to_reach({4: 200, 8: 400}) == [200, 300, 400]


@pytest.mark.parametrize("drift", [80, 0, -20, -120])
@pytest.mark.parametrize("largest", [399_950, 400_150, 400_000])
def test_a_model_that_outgrows_its_size_gives_way_to_a_smaller_one(largest: int, drift: int) -> None:
    sizes = largest, 399_000, 350_000

    def attempt(allowed: int) -> tuple[int, Row]:
        size = max(one for one in sizes if one <= allowed)
        return size, Row("n", "mixed", "r", size + drift, 3.0, 0.9, 0.9)

    assert first_within(400_000, attempt).bytes_on_disk in (largest + drift, 399_000 + drift)


def test_bits_that_leave_nothing_to_mix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fewer than 2 bits"):
        run(data=tmp_path, bits=(2,))


def test_the_progress_never_goes_back(rows: list[Row], told: list[ProgressEvent]) -> None:
    fractions = [event.fraction for event in told]
    assert rows and fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] <= 1

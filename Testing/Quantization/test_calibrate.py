"""From a layer's inputs to its quantized twin: moments over the right rows, exact means, true errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.activations import fit_quantizer
from medquant.calibrate import collect_moments, quantize_layer
from medquant.errors import Cancelled, UserError
from medquant.geometry import LayerGeometry
from medquant.granularity import PerGroup, PerTensor
from medquant.input_grid import InputGrid
from medquant.jobs import LayerJob
from medquant.matrices import input_rows, spatial_grid
from medquant.recipe import CalibrationSettings, IntWeights, Recipe
from medquant.rounding import round_layer

LAYERS = [
    (nn.Linear(6, 5), (3, 40, 6)),
    (nn.Conv2d(3, 4, 3, padding=1, bias=False), (1, 3, 12, 14)),
    (nn.Conv2d(6, 6, 3, groups=6), (1, 6, 12, 14)),
    (nn.Conv3d(4, 6, (1, 3, 3), 2, groups=2), (1, 4, 5, 9, 9)),
    (nn.ConvTranspose2d(4, 3, 2, 2), (1, 4, 9, 8)),
    (nn.ConvTranspose2d(4, 4, 1, groups=2), (1, 4, 9, 8)),
]
PLAIN = CalibrationSettings(sequential=False)
IDS = [str(layer) for layer, _ in LAYERS]


def job_of(module: nn.Module, bits: IntWeights | None = None) -> LayerJob:
    bias = None if module.bias is None else module.bias.detach()
    geometry = LayerGeometry.of(module)
    return LayerJob("layer", 0, module, module.weight.detach(), bias, bits or IntWeights(4), geometry)


def inputs_of(shape: tuple[int, ...], count: int = 2, seed: int = 0, mean: float = 0.5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) + mean for _ in range(count)]


def no_focus(job: LayerJob, number: int, grid: tuple[int, ...]) -> None:
    return None


def nothing() -> None:
    return None


def solved(job: LayerJob, inputs: list[torch.Tensor], full: list[torch.Tensor] | None, recipe: Recipe) -> tuple:
    moments = collect_moments(job, inputs, full, no_focus, recipe, nothing)
    return quantize_layer(job, moments, recipe, nothing)


@pytest.mark.parametrize(("module", "shape"), LAYERS, ids=IDS)
def test_moments_are_those_of_all_rows_where_all_are_drawn(module: nn.Module, shape: tuple[int, ...]) -> None:
    job, inputs = job_of(module), inputs_of(shape)
    full = [x * 0.9 - 0.1 for x in inputs]
    moments = collect_moments(job, inputs, full, no_focus, Recipe(), nothing)
    everything = torch.arange(torch.Size(spatial_grid(module, inputs[0])).numel())
    rows, others = (torch.cat([input_rows(module, x, everything) for x in side], 1) for side in (inputs, full))
    assert len(moments) == job.geometry.groups
    for g, (first, second) in enumerate(moments):
        assert first.count == second.count == len(everything), "each half has inputs of its own"
        gram, cross = (first + second).gram(centred=True)
        centred, other = rows[g] - rows[g].mean(0), others[g] - others[g].mean(0)
        torch.testing.assert_close(gram, centred.T @ centred / len(centred), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(cross, centred.T @ other / len(centred), rtol=1e-3, atol=1e-4)


def test_a_single_input_is_cut_into_halves() -> None:
    job = job_of(nn.Linear(6, 5))
    ((first, second),) = collect_moments(job, inputs_of((300, 6), 1), None, no_focus, Recipe(), nothing)
    assert first.count == second.count == 150


def test_rows_follow_the_focus_and_padding_is_left_out() -> None:
    job = job_of(nn.Linear(1, 1))
    values = torch.cat([torch.full((160_000, 1), 1.0), torch.full((60_000, 1), 5.0), torch.full((9_000, 1), 1e6)])
    focus = torch.cat([torch.zeros(160_000), torch.ones(60_000), -torch.ones(9_000)])

    def focus_of(job: LayerJob, number: int, grid: tuple[int, ...]) -> torch.Tensor:
        assert grid == (229_000,)
        return focus

    for share, mean in ((0.5, 3.0), (0.25, 2.0), (0.75, 4.0)):
        recipe = Recipe(calibration=CalibrationSettings(foreground_share=share))
        ((first, second),) = collect_moments(job, [values], None, focus_of, recipe, nothing)
        assert float((first + second).means()[0]) == pytest.approx(mean, abs=1e-3)


def test_positions_depend_on_the_seed_and_on_nothing_else() -> None:
    inputs = inputs_of((200_000, 2), 1)
    job = job_of(nn.Linear(2, 2))

    def second(seed: int) -> torch.Tensor:
        recipe = Recipe(calibration=CalibrationSettings(seed=seed))
        ((half, _),) = collect_moments(job, inputs, None, no_focus, recipe, nothing)
        return half.second

    assert torch.equal(second(3), second(3)) and not torch.equal(second(3), second(4))


@pytest.mark.parametrize(("module", "shape"), LAYERS, ids=IDS)
@pytest.mark.parametrize("bits", [2, 4])
def test_the_mean_output_is_kept_exactly(module: nn.Module, shape: tuple[int, ...], bits: int) -> None:
    """On the rows drawn, which are all rows here; a transposed convolution has one bias for all its offsets."""
    job, inputs = job_of(module, IntWeights(bits)), inputs_of(shape, mean=3.0)
    full = [x * 0.8 + 0.4 for x in inputs]
    layer, report = solved(job, inputs, full, Recipe())
    assert report.bits == bits and report.shape == tuple(module.weight.shape) and report.seconds >= 0
    if job.geometry.layout.share > 1:
        return
    # By rows, so that the border of a padded convolution counts as it was drawn.
    layout, total = job.geometry.layout, torch.Size(spatial_grid(module, inputs[0])).numel()
    matrices, decoded = layout.to_matrices(job.weight), layout.to_matrices(layer.weight)
    mean = torch.stack([input_rows(module, x, torch.arange(total)) for x in inputs]).mean((0, 2))
    mean_full = torch.stack([input_rows(module, x, torch.arange(total)) for x in full]).mean((0, 2))
    wanted = torch.einsum("gm,gmn->gn", mean_full, matrices).flatten()
    found = torch.einsum("gm,gmn->gn", mean, decoded).flatten() + layer.bias
    if module.bias is not None:
        wanted = wanted + module.bias
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("module", "shape"), LAYERS, ids=IDS)
def test_eight_bits_are_nearly_the_layer_itself(module: nn.Module, shape: tuple[int, ...]) -> None:
    inputs = inputs_of(shape)
    layer, report = solved(job_of(module, IntWeights(8)), inputs, None, Recipe())
    expected = module(inputs[0])
    assert (layer(inputs[0]) - expected).norm() < 0.02 * (expected - expected.mean()).norm()
    assert report.relative_error < 0.02


@pytest.mark.parametrize("method", ["rtn", "comq", "permutation-comq", "gptq"])
@pytest.mark.parametrize(
    "weights",
    [IntWeights(4, PerTensor()), IntWeights(4, PerGroup(4)), IntWeights(4, zero_point="half")],
    ids=["tensor", "group", "half"],
)
@pytest.mark.parametrize(("module", "shape"), LAYERS, ids=IDS)
def test_every_kind_of_layer_with_every_grid(
    module: nn.Module, shape: tuple[int, ...], weights: IntWeights, method: str
) -> None:
    inputs = inputs_of(shape)
    layer, report = solved(job_of(module, weights), inputs, None, Recipe(weights=weights, method=method))
    expected = module(inputs[0])
    assert (layer(inputs[0]) - expected).norm() < 0.45 * expected.norm()
    assert torch.isfinite(layer.weight).all() and report.effective_bits == layer.stored_bits() / module.weight.numel()
    if isinstance(weights.granularity, PerTensor):
        assert len(layer.scale.unique()) == 1


@pytest.mark.parametrize(("module", "shape"), LAYERS, ids=IDS)
def test_the_paper_as_read(module: nn.Module, shape: tuple[int, ...]) -> None:
    inputs = inputs_of(shape)
    recipe = Recipe(weights=IntWeights(3), scope="layer")
    layer, report = solved(job_of(module, recipe.weights), inputs, None, recipe)
    expected = module(inputs[0])
    assert (layer(inputs[0]) - expected).norm() < 0.3 * expected.norm()
    assert report.effective_bits > 3 + 8, "an index for each weight is part of the cost"


def test_inputs_that_drifted_are_made_up_for() -> None:
    """Inputs that are a mixture of the FP32 ones: the corrected weight undoes it, a plain one does not."""
    torch.manual_seed(0)
    module = nn.Linear(8, 6)
    full = inputs_of((500, 8), mean=0.0)
    mixing = torch.eye(8) + 0.25 * torch.randn(8, 8)
    seen = [x @ mixing + 0.3 for x in full]
    job, recipe = job_of(module, IntWeights(8)), Recipe()
    expected = module(full[0])
    corrected, plain = (solved(job, seen, other, recipe)[0](seen[0]) for other in (full, None))
    assert (corrected - expected).norm() < 0.1 * expected.norm() < (plain - expected).norm()


@pytest.mark.parametrize("fill", [0.0, 2.5])
@pytest.mark.parametrize(("module", "shape"), LAYERS, ids=IDS)
def test_inputs_without_variation(module: nn.Module, shape: tuple[int, ...], fill: float) -> None:
    inputs = [torch.full(shape, fill) for _ in range(2)]
    for full in (None, [x + 0.25 for x in inputs]):
        layer, _ = solved(job_of(module, IntWeights(8)), inputs, full, Recipe())
        assert torch.isfinite(layer.weight).all()
        if full is None:
            assert (layer.weight - module.weight).norm() < 0.05 * module.weight.norm()
            torch.testing.assert_close(layer(inputs[0]), module(inputs[0]), rtol=0.05, atol=0.05)


def test_nothing_of_the_callers_is_touched() -> None:
    module, shape = nn.Conv2d(3, 4, 3, padding=1), (1, 3, 12, 14)
    job, inputs = job_of(module), inputs_of(shape)
    full = [x * 0.9 for x in inputs]
    before = [t.clone() for t in (*inputs, *full, module.weight, module.bias)]
    solved(job, inputs, full, Recipe())
    assert all(torch.equal(a, b) for a, b in zip((*inputs, *full, module.weight, module.bias), before))


def test_cancel_is_heard_while_moments_are_gathered_and_while_solving() -> None:
    job, inputs, recipe = job_of(nn.Linear(6, 5)), inputs_of((50, 6)), Recipe()

    def stop() -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        collect_moments(job, inputs, None, no_focus, recipe, stop)
    moments = collect_moments(job, inputs, None, no_focus, recipe, nothing)
    with pytest.raises(Cancelled):
        quantize_layer(job, moments, replace(recipe, sweeps=1), stop)


@pytest.mark.parametrize(("module", "shape"), LAYERS, ids=IDS)
@pytest.mark.parametrize("rounded_inputs", [False, True])
def test_levels_mean_and_error(module: nn.Module, shape: tuple[int, ...], rounded_inputs: bool) -> None:
    bits = IntWeights(4, symmetric=True)
    job, inputs = job_of(module, bits), inputs_of(shape)
    recipe = Recipe(weights=bits, method="rtn", calibration=PLAIN)
    input_grid = InputGrid()
    if rounded_inputs:
        channels = torch.cat([x if isinstance(module, nn.Linear) else x.movedim(1, -1) for x in inputs])
        quantizer = fit_quantizer(IntActivations(4), job.geometry, channels.flatten(0, -2))
        input_grid = InputGrid(quantizer=quantizer)
    layer, report = round_layer(job, inputs, no_focus, recipe, input_grid, nothing)
    input_grid.give_to(layer)

    # The largest weight of each output at the outermost of 15 levels, all others at the nearest.
    layout = job.geometry.layout
    weight = layout.to_matrices(job.weight)
    cells = weight.reshape(*weight.shape[:2], -1, layout.share).movedim(3, 1).flatten(1, 2)
    scale = (cells.abs().amax(1, keepdim=True) / 7).repeat_interleave(layout.share, 2)
    nearest = (weight / scale).round() * scale
    found = layout.to_matrices(layer.weight)
    torch.testing.assert_close(found, nearest, rtol=1e-3, atol=1e-4)  # scales are stored in half precision

    with torch.inference_mode():
        expected = torch.cat([job.full(x) for x in inputs])
        got = torch.cat([layer(x) for x in inputs])
    axis = -1 if isinstance(module, nn.Linear) else 1
    others = [a for a in range(got.ndim) if a != axis % got.ndim]
    if layout.share == 1:
        torch.testing.assert_close(got.mean(others), expected.mean(others), rtol=1e-3, atol=1e-3)
        kept = [(values - values.mean(others, keepdim=True)) for values in (got - expected, expected)]
        assert report.relative_error == pytest.approx(float(kept[0].norm() / kept[1].norm()), rel=0.02)


def test_memory_for_second_moments_is_not_needed(quantized) -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(3000, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(64, 3000)
    with pytest.raises(UserError, match="MB are allowed"):
        quantized(network, [x], recipe=Recipe(method="rtn"), max_memory_mb=250)
    found = quantized(network, [x], recipe=Recipe(method="rtn", calibration=PLAIN), max_memory_mb=250)
    assert [layer.name for layer in found.report.layers] == ["0", "2"]

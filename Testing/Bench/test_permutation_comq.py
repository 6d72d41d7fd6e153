"""The readings of Permutation-COMQ against explicit algorithms that hold X, and what they are said to cost."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from medquant.bench.explicit_comq import explicit_comq
from medquant.bench.permutation_comq import figures, readings, simulation
from medquant.bench.permutation_comq.material import AT_HAND, CALIBRATION_AT_HAND, at_hand

BITS = (2, 4, 8)


def problem(seed: int = 0, inputs: int = 24, outputs: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """X (90, m) and W (m, n), correlated and of unlike sizes."""
    random = torch.Generator().manual_seed(seed)
    shape = (inputs, inputs)
    mixing = torch.eye(inputs, dtype=torch.float64) + 0.1 * torch.randn(shape, generator=random, dtype=torch.float64)
    features = torch.randn(90, inputs, generator=random, dtype=torch.float64) @ mixing
    weight = torch.randn(inputs, outputs, generator=random, dtype=torch.float64)
    return features, weight * torch.exp(torch.randn(inputs, 1, generator=random, dtype=torch.float64))


def explicit_columns(features: torch.Tensor, weight: torch.Tensor, bits: int) -> torch.Tensor:
    """The paper's algorithm with its own range and zero point: values (m, n)."""
    low, high = weight.min(0).values, weight.max(0).values
    scale = (high - low) / (2**bits - 1)
    zero = (low / scale).round()
    codes, scale = explicit_comq(
        features, weight, scale, zero * scale, bits, sweeps=readings.SWEEPS, update_scales=True
    )
    return scale * (codes + zero)


@pytest.mark.parametrize("bits", BITS)
def test_nothing_permuted_is_the_explicit_algorithm(bits: int) -> None:
    features, weight = problem()
    found = readings.comq(weight, features.T @ features, bits)
    torch.testing.assert_close(found.values, explicit_columns(features, weight, bits))


@pytest.mark.parametrize("bits", BITS)
def test_rows_permuted_take_their_inputs_along(bits: int) -> None:
    features, weight = problem(1)
    found = readings.rows_permuted(weight, features.T @ features, bits)
    order = np.argsort(np.abs(weight.numpy()).mean(1), kind="stable")
    wanted = torch.empty_like(weight)
    wanted[order] = explicit_columns(features[:, order], weight[order], bits)
    torch.testing.assert_close(found.values, wanted)


@pytest.mark.parametrize("bits", BITS)
def test_the_layer_sorted_as_printed_meets_the_wrong_inputs(bits: int) -> None:
    features, weight = problem(2)
    found = readings.layer_sorted_as_printed(weight, features.T @ features, bits)
    m, n = weight.shape
    order = np.argsort(weight.numpy().ravel(), kind="stable")
    by_column = torch.from_numpy(weight.numpy().ravel()[order].reshape((m, n), order="F").copy())
    wanted = np.empty(m * n)
    wanted[order] = explicit_columns(features, by_column, bits).numpy().ravel(order="F")
    torch.testing.assert_close(found.values, torch.from_numpy(wanted.reshape(m, n)))


def explicit_runs(
    features: torch.Tensor, weight: torch.Tensor, bits: int, run_of: np.ndarray, fit: int = 0
) -> torch.Tensor:
    """Coordinate descent with X, one weight after the other, each with the scale of its run; values (m, n).

    With `fit` groups in each column their scales are fitted in turn after each sweep, where that gives a positive one.
    """
    x, w = features.numpy(), weight.numpy()
    runs = int(run_of.max()) + 1
    low, high = (np.array([f(w[run_of == run]) for run in range(runs)]) for f in (np.min, np.max))
    scale = (high - low) / (2**bits - 1)
    zero = np.round(low / scale)
    value, codes = w.copy(), np.zeros_like(w)
    for _ in range(readings.SWEEPS):
        for i in range(len(w)):
            for j in range(w.shape[1]):
                run = run_of[i, j]
                best = value[i, j] + x[:, i] @ (x @ (w[:, j] - value[:, j])) / (x[:, i] @ x[:, i])
                codes[i, j] = np.clip(np.round((best - scale[run] * zero[run]) / scale[run]), 0, 2**bits - 1)
                value[i, j] = scale[run] * (codes[i, j] + zero[run])
        for k in range(fit):
            for j in range(w.shape[1]):
                run = j * fit + k
                inside = run_of[:, j] == run
                steps = x[:, inside] @ (codes[inside, j] + zero[run])
                rest = x @ w[:, j] - x[:, ~inside] @ value[~inside, j]
                if steps @ rest > 0:
                    scale[run] = steps @ rest / (steps @ steps)
                value[inside, j] = scale[run] * (codes[inside, j] + zero[run])
    return torch.from_numpy(value)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("key", ["value", "magnitude"])
def test_the_layer_sorted_is_explicit_descent_with_the_scale_of_each_run(key: str, bits: int) -> None:
    features, weight = problem(3)
    m, n = weight.shape
    sorted_by = weight.numpy() if key == "value" else np.abs(weight.numpy())
    run_of = (sorted_by.ravel().argsort().argsort() // m).reshape(m, n)
    solver = readings.layer_sorted if key == "value" else readings.layer_sorted_by_magnitude
    found = solver(weight, features.T @ features, bits)
    torch.testing.assert_close(found.values, explicit_runs(features, weight, bits, run_of))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("groups", [2, 4])
def test_columns_sorted_are_explicit_descent_with_scales_in_turn(groups: int, bits: int) -> None:
    features, weight = problem(4)
    m, n = weight.shape
    run_of = weight.numpy().argsort(0).argsort(0) // (m // groups) + np.arange(n) * groups
    found = readings.columns_sorted(groups, weight, features.T @ features, bits)
    torch.testing.assert_close(found.values, explicit_runs(features, weight, bits, run_of, fit=groups))


@given(seed=st.integers(0, 1000))
def test_every_permutation_is_undone(seed: int) -> None:
    _, weight = problem(seed)
    gram = torch.eye(len(weight), dtype=torch.float64)
    for name, reading in readings.READINGS.items():
        found = reading.solver(weight, gram, 8, readings.UNCLIPPED)
        assert found.codes.shape == found.values.shape == weight.shape
        step = (weight.max() - weight.min()) / 255
        assert float((found.values - weight).abs().max()) <= 1.5 * step, name


@given(seed=st.integers(0, 1000), bits=st.sampled_from(BITS))
def test_where_a_weight_stands_does_not_matter_to_sorting(seed: int, bits: int) -> None:
    _, weight = problem(seed)
    gram = torch.eye(len(weight), dtype=torch.float64)
    shuffled = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(seed))
    for solver in (readings.layer_sorted, readings.layer_sorted_by_magnitude):
        values = solver(weight, gram, bits).values.reshape(-1)
        other = solver(weight.reshape(-1)[shuffled].reshape(weight.shape), gram, bits).values.reshape(-1)
        torch.testing.assert_close(other, values[shuffled], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "bits", "counted"),
    [
        ("rtn", 2, 2 + 64 * 32 / 4096),  # a scale and a zero point of 16 bits for each column
        ("comq", 8, 8 + 64 * 64 / 4096),  # of 32 bits
        ("a", 2, 2.5),  # the order of rows need not be known
        ("b", 2, 2.5 + 6),  # one of 64 runs for each weight
        ("b-magnitude", 4, 4.5 + 6),
        ("b-as-printed", 8, 9 + 6),
        ("c-2", 2, 2 + 2 * 0.5 + 1),
        ("c-4", 2, 2 + 4 * 0.5 + 2),
        ("d", 2, 2 + 2 * 0.5 + 64 * 1 / 4096),  # two groups of 32 rows, one bit for each row
        ("default", 2, 2.5),
    ],
)
def test_effective_bits_by_hand(name: str, bits: int, counted: float) -> None:
    layer = simulation.simulated()
    reading = readings.READINGS[name].solver(layer.weight, layer.features.T @ layer.features, bits, (1.0,))
    assert reading.effective_bits(bits) == pytest.approx(counted, abs=1e-12)
    assert int(reading.codes.max()) < 2**bits


def test_the_simulated_weights_are_those_described() -> None:
    layer = simulation.simulated(3)
    size = layer.weight.abs()
    assert layer.weight.shape == (64, 64) and layer.features.shape == (256, 64)
    assert float(size.median()) < 0.15 and 4 < float(size.max()) <= 6
    assert int((size > 2).sum()) == 40
    correlation = torch.corrcoef(layer.features.T).fill_diagonal_(0).abs()
    assert 0.1 < float(correlation.max()) < 0.6
    assert torch.equal(simulation.simulated(3).weight, layer.weight)
    assert not torch.equal(simulation.simulated(4).weight, layer.weight)


def test_rows_say_what_the_paper_saw_and_what_it_cost(tmp_path: Path) -> None:
    rows, layer, drawn = simulation.run((2, 8), large=False, seeds=2)
    found = {(row.reading, row.clipping, row.bits): row for row in rows}
    assert len(found) == len(rows) == 2 * (len(readings.READINGS) * 2 - 2)
    plain, permuted = found["comq", "none", 2], found["b", "none", 2]
    assert plain.small_weights_error > 10 * permuted.small_weights_error, "Figure 3"
    assert plain.small_weights_error > plain.large_weights_error
    assert permuted.output_error < plain.output_error
    # At the price of what it stores the permuted matrix is much worse.
    dear = found["comq", "none", 8]
    assert dear.effective_bits - permuted.effective_bits == 0.5 and dear.output_error < permuted.output_error / 10
    assert plain.equals_comq_bits == pytest.approx(2) and dear.equals_comq_bits == pytest.approx(8)
    for row in rows:
        assert row.output_error_least <= row.output_error <= row.output_error_most
        digits = 1 if row.bits <= 4 else 2
        read = [[int(line[i : i + digits], 16) for i in range(0, len(line), digits)] for line in row.codes]
        np.testing.assert_array_equal(read, drawn[row.reading, row.clipping, row.bits].codes)
    assert simulation.as_json(rows)[0]["codes"] == rows[0].codes
    written = figures.write_figures(tmp_path, layer, drawn)
    assert sorted(path.name for path in written) == ["figure2.png", "figure2.svg", "figure3.png", "figure3.svg"]
    height, width, _ = imread(tmp_path / "figure3.png").shape
    assert height > 1500 and width > 800
    assert ElementTree.parse(tmp_path / "figure3.svg").getroot().tag.endswith("svg")


def test_equal_error_lies_between_whole_bits() -> None:
    peers = [0.4 / 2**k for k in range(len(simulation.PEER_BITS))]  # halved by each bit
    assert simulation.bits_of_equal_error(0.1, peers) == pytest.approx(4)
    assert simulation.bits_of_equal_error(0.1 / 2**0.5, peers) == pytest.approx(4.5)
    assert simulation.bits_of_equal_error(0.5, peers) is None
    assert simulation.bits_of_equal_error(1e-6, peers) is None


def test_who_made_a_reference_does_not_depend_on_where_it_lies(tmp_path: Path) -> None:
    data = tmp_path / "manual_data"
    for folder, _, labels, *_ in AT_HAND:
        (data / folder).mkdir(parents=True)
        (data / folder / labels).touch()
    data.joinpath(*CALIBRATION_AT_HAND).mkdir(parents=True)
    title = at_hand(data).title
    assert title.count("by a model") == 2 and title.count("(manual)") == 1

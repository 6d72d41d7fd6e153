"""Section 4.1 of Permutation-COMQ: simulated weights with outliers, quantized by every reading.

The paper tells shapes and kinds of distributions, not their parameters; those chosen here are in `simulated`. Beside
its 64 x 64 matrix stands one of the size of a transformer's layer, where the cost of scales and indices is another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import torch

from medquant.bench.permutation_comq.readings import READINGS, UNCLIPPED, Reading, comq
from medquant.bench.solver import features
from medquant.grid import CLIPPING_FACTORS
from medquant.progress import Progress

SEEDS = 5
LARGE = 768
"""Inputs and outputs of SAM ViT-B's `attn.proj`."""
LARGE_TOKENS = 2048
CLIPPING = {"none": UNCLIPPED, "searched": CLIPPING_FACTORS}
PEER_BITS = (2, 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True)
class SimulatedLayer:
    """Weights (m, n) and the inputs X (N, m) that they meet."""

    name: str
    weight: torch.Tensor
    features: torch.Tensor

    def output_error(self, values: torch.Tensor) -> float:
        """||X (W - W_q)|| / ||X W||."""
        return float((self.features @ (self.weight - values)).norm() / (self.features @ self.weight).norm())


@dataclass(frozen=True)
class SimulationRow:
    """One reading of one layer at one width. Errors are means over the simulated matrices, with their extremes."""

    layer: str
    reading: str
    title: str
    clipping: str
    """The factor lambda of Algorithm 1: "none" (1) or "searched"."""
    bits: int
    effective_bits: float
    index_bits: float
    """Of the effective bits those that tell which weight belongs to which scale."""
    output_error: float
    output_error_least: float
    output_error_most: float
    equals_comq_bits: float | None
    """How many bits COMQ with the same treatment of lambda needs for this error, between whole numbers by the
    logarithm of its error; None outside 2 to 8."""
    small_weights_error: float
    """Median of |w - w_q| / |w| over the smaller half of the weights."""
    large_weights_error: float
    """The same over the largest hundredth."""
    codes: tuple[str, ...] | None
    """Of the first matrix, a line for each input: hexadecimal, a digit for each weight up to 4 bits, two above. None
    for the large layer."""


def simulated(seed: int = 0) -> SimulatedLayer:
    """The paper's layer: W (64, 64) Gaussian with factors for rows and columns and sparse outliers of 2 to 6, X (256,
    64) Gaussian, mildly mixed.

    Ours: a deviation of 0.1, log-normal factors of deviation 0.5, one weight in a hundred an outlier, mixing by the
    unit matrix plus a Gaussian one of deviation 0.3 / sqrt(64).
    """
    random = torch.Generator().manual_seed(seed)

    def gaussian(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    weight = 0.1 * gaussian(64, 64) * torch.exp(0.5 * gaussian(64, 1)) * torch.exp(0.5 * gaussian(1, 64))
    where = torch.randperm(64 * 64, generator=random)[: 64 * 64 // 100]
    sizes = 2 + 4 * torch.rand(len(where), generator=random, dtype=torch.float64)
    weight.view(-1)[where] = sizes * gaussian(len(where)).sign()
    mixing = torch.eye(64, dtype=torch.float64) + 0.3 / 8 * gaussian(64, 64)
    return SimulatedLayer("section 4.1, 64 x 64", weight, gaussian(256, 64) @ mixing)


def large_layer(seed: int = 0) -> SimulatedLayer:
    """A layer of a transformer's size: the tokens of `bench solver`, Gaussian weights with factors for rows and
    columns, no outliers."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(LARGE, LARGE, generator=random) / LARGE**0.5
    weight *= torch.exp(0.3 * torch.randn(LARGE, 1, generator=random))
    weight *= torch.exp(0.3 * torch.randn(1, LARGE, generator=random))
    return SimulatedLayer(f"like a ViT's, {LARGE} x {LARGE}", weight, features(LARGE_TOKENS, LARGE, seed))


Drawn = dict[tuple[str, str, int], Reading]
"""What the figures show: reading, clipping, bits -> the first simulated matrix."""


def run(
    bits: Sequence[int] = (2, 4, 8), *, large: bool = True, seeds: int = SEEDS, tracker: Progress | None = None
) -> tuple[list[SimulationRow], SimulatedLayer, Drawn]:
    """All readings at all widths: rows, the layer of the first seed, and what became of it.

    The large layer is simulated once, and only with the clipping factor searched where a reading leaves a choice.
    """
    tracker = tracker or Progress()
    layers = [simulated(seed) for seed in range(seeds)]
    rows, drawn = _rows(layers, tuple(CLIPPING), bits, tracker.span(0, 0.3 if large else 1))
    if large:
        rows += _rows([large_layer()], ("searched",), bits, tracker.span(0.3, 1))[0]
    return rows, layers[0], drawn


def _rows(
    layers: Sequence[SimulatedLayer], clippings: Sequence[str], bits: Sequence[int], tracker: Progress
) -> tuple[list[SimulationRow], Drawn]:
    grams = [layer.features.T @ layer.features for layer in layers]
    rows: list[SimulationRow] = []
    drawn: Drawn = {}
    for part, clipping in enumerate(clippings):
        factors = CLIPPING[clipping]
        peers = [
            _mean(layer.output_error(comq(layer.weight, gram, b, factors).values) for layer, gram in zip(layers, grams))
            for b in PEER_BITS
        ]
        names = [name for name, one in READINGS.items() if clipping == "searched" or not one.clips_always]
        for number, name in enumerate(names):
            tracker.report((part + number / len(names)) / len(clippings), f"{layers[0].name}: {READINGS[name].title}")
            for b in bits:
                found = [READINGS[name].solver(one.weight, gram, b, factors) for one, gram in zip(layers, grams)]
                drawn[name, clipping, b] = found[0]
                rows.append(_row(layers, name, clipping, b, found, peers))
    return rows, drawn


def _row(
    layers: Sequence[SimulatedLayer],
    name: str,
    clipping: str,
    bits: int,
    found: Sequence[Reading],
    peers: Sequence[float],
) -> SimulationRow:
    errors = [layer.output_error(one.values) for layer, one in zip(layers, found)]
    small, large = zip(*(relative_errors(layer.weight, one.values) for layer, one in zip(layers, found)))
    first = found[0]
    return SimulationRow(
        layer=layers[0].name,
        reading=name,
        title=READINGS[name].title,
        clipping=clipping,
        bits=bits,
        effective_bits=first.effective_bits(bits),
        index_bits=first.index_bits / first.codes.numel(),
        output_error=_mean(errors),
        output_error_least=min(errors),
        output_error_most=max(errors),
        equals_comq_bits=bits_of_equal_error(_mean(errors), peers),
        small_weights_error=_mean(small),
        large_weights_error=_mean(large),
        codes=hexadecimal(first.codes, bits) if first.codes.numel() <= 4096 else None,
    )


def relative_errors(weight: torch.Tensor, values: torch.Tensor) -> tuple[float, float]:
    """Median of |w - w_q| / |w| over the smaller half and over the largest hundredth of the weights."""
    order = weight.abs().reshape(-1).argsort()
    error = ((values - weight).abs() / weight.abs()).reshape(-1)[order]
    return float(error[: len(error) // 2].median()), float(error[-(len(error) // 100) :].median())


def bits_of_equal_error(error: float, peers: Sequence[float]) -> float | None:
    """Where `error` lies among the errors of COMQ at `PEER_BITS`, which fall with the bits; None outside."""
    for low, (here, next_) in zip(PEER_BITS, pairwise(peers)):
        if here >= error >= next_:
            return low + math.log(here / error) / math.log(here / next_)
    return None


def hexadecimal(codes: torch.Tensor, bits: int) -> tuple[str, ...]:
    """Codes (m, n) as text, a line for each input."""
    digits = 1 if bits <= 4 else 2
    return tuple("".join(f"{code:0{digits}x}" for code in line) for line in codes.tolist())


def as_json(rows: Sequence[SimulationRow]) -> list[dict]:
    """Plain data, the codes left out where there are none."""
    return [{key: value for key, value in asdict(row).items() if value is not None or key != "codes"} for row in rows]


def _mean(values: Iterable[float]) -> float:
    return float(torch.tensor(list(values), dtype=torch.float64).mean())

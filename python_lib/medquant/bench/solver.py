"""How fast the solver is, and whether it gives the codes of the paper's own algorithm."""

from __future__ import annotations

import time
from typing import Any

import torch

from medquant.bench.explicit_comq import explicit_comq
from medquant.gram import Moments
from medquant.grid import Grid, initial_grid
from medquant.memory import PeakMemory
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.recipe import IntWeights
from medquant.solvers.coordinate import sweep
from medquant.solvers.solve import solve

BLOCKS = 12
LAYERS = ((768, 2304), (768, 768), (768, 3072), (3072, 768))
"""Inputs and outputs of the linear layers of one block of SAM's ViT-B encoder."""
TOKENS = 4096
"""Tokens of one image of 1024 x 1024 pixels."""
TIMED_LAYER = (768, 3072)


def features(tokens: int, inputs: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Tokens (N, m) as a transformer has them: correlated, with a few strong channels."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(tokens, inputs // 4, generator=generator, dtype=dtype)
    mixing = torch.randn(inputs // 4, inputs, generator=generator, dtype=dtype) / (inputs // 4) ** 0.5
    strength = torch.exp(torch.randn(inputs, generator=generator, dtype=dtype))
    noise = torch.randn(tokens, inputs, generator=generator, dtype=dtype)
    return (latent @ mixing + 0.5 * noise) * strength


def run(
    *,
    images: int = 16,
    bits: int = 4,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> dict[str, Any]:
    """Quantize every linear layer of a ViT-B encoder, time one layer of the explicit algorithm, compare codes.

    `speedup` is against the paper's steps as printed, `speedup_over_reduced_arithmetic` against the same algorithm
    without the outer products that cancel. Times of ours: the Gram matrices of all images and one sweep.

    The explicit algorithm's cost is proportional to the number of tokens and to m n; it is timed on one layer with
    the tokens of one image and extrapolated, which `extrapolated_from` states.
    """
    tracker = Progress(progress, cancelled)
    weights = IntWeights(bits=bits, zero_point="integer")
    ours = _quantize_encoder(weights, images, tracker.span(0.0, 0.5))
    tracker.report(0.5, "Timing the explicit algorithm on one layer")
    explicit, reduced = (_time_explicit(weights, as_printed=printed) for printed in (True, False))
    work = sum(m * n for m, n in LAYERS) * BLOCKS / (TIMED_LAYER[0] * TIMED_LAYER[1])
    explicit_total = explicit * work * images
    total = ours["seconds_gram"] + ours["seconds_one_sweep"]
    tracker.report(0.85, "Comparing codes")
    return {
        "speedup": explicit_total / total,
        "speedup_over_reduced_arithmetic": reduced * work * images / total,
        **ours,
        "seconds_explicit_one_layer_one_image": explicit,
        "seconds_explicit_reduced_arithmetic": reduced,
        "seconds_explicit_extrapolated": explicit_total,
        "extrapolated_from": f"one layer {TIMED_LAYER[0]} to {TIMED_LAYER[1]}, {TOKENS} tokens",
        "agreement_float64": agreement(torch.float64)[0],
        "agreement_float32": agreement(torch.float32)[0],
        "agreement_float32_worst_case": agreement(torch.float32)[1],
        "images": images,
        "bits": bits,
        "threads": torch.get_num_threads(),
    }


def _quantize_encoder(weights: IntWeights, images: int, tracker: Progress) -> dict[str, float]:
    """Seconds for the Gram matrices, for one sweep and for four with scale updates, over all layers, and the most
    memory that a layer took above its weights and one image's tokens."""
    seconds = {"seconds_gram": 0.0, "seconds_one_sweep": 0.0, "seconds_four_sweeps": 0.0, "extra_memory_mb": 0.0}
    for block in range(BLOCKS):
        for index, (m, n) in enumerate(LAYERS):
            tracker.report((block * len(LAYERS) + index) / (BLOCKS * len(LAYERS)), f"Block {block + 1} of {BLOCKS}")
            seed = block * len(LAYERS) + index
            weight = torch.randn(m, n, generator=torch.Generator().manual_seed(seed)) / m**0.5
            rows = features(TOKENS, m, seed)
            with PeakMemory() as memory:
                moments = Moments(m, paired=False)
                for _ in range(images):
                    # The same tokens stand for every image: the arithmetic is the same and making them is not timed.
                    began = time.perf_counter()
                    moments.add(rows)
                    seconds["seconds_gram"] += time.perf_counter() - began
                gram, _ = moments.gram(centred=False)
                for key, sweeps in (("seconds_one_sweep", 1), ("seconds_four_sweeps", 4)):
                    began = time.perf_counter()
                    solve(weight, gram, weights, method="comq", sweeps=sweeps, check=tracker.check)
                    seconds[key] += time.perf_counter() - began
            seconds["extra_memory_mb"] = max(seconds["extra_memory_mb"], memory.extra_mb)
    return seconds


def _time_explicit(weights: IntWeights, *, as_printed: bool) -> float:
    m, n = TIMED_LAYER
    x = features(TOKENS, m, 0)
    weight = torch.randn(m, n, generator=torch.Generator().manual_seed(0)) / m**0.5
    grid = _plain_grid(weight, weights)
    began = time.perf_counter()
    explicit_comq(x, weight, grid.scale[0], grid.offset[0], weights.bits, as_printed=as_printed)
    return time.perf_counter() - began


def agreement(dtype: torch.dtype, *, inputs: int = 384, outputs: int = 256, tokens: int = 2048) -> tuple[float, float]:
    """Share of equal codes over 2, 4 and 8 bits, rows as they stand and by descending diag(H): all, and the worst case.

    In float32 ties at .5 fall either way, and at 8 bits one that fell differently moves others.
    """
    x = features(tokens, inputs, 7, dtype)
    weight = torch.randn(inputs, outputs, generator=torch.Generator().manual_seed(7), dtype=dtype) / inputs**0.5
    gram = x.T @ x
    shares = []
    for bits in (2, 4, 8):
        grid = _plain_grid(weight, IntWeights(bits=bits, zero_point="integer"))
        for order in (torch.arange(inputs), gram.diagonal().argsort(descending=True, stable=True)):
            wanted, _ = explicit_comq(x, weight, grid.scale[0], grid.offset[0], bits, order=order)
            target = weight[order]
            found = sweep(gram[order][:, order], target, torch.zeros_like(target), grid.reorder(order))
            shares.append(float((found == wanted[order]).double().mean()))
    return sum(shares) / len(shares), min(shares)


def _plain_grid(weight: torch.Tensor, weights: IntWeights) -> Grid:
    importance = torch.ones(len(weight), dtype=weight.dtype)
    rows = torch.zeros(len(weight), dtype=torch.long)
    return initial_grid(weight, importance, weights, rows, factors=(1.0,))

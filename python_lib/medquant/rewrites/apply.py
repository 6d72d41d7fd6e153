"""The layers of a network rewritten, each as a recipe says, before they are quantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from medquant.errors import UserError
from medquant.jobs import LayerJob
from medquant.matrices import Layout
from medquant.network_edit import set_module
from medquant.rewrites.equalization import equalize
from medquant.rewrites.low_rank import largest_components
from medquant.rewrites.rewritten import Rewritten
from medquant.rewrites.rotation import order_for, rotated_weight
from medquant.rewrites.scaling import inputs_multiplied, reach_of_inputs
from medquant.rewrites.settings import Rewrites
from medquant.rewrites.smoothing import best_alpha, exact_in_half, smoothing_factors
from medquant.rewrites.unchanged import TOLERANCE, relative_change

Forward = Callable[[], torch.Tensor]
SamplesOf = Callable[[LayerJob, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(job, the layer's first calibration input) -> rows and values, as `smoothing.best_alpha` takes them."""


def rewrite_network(
    network: nn.Module,
    jobs: Mapping[str, LayerJob],
    asked: Mapping[str, Rewrites],
    forwards: Sequence[Forward],
    expected: torch.Tensor,
    samples_of: SamplesOf,
) -> dict[str, str]:
    """Rewrite the layers of `asked`, which are among `jobs`. Returns what was done to each, and what could not be.

    Each of `forwards` runs `network` on a calibration input; `expected` is what the first of them gives. Modules are
    exchanged and get new tensors; the tensors that were there stay as they are. Raises `UserError` where the network's
    output changes, because it reads its layers in another way than by calling them.
    """
    balanced = {name for name, wanted in asked.items() if wanted.equalization}
    partners = equalize(network, balanced, forwards[0], expected) if balanced else {}
    jobs = {name: _as_it_is(jobs[name]) for name in asked}
    divisors, alphas = _divisors(network, jobs, asked, forwards, samples_of)
    told = {}
    for name, wanted in asked.items():
        notes = []
        if wanted.equalization:
            notes.append(f"equalized with {partners[name]}" if name in partners else "nothing to equalize it with")
        if wanted.smoothing is not None:
            notes.append(f"smoothed by {alphas[name]:g}" if name in alphas else "not smoothed")
        if wanted.alone:
            layer, done = _rewritten(jobs[name], wanted, divisors.get(name))
            notes += done
            if layer is not None:
                set_module(network, name, layer)
        told[name] = ", ".join(notes)
    _require_the_same(forwards[0], expected)
    return told


def _rewritten(job: LayerJob, wanted: Rewrites, divisor: torch.Tensor | None) -> tuple[Rewritten | None, list[str]]:
    """The layer with what is put before and beside it (None: nothing), and what was done besides smoothing."""
    layout, notes = job.geometry.layout, []
    weight, order, down, up = job.weight, 1, None, None
    if divisor is not None:
        weight = inputs_multiplied(weight, layout, divisor)
    if wanted.rotation is not None:
        order = order_for(layout.inputs, wanted.rotation.order)
        notes.append(f"rotated by {order}" if order > 1 else f"not rotated: {layout.inputs} input channels")
        if order > 1:
            weight = rotated_weight(weight, layout, order)
    if wanted.low_rank is not None:
        reason = _no_branch(layout, wanted.low_rank.rank)
        notes.append(reason or f"rank {wanted.low_rank.rank} in floating point")
        if not reason:
            down, up, weight = largest_components(weight, job.geometry, wanted.low_rank.rank)
    if divisor is None and order == 1 and down is None:
        return None, notes
    job.module.weight = nn.Parameter(weight, requires_grad=False)
    return Rewritten(job.module, divisor=divisor, order=order, down=down, up=up), notes


def _no_branch(layout: Layout, rank: int) -> str:
    """Why a low-rank branch makes no sense here; empty where it does."""
    if layout.groups > 1:
        return "no low-rank branch: a grouped convolution"
    if rank * (layout.rows + layout.columns) * 2 >= layout.rows * layout.columns:
        return "no low-rank branch: it would be half as large as the layer"
    return ""


def _divisors(
    network: nn.Module,
    jobs: Mapping[str, LayerJob],
    asked: Mapping[str, Rewrites],
    forwards: Sequence[Forward],
    samples_of: SamplesOf,
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """By what the channels of each layer that is to be smoothed are divided, and the alpha that gives it."""
    layers = {name: jobs[name] for name, wanted in asked.items() if wanted.smoothing is not None}
    layers = {name: job for name, job in layers.items() if job.geometry.layout.inputs > 1}
    if not layers:
        return {}, {}
    reach: dict[str, torch.Tensor] = {}

    def measure(name: str, inputs: torch.Tensor) -> None:
        axis = inputs.ndim - 1 if jobs[name].geometry.kind == "Linear" else 1
        largest = inputs.float().abs().amax([a for a in range(inputs.ndim) if a != axis])
        reach[name] = largest if name not in reach else torch.maximum(largest, reach[name])

    for forward in forwards:
        _look(network, layers, forward, measure)
    strength = {name: reach_of_inputs(job.weight, job.geometry.layout) for name, job in layers.items()}
    alphas: dict[str, float] = {}

    def search(name: str, inputs: torch.Tensor) -> None:
        if name in alphas or name in unsmoothed:
            return
        best = best_alpha(jobs[name], reach[name], strength[name], *samples_of(jobs[name], inputs))
        unsmoothed.add(name) if best is None else alphas.update({name: best})

    unsmoothed: set[str] = set()
    # A grouped convolution is not searched: it takes SmoothQuant's own alpha.
    searched = {n: j for n, j in layers.items() if asked[n].smoothing.alpha is None and j.geometry.groups == 1}
    alphas |= {n: 0.5 if (a := asked[n].smoothing.alpha) is None else a for n in layers if n not in searched}
    if searched:
        _look(network, searched, forwards[0], search)
    factors = {n: smoothing_factors(reach[n], strength[n], alpha) for n, alpha in alphas.items()}
    return {name: exact_in_half(one).clone() for name, one in factors.items()}, alphas


def _look(
    network: nn.Module,
    layers: Mapping[str, LayerJob],
    forward: Forward,
    at_layer: Callable[[str, torch.Tensor], None],
) -> None:
    """One pass in which `at_layer` gets the input of each call of each layer."""

    def hook(name: str) -> Callable[..., None]:
        def before(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            at_layer(name, args[0] if args else options["input"])

        return before

    hooks = [network.get_submodule(n).register_forward_pre_hook(hook(n), with_kwargs=True) for n in layers]
    try:
        with torch.inference_mode():
            forward()
    finally:
        for one in hooks:
            one.remove()


def _as_it_is(job: LayerJob) -> LayerJob:
    """The job with the weight and bias that its layer has now."""
    module = job.module
    bias = None if module.bias is None else module.bias.detach().float()
    return replace(job, weight=module.weight.detach().float(), bias=bias)


def _require_the_same(forward: Forward, expected: torch.Tensor) -> None:
    with torch.inference_mode():
        change = relative_change(forward(), expected)
    if not change <= TOLERANCE:
        raise UserError(
            f"Rewriting its layers changes the network's output by {change:.1g} of its largest value. Leave the "
            "rewrites out, or name the layers that can be rewritten."
        )

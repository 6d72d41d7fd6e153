"""Smoothing: the reach of a layer's input channels moves into its weights (SmoothQuant, Xiao et al. 2023)."""

from __future__ import annotations

from dataclasses import replace

import torch

from medquant.activation_settings import IntActivations
from medquant.activations import spread_of
from medquant.input_trial import STRENGTHS, InputTrial
from medquant.jobs import LayerJob


def smoothing_factors(reach: torch.Tensor, strength: torch.Tensor, alpha: float = 0.5) -> torch.Tensor:
    """What each input channel is divided by, and the weights that meet it are multiplied by.

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) (SmoothQuant, Eq. 4), from the `reach` of the inputs and the `strength`
    of the weights; 1 where either is nothing.
    """
    used = (reach > 0) & (strength > 0)
    factors = reach.clamp_min(1e-12).pow(alpha) / strength.clamp_min(1e-12).pow(1 - alpha)
    return torch.where(used, factors, 1.0)


def exact_in_half(factors: torch.Tensor) -> torch.Tensor:
    """The factors as half precision holds them, in which they are stored; as they are where it cannot."""
    rounded = factors.half().float()
    limits = torch.finfo(torch.float16)
    fits = (rounded >= limits.tiny) & (rounded <= limits.max)
    return rounded if bool(fits.all()) else factors


def best_alpha(
    job: LayerJob, reach: torch.Tensor, strength: torch.Tensor, rows: torch.Tensor, values: torch.Tensor
) -> float | None:
    """The alpha with which the layer's output errs least, weights and, where they are, inputs rounded; None: without.

    `rows` (positions, channels, kernel size) meet the weights, `values` (positions, channels) tell the range. Inputs
    with a scale for each channel or position count as they are: smoothing moves nothing between scales of their own.
    """
    settings = job.activations
    rounded = settings is not None and spread_of(settings, job.geometry) == "tensor"
    static = replace(settings, mode="static") if rounded else IntActivations()
    trial = InputTrial.of(job, static, rows, values)
    errors: dict[float | None, float] = {}
    for alpha in (None, *STRENGTHS):
        factors = None if alpha is None else smoothing_factors(reach, strength, alpha)
        errors[alpha] = trial.error_divided(factors) if rounded else trial.error(factors, None)
    return min(errors, key=errors.__getitem__)

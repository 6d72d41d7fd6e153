"""MedQuanBench's setting (section 3.1): symmetric integers, the range of each input as it comes, all layers alike."""

from __future__ import annotations

from medquant.activation_settings import IntActivations
from medquant.errors import UserError, one_of
from medquant.granularity import Adaptive, PerChannel, PerTensor, PerToken
from medquant.recipe import CalibrationSettings, IntWeights, Method, Recipe

PLAIN = CalibrationSettings(sequential=False, foreground_share=0.0, centred=False, shrink=False)
"""No more than a solver needs: evenly drawn positions, raw moments, the FP32 network's inputs."""
PUBLISHED = {
    "per-tensor": (PerTensor(), PerTensor()),
    "per-channel/token": (PerToken(), PerChannel()),
    "adaptive": (Adaptive(), PerChannel()),
}
"""MedQuanBench's granularities (section 3.1): that of the inputs and that of the weights."""


def published(bits: int, granularity: str, method: Method = "rtn") -> Recipe:
    """A granularity of `PUBLISHED` as the paper has it, weights and activations of the same bits everywhere.

    Symmetric, with the range of each input; `method` rounds the weights: the paper to the nearest. Raises `UserError`
    for an unknown granularity.
    """
    if granularity not in PUBLISHED:
        raise UserError(f"There is no granularity {granularity!r}. Choose {one_of(PUBLISHED)}.")
    of_inputs, of_weights = PUBLISHED[granularity]
    return Recipe(
        weights=IntWeights(bits, granularity=of_weights, symmetric=True),
        method=method,
        ends_bits=None,
        extra_bits=0.0,
        drop_dead_channels=False,
        calibration=PLAIN,
        activations=IntActivations(
            bits, granularity=of_inputs, symmetric=True, mode="dynamic", equalize=False, dither=False
        ),
    )

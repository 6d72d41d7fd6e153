"""Whether what a runtime or an export computes is what the engine computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from medquant.deploy.program import rounds_inputs

if TYPE_CHECKING:
    from medquant.deploy.runtime import Session

EXACT = 2e-3
"""Bound of the relative difference where both compute in FP32: the order of sums differs, nothing else."""
ONE_LONG_SUM = 0.01
"""The same for ONNX: onnxruntime adds up each channel of an instance norm at one go (.002 of an nnU-Net's output with
patches of 96^3 voxels)."""
ROUNDED = 0.05
"""Bound where inputs are rounded to integers: a sum that differs in its last bit may round to the next integer."""
SHORT = {"bf16": 0.1, "fp16": 0.05}
"""Bounds where floating point itself is shorter: errors of 2^-8 and 2^-11 a number add up over the layers."""


_BY_ONNX = ("onnx", "onnxruntime", "tensorrt")


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Root of the squared difference over the squared expected values; infinite where the shapes differ."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    size = float(np.linalg.norm(expected.astype(np.float64)))
    apart = float(np.linalg.norm(found.astype(np.float64) - expected))
    return apart / size if size else apart


def bound_of_export(module: torch.nn.Module, form: str) -> float:
    """How much an export of a part, in the format `form`, may differ from the engine's network."""
    if rounds_inputs(module):
        return ROUNDED
    return ONE_LONG_SUM if form in _BY_ONNX else EXACT


def bound_of_session(session: Session) -> float:
    """How much a part may differ that a runtime computes, from the network that rounds what the runtime rounds.

    With integers, what is not on integers is in the shortest floating point.
    """
    if session.precision == "int8":
        return max(ROUNDED, *SHORT.values())
    return SHORT.get(session.precision, ONE_LONG_SUM if session.runtime in _BY_ONNX else EXACT)

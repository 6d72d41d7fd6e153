"""Whether what a runtime or an export computes is what the engine computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from medquant.deploy.program import rounds_inputs

if TYPE_CHECKING:
    from medquant.deploy.runtime import Session

EXACT = 0.01
"""Bound of the relative difference where both compute in FP32: the order of sums differs, nothing else. Means and
variances of instance norms differ most: an nnU-Net's output by 0.002 (onnxruntime) and 0.003 (OpenVINO) with patches of
96^3 voxels, by a quarter and less of that with 64^3."""
ROUNDED = 0.05
"""Bound where inputs are rounded to integers: a sum that differs in its last bit may round to the next integer."""
SHORT = {"bf16": 0.1, "fp16": 0.05}
"""Bounds where floating point itself is shorter: errors of 2^-8 and 2^-11 a number add up over the layers."""


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Root of the squared difference over the squared expected values; infinite where the shapes differ."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    size = float(np.linalg.norm(expected.astype(np.float64)))
    apart = float(np.linalg.norm(found.astype(np.float64) - expected))
    return apart / size if size else apart


def bound_of_export(module: torch.nn.Module) -> float:
    """How much an export of a part may differ from the engine's network."""
    return ROUNDED if rounds_inputs(module) else EXACT


def bound_of_session(module: torch.nn.Module, session: Session) -> float:
    """How much a part may differ that a runtime computes: with integers, the rest is in the shortest floating point."""
    short = max(SHORT.values()) if session.precision == "int8" else SHORT.get(session.precision, 0.0)
    return max(bound_of_export(module), short)

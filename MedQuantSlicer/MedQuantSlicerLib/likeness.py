"""What is the same: values that went through JSON, and places that went through a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

CLOSE_MM = 1e-3
"""Of places that went through a file."""


def frozen(value: Any) -> Any:
    """Lists as tuples, at every depth: what was compared before it went through JSON can be compared after it."""
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def same(first: Any, second: Any) -> bool:
    """Whether two nested tuples are the same, places as far as files keep them."""
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float) or isinstance(second, float):
        numbers = isinstance(first, int | float) and isinstance(second, int | float)
        return numbers and math.isclose(first, second, abs_tol=CLOSE_MM)
    return first == second


def turned(matrix: Sequence[Sequence[float]]) -> tuple:
    """Size and directions of the voxels: a matrix (4 x 4) without the place of the first one."""
    return tuple(tuple(row[:3]) for row in matrix[:3])

"""What became of a network that was redesigned, in plain data: it is told where PyTorch is not loaded.

Everything that names such a model says that it is a different one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

SUFFIX = "redesigned"
"""What a redesigned model's name has after the original's."""


@dataclass(frozen=True)
class Exchanged:
    """One convolution that became pointwise."""

    kernel: tuple[int, int, int]
    """It had before."""
    fit_error: float
    """||y' - y|| / ||y|| of its output on the calibration inputs before training: y of the original network, y' fitted,
    in the network exchanged so far."""
    centre_error: float
    """The same with the weight of the kernel's centre, scaled by no fit: what the fit is better than."""


@dataclass(frozen=True)
class RedesignReport:
    """What became of a network, in FP32, before anything was quantized."""

    original: str
    """Name of the model that it was."""
    layers: dict[str, Exchanged]
    steps: int
    inputs: int
    """So many calibration inputs were fitted and trained on."""
    held_out: int
    """So many more measured; 0: there was one input only, which did both."""
    dsc_fitted: float
    """Mean Dice of its FP32 masks against the original's, before training."""
    dsc: float
    """And after."""
    error: float
    """||f'(x) - f(x)|| / ||f(x)|| of the logits, after training."""
    losses: tuple[float, ...]
    """Of each step: divergence from the original's probabilities, mean over the places, in nats."""

    def describe(self) -> str:
        """That it is a different model, and how far from the original, in sentences."""
        kernels = sorted({"x".join(map(str, one.kernel)) for one in self.layers.values()})
        count = f"{len(self.layers)} convolution{'' if len(self.layers) == 1 else 's'} of {' and '.join(kernels)}"
        seen = "on an input it was trained on" if not self.held_out else "on calibration inputs it was not trained on"
        trained = f"all its weights were trained for {self.steps} steps" if self.steps else "nothing else was trained"
        return (
            f"A different model: {count} of {self.original} became 1x1x1 and {trained} to follow {self.original}, "
            f"without labels. In FP32, before quantization, its masks have a Dice of {self.dsc:.3f} against "
            f"{self.original}'s {seen} ({self.dsc_fitted:.3f} before training)."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RedesignReport:
        """The inverse of `to_dict`."""
        layers = {n: Exchanged(**{**one, "kernel": tuple(one["kernel"])}) for n, one in data["layers"].items()}
        return cls(**{**data, "layers": layers, "losses": tuple(data["losses"])})


def is_redesigned(name: str) -> bool:
    """Whether a model's name says that it is a different one."""
    return SUFFIX in name.split(" ")

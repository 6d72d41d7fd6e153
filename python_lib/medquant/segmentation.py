"""What a model gives back: labels on the scan's own grid, with names, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from medquant.imaging.volume import Volume


@dataclass(frozen=True)
class Structure:
    """One labelled structure of a segmentation."""

    label: int
    name: str
    color: tuple[float, float, float] | None = None
    """Red, green, blue in 0..1; None: chosen by `medquant.imaging.terminology`."""


@dataclass(frozen=True)
class Execution:
    """What computed a segmentation; where the parts of a model differ, both with a plus sign between."""

    runtime: str = "pytorch"
    device: str = "CPU"
    precision: str = "fp32"
    """What the arithmetic was done in: "fp32", "bf16", "fp16", "int8"."""
    simulated: bool | None = None
    """True: quantized numbers, floating-point arithmetic. False: most layers on integers. None: not quantized."""
    reason: str = ""
    """Why it ran there, where the program chose."""
    layers: int | None = None
    """How many layers the compiled network has, and below how many of them run in floating point; None: not known."""
    floating_layers: int | None = None
    floating_products: int = 0
    """How many products of attention, rounded by the recipe, run in floating point for all that is known."""

    def describe(self) -> str:
        """In words: "openvino int8 on CPU, 3 of 96 layers in floating point"."""
        kernels = {None: "", True: ", simulated", False: ", integer kernels"}[self.simulated]
        if self.simulated is False and self.floating_layers:
            kernels = f", {self.floating_layers} of {self.layers} layers in floating point"
        if self.simulated is False and self.floating_products:
            kernels += f", {self.floating_products} products of attention in floating point"
        return f"{self.runtime} {self.precision} on {self.device}{kernels}"


@dataclass(frozen=True)
class Fallback:
    """How a scan was computed otherwise than asked for."""

    reason: str
    """What was done, and why, in a sentence."""
    by_pytorch: bool = True
    """Whether PyTorch took over from the runtime."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A label map of shape (k, j, i) on the grid of `volume`, 0 for background.

    `seconds` counts from the scan in memory to the labels in memory; `stages` splits it by name (preprocess, network,
    resample ...), and stages that run at the same time count in full each. `peak_memory_mb` is the largest resident
    memory of the process during the call.
    """

    labels: np.ndarray
    volume: Volume
    structures: tuple[Structure, ...]
    model_name: str = ""
    seconds: float | None = None
    peak_memory_mb: float | None = None
    stages: dict[str, float] = field(default_factory=dict)
    execution: Execution | None = None
    """None where the labels were not computed but read."""
    fallback: Fallback | None = None
    """None: computed as asked for."""

    def __post_init__(self) -> None:
        if self.labels.shape != self.volume.shape:
            raise ValueError(f"labels {self.labels.shape} do not lie on the volume's grid {self.volume.shape}")

    def mask(self, structure: Structure | int) -> np.ndarray:
        """Boolean mask (k, j, i) of one structure."""
        return self.labels == (structure if isinstance(structure, int) else structure.label)

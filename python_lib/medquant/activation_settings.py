"""What to do with the inputs of the layers: plain data, part of a recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from medquant.errors import UserError
from medquant.granularity import (
    ActivationGranularity,
    Adaptive,
    PerChannel,
    PerTensor,
    PerToken,
    PerVoxel,
    granularity_name,
    granularity_of_kind,
)

Observer = Literal["min-max", "percentile", "mse", "entropy", "output"]
OBSERVERS: tuple[Observer, ...] = ("min-max", "percentile", "mse", "entropy", "output")
Mode = Literal["static", "dynamic"]


@dataclass(frozen=True)
class IntActivations:
    """The integer grid of a layer's inputs.

    `mode` "static": the range is found on the calibration inputs by `observer` ("output": with the least error of the
    layer's output; the others look at the input alone); "dynamic": on each input as it comes.
    `equalize` divides each channel by a factor before it is quantized and multiplies the weights that meet it by the
    same: channels get ranges alike, and one scale for all of them does the work of many, in an ordinary integer kernel.
    `dither` moves the grid by a part of a step from voxel to voxel where a convolution sums over its kernel
    (`medquant.dither`): the errors of even tissue cancel; None: up to 6 bits, where that is worth the pass over the
    input that it costs. `attention`: the products of SAM's image attention (queries by keys, probabilities by values)
    have integer factors too; attention of other networks stays in floating point.
    """

    bits: int = 8
    granularity: ActivationGranularity = field(default_factory=PerTensor)
    mode: Mode = "static"
    symmetric: bool = False
    observer: Observer = "output"
    equalize: bool = True
    dither: bool | None = None
    attention: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 2 <= self.bits <= 8:
            raise UserError(f"Activations can have 2 to 8 bits, not {self.bits}. Choose 8, or 4.")
        if self.mode not in ("static", "dynamic"):
            raise UserError(f"Unknown mode {self.mode!r} of activations. Choose static or dynamic.")
        if self.observer not in OBSERVERS:
            raise UserError(f"Unknown observer {self.observer!r}. Choose one of {', '.join(OBSERVERS)}.")
        if not isinstance(self.granularity, PerTensor | PerChannel | PerToken | PerVoxel | Adaptive):
            name = granularity_name(self.granularity)
            raise UserError(f"Activations cannot have the granularity {name}. Choose per-tensor.")
        if self.mode == "static" and isinstance(self.granularity, PerToken | PerVoxel):
            name = granularity_name(self.granularity)
            raise UserError(f"Scales {name} belong to one input and cannot be static. Choose the mode dynamic.")

    @property
    def dithered(self) -> bool:
        """Whether inputs are dithered."""
        return self.bits <= 6 if self.dither is None else self.dither

    def describe(self) -> str:
        """In a few words, for tables."""
        parts = [f"A{self.bits}", granularity_name(self.granularity), self.mode]
        parts.append("symmetric" if self.symmetric else "asymmetric")
        if self.mode == "static":
            parts.append(self.observer)
        parts += [name for name, used in (("equalized", self.equalize), ("dithered", self.dithered)) if used]
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "granularity": granularity_name(self.granularity)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> IntActivations:
        """The inverse of `to_dict`."""
        data = dict(data)
        if "granularity" in data:
            data["granularity"] = granularity_of_kind(data["granularity"])
        return cls(**data)

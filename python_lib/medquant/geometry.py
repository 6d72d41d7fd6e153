"""What a layer computes apart from its numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from medquant.matrices import CONVOLUTIONS, TRANSPOSED, Layout, padding_sides


@dataclass(frozen=True)
class LayerGeometry:
    """Kind, shape and settings of a layer: plain data, stored with the codes."""

    kind: str
    """Class name in torch.nn: "Linear", "Conv3d", "ConvTranspose2d" ..."""
    weight_shape: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    output_padding: tuple[int, ...] = ()
    padding_mode: str = "zeros"

    @classmethod
    def of(cls, module: nn.Module) -> LayerGeometry:
        """Read the geometry of a torch layer."""
        kind = next(k.__name__ for k in (nn.Linear, *CONVOLUTIONS, *TRANSPOSED) if isinstance(module, k))
        shape = tuple(module.weight.shape)
        if kind == "Linear":
            return cls(kind, shape)
        return cls(
            kind,
            shape,
            module.stride,
            module.padding,
            module.dilation,
            module.groups,
            module.output_padding,
            module.padding_mode,
        )

    @property
    def layout(self) -> Layout:
        """How the weight stands as matrices."""
        return Layout(self.weight_shape, self.groups, self.kind.startswith("ConvTranspose"))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LayerGeometry:
        """The inverse of `to_dict`."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})

    def apply(
        self,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        output_size: Any = None,
        *,
        multiply: Callable[..., torch.Tensor] = functional.linear,
    ) -> torch.Tensor:
        """The layer's forward pass with the given numbers; `multiply` does the work of a linear layer."""
        if self.kind == "Linear":
            return multiply(inputs, weight, bias)
        dims = int(self.kind[-2])
        if self.kind.startswith("ConvTranspose"):
            operation = getattr(functional, f"conv_transpose{dims}d")
            extra = self.output_padding if output_size is None else self._padding_to(inputs, output_size)
            return operation(inputs, weight, bias, self.stride, self.padding, extra, self.groups, self.dilation)
        operation = getattr(functional, f"conv{dims}d")
        padding = self.padding
        if self.padding_mode != "zeros":
            pairs = padding_sides(padding, self.weight_shape[2:], self.dilation)
            sides = [side for pair in reversed(pairs) for side in pair]
            inputs, padding = functional.pad(inputs, sides, mode=self.padding_mode), 0
        return operation(inputs, weight, bias, self.stride, padding, self.dilation, self.groups)

    def _padding_to(self, inputs: torch.Tensor, output_size: Any) -> tuple[int, ...]:
        """The output padding with which a transposed convolution gives `output_size`."""
        kernel = self.weight_shape[2:]
        dims = len(kernel)
        axes = zip(inputs.shape[-dims:], self.stride, self.padding, self.dilation, kernel)
        least = [(size - 1) * s - 2 * p + d * (k - 1) + 1 for size, s, p, d, k in axes]
        return tuple(wanted - size for wanted, size in zip(tuple(output_size)[-dims:], least))

"""Inputs of layers that are a part of another layer's: skip connections.

What a U-Net makes at one resolution is read twice: by the next layer, and, joined with what comes up from below, by a
layer of the decoder. Rounded on the same grid both times it need be rounded only once, where it is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from medquant.input_grid import InputGrid

PLACES = 64
"""Places of an input by which it is known again."""


@dataclass
class SeenInputs:
    """The inputs of the convolutions so far, on one calibration input."""

    _seen: list[tuple[torch.Size, torch.Tensor, InputGrid]] = field(default_factory=list)

    def add(self, inputs: torch.Tensor, grid: InputGrid) -> None:
        """Remember an input (batch, channels, *spatial) and its grid."""
        self._seen.append((inputs.shape[2:], _places(inputs), grid))

    def part_of(self, inputs: torch.Tensor) -> tuple[slice, InputGrid] | None:
        """The channels that are, to the bit, a remembered input, and its grid: the largest of them."""
        places = _places(inputs)
        for spatial, part, grid in sorted(self._seen, key=lambda seen: -len(seen[1])):
            if spatial != inputs.shape[2:]:
                continue
            for start in range(len(places) - len(part) + 1):
                if torch.equal(places[start : start + len(part)], part):
                    return slice(start, start + len(part)), grid
        return None


def _places(inputs: torch.Tensor) -> torch.Tensor:
    size = inputs.shape[2:]
    places = torch.arange(PLACES) * (size.numel() - 1) // (PLACES - 1)
    return inputs[0][(slice(None), *torch.unravel_index(places, size))].clone()

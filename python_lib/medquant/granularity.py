"""How many numbers share a scale, of weights and of activations."""

from __future__ import annotations

from dataclasses import dataclass

from medquant.errors import UserError


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole weight, or for the whole input of a layer."""


@dataclass(frozen=True)
class PerChannel:
    """One scale for each output channel of a weight, or for each channel of an input."""


@dataclass(frozen=True)
class PerGroup:
    """Weights: one scale for each run of `size` consecutive inputs of an output channel."""

    size: int = 64


@dataclass(frozen=True)
class PerToken:
    """Activations: linear layers have a scale for each token, convolutions one for each channel."""


@dataclass(frozen=True)
class PerVoxel:
    """Activations: one scale for each position, whatever the layer."""


@dataclass(frozen=True)
class Adaptive:
    """Activations: adaptive stratification (MedQuanBench, section 3.1).

    Convolutions of kernel size one have a scale for each voxel, linear layers one for each token, all others, the
    depth-wise included, one for each channel.
    """


WeightGranularity = PerTensor | PerChannel | PerGroup
ActivationGranularity = PerTensor | PerChannel | PerToken | PerVoxel | Adaptive

_BY_NAME = {
    "per-tensor": PerTensor,
    "per-channel": PerChannel,
    "per-group": PerGroup,
    "per-token": PerToken,
    "per-voxel": PerVoxel,
    "adaptive": Adaptive,
}
FOR_WEIGHTS = ("per-tensor", "per-channel", "per-group")
FOR_ACTIVATIONS = ("per-tensor", "per-channel", "per-token", "per-voxel", "adaptive")


def granularity_name(granularity: WeightGranularity | ActivationGranularity) -> str:
    """The kind alone: "per-tensor", "per-group", "adaptive" ..."""
    return next(name for name, kind in _BY_NAME.items() if isinstance(granularity, kind))


def granularity_of_kind(kind: str, **settings: int) -> WeightGranularity | ActivationGranularity:
    """The inverse of `granularity_name`, with the settings of the kind."""
    return _BY_NAME[kind](**settings)


def granularity_from_name(text: str) -> WeightGranularity:
    """Read "per-tensor", "per-channel", "per-group" or "per-group-64"."""
    name, _, size = text.partition("per-group-")
    if not name and size.isdigit():
        return PerGroup(int(size))
    if text not in FOR_WEIGHTS:
        raise UserError(f"Unknown granularity {text!r}. Choose per-tensor, per-channel or per-group-64.")
    return _BY_NAME[text]()


def activation_granularity_from_name(text: str) -> ActivationGranularity:
    """Read "per-tensor", "per-channel", "per-token", "per-voxel" or "adaptive"."""
    if text not in FOR_ACTIVATIONS:
        raise UserError(f"Unknown granularity of activations {text!r}. Choose one of {', '.join(FOR_ACTIVATIONS)}.")
    return _BY_NAME[text]()

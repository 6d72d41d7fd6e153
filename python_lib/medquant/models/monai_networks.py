"""MONAI's networks by name and state dict, with the usual preprocessing around them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from medquant.errors import UserError
from medquant.files import sha256_of_file
from medquant.models.catalogue import MONAI_NETWORKS
from medquant.models.patchwise import PatchwiseModel, plain, window_spec
from medquant.models.volume_preprocessing import VolumePreprocessing
from medquant.models.weight_files import fill, read_state_dict

__all__ = ["MonaiModel", "VolumePreprocessing", "build_network"]

# The cross-attention that a transformer block holds for other uses.
_NEVER_RUN = ("*.cross_attn.*",)


class MonaiModel(PatchwiseModel):
    """A network of `monai.networks.nets` with a sliding window."""

    family = "monai"

    @classmethod
    def _untrained(cls, spec: dict[str, Any]) -> nn.Module:
        return build_network(spec["network"], spec["arguments"])

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        network: str,
        arguments: dict[str, Any] | None = None,
        roi_size: tuple[int, int, int] = (96, 96, 96),
        overlap: float = 0.5,
        preprocessing: VolumePreprocessing | dict[str, Any] | None = None,
        labels: dict[str, int] | None = None,
        name: str | None = None,
        modality: str = "",
        licence: str = "",
    ) -> MonaiModel:
        """Load a state dict (`.pt`, `.pth`, `.safetensors`) into `network`, made with `arguments`.

        `roi_size`: the patch, in the network's axis order. `labels`: names and their numbers. Raises `UserError` for
        an unknown network, arguments it does not take, weights that do not fit, and networks of other than one input
        channel.
        """
        source = Path(source).expanduser()
        built = build_network(network, arguments or {})
        fill(built, read_state_dict(source), source=source.name, what=f"MONAI's {network} with these arguments")
        spec = {
            "family": cls.family,
            "name": name or f"{network} {source.stem}",
            "network": network,
            "arguments": plain(arguments or {}),
            **window_spec(roi_size, overlap, preprocessing, labels),
            "modality": modality,
            "licence": licence,
            "weights_hash": sha256_of_file(source),
            "weights_bytes": source.stat().st_size,
        }
        return cls._around(built, spec)

    def default_ignore(self) -> tuple[str, ...]:
        """Layers that these networks hold but never run at inference, so that no input of theirs is ever seen."""
        return _NEVER_RUN


def build_network(name: str, arguments: dict[str, Any]) -> nn.Module:
    """An untrained network of `monai.networks.nets`. Raises `UserError` when it cannot be built as asked."""
    import monai.networks.nets as nets

    known = {network.lower(): network for network in MONAI_NETWORKS}
    if name.lower() not in known:
        raise UserError(f"MONAI's {name or 'network'} is not known here. Choose one of {', '.join(MONAI_NETWORKS)}.")
    kind = getattr(nets, known[name.lower()])
    accepted = inspect.signature(kind).parameters
    foreign = [key for key in arguments if key not in accepted]
    if foreign:
        raise UserError(f"MONAI's {name} takes no {', '.join(foreign)}. It takes {', '.join(accepted)}.")
    channels = arguments.get("in_channels", 1)
    if channels != 1:
        raise UserError(f"This {name} takes {channels} channels, a scan here is one. Choose a network of one channel.")
    try:
        return kind(**_with_defaults(arguments, accepted))
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(
            f"MONAI's {name} cannot be built ({error}). Give the arguments that it was trained with."
        ) from error


def _with_defaults(arguments: dict[str, Any], accepted: Any) -> dict[str, Any]:
    """Three dimensions and one input channel go without saying."""
    obvious = {"spatial_dims": 3, "in_channels": 1}
    filled = {k: v for k, v in obvious.items() if k in accepted and k not in arguments} | arguments
    return {key: _tuples(value) for key, value in filled.items()}


def _tuples(value: Any) -> Any:
    """Lists as tuples: MONAI takes a pair such as ("group", {"num_groups": 8}) as a tuple only."""
    return tuple(_tuples(entry) for entry in value) if isinstance(value, (list, tuple)) else value

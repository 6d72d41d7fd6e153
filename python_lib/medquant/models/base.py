"""What every model family gives to the engine."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.places import places_of_rows
from medquant.progress import Progress
from medquant.prompts import BoxPrompt
from medquant.segmentation import Segmentation, Structure

if TYPE_CHECKING:
    from medquant.deploy.runtime import Session


@dataclass(frozen=True)
class CalibrationBatch:
    """One input of the network, as the network receives it at inference.

    `inputs` are the positional arguments of `Model.forward_for_calibration`. `focus` marks, where it is known
    before the network has run, what matters in the input: float tensor (batch, *spatial) in 0..1 that can be
    resized to any layer's grid; None: taken from the FP32 network's own foreground.
    """

    inputs: tuple[Any, ...]
    focus: torch.Tensor | None = None


@dataclass(frozen=True)
class CalibrationSelection:
    """Which parts of the open volume calibrate the model.

    `count` slices (2-D models) or patches (3-D models), chosen `"body"` (where the body is, evenly), `"even"`
    (evenly over all), or `"range"` (evenly within `first`..`last` along the slice axis, both inclusive).
    """

    count: int = 8
    where: str = "body"
    first: int | None = None
    last: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Part:
    """A piece of a model that a runtime executes as a whole."""

    module: nn.Module
    """Takes positional tensors, gives one tensor or a tuple of them; nothing in it branches on the data."""
    inputs: dict[str, torch.Tensor]
    """Example inputs by name, of the shapes that segmentation uses; empty where these are not known."""
    outputs: tuple[str, ...]
    dynamic: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Axes of an input that may vary, such as the number of boxes; all others are fixed."""


def device_of(network: nn.Module) -> torch.device:
    """Where a network's tensors live (a quantized one may hold buffers only); the CPU for one without any."""
    held = next(chain(network.parameters(), network.buffers()), None)
    return torch.device("cpu") if held is None else held.device


def described(spec: dict[str, Any], name: str = "") -> dict[str, Any]:
    """What an adapter's description says of every model, as `Model` takes it; `name` where it has none."""
    return {
        "name": str(spec.get("name", name)),
        "spec": spec,
        "weights_hash": spec.get("weights_hash", ""),
        "licence": spec.get("licence", ""),
    }


def refuse_boxes(name: str, prompt: BoxPrompt | None) -> None:
    """Raise `UserError` where a box was given to a model that finds the structures by itself."""
    if prompt is not None and prompt.boxes:
        raise UserError(f"{name} finds the structures by itself and takes no box. Leave the boxes out.")


class Model(ABC):
    """A segmentation model: preprocessing, network, postprocessing.

    The FP32 and the quantized model are the same adapter around another `network`, so both share everything but
    the weights. Adapters hold no other state that depends on weights.
    """

    family: str
    """Name of the adapter, as in `medquant models`: "medsam", "medsam2", "nnunet", "monai", "published", "torch"."""
    takes_boxes = False
    """Whether a person tells it by a box what to segment."""
    calibration_only: tuple[str, ...] = ()
    """Name patterns (fnmatch) of layers that `forward_for_calibration` runs and `segment` does not."""

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        spec: dict[str, Any],
        weights_hash: str,
        structures: tuple[Structure, ...] = (),
        modality: str = "",
        licence: str = "",
    ) -> None:
        self.network = network.eval()
        self.sessions: dict[str, Session] = {}
        """Parts that a runtime executes; the others are run by PyTorch. Filled by `medquant.deploy.accelerate`."""
        self._modules: dict[str, nn.Module] = {}
        self.why = ""
        """Why its parts run where they run, in a sentence; empty where nobody chose."""
        self.name = name
        self.spec = spec
        """JSON-able: everything `from_spec` needs to build this adapter with an untrained network."""
        self.weights_hash = weights_hash
        """SHA-256 of the weight file(s) that the FP32 model was loaded from."""
        self.structures = structures
        self.modality = modality
        self.licence = licence

    @property
    def weights_bytes(self) -> int | None:
        """Size on disk of the weight file(s) that the FP32 model was loaded from; None where it came from no file."""
        return self.spec.get("weights_bytes")

    @property
    def identity(self) -> dict[str, Any]:
        """JSON-able: all that its numbers depend on, the weights and the options that it was loaded with.

        Neither its name nor where its files lie: what was computed once is found again by this.
        """
        told = {key: value for key, value in self.spec.items() if key not in ("name", "licence", "weights_bytes")}
        return told | {"family": self.family, "weights_hash": self.weights_hash}

    @classmethod
    @abstractmethod
    def from_spec(cls, spec: dict[str, Any]) -> Model:
        """Build the adapter with an untrained network, to be filled by an artifact's tensors."""

    @classmethod
    @abstractmethod
    def load(cls, source: str | Path, **options: Any) -> Model:
        """Load trained FP32 weights. Raises `UserError` with what is missing or wrong."""

    @abstractmethod
    def calibration_batches(
        self, volume: Volume, selection: CalibrationSelection, progress: Progress | None = None
    ) -> Iterator[CalibrationBatch]:
        """Inputs of the network cut from `volume`, preprocessed exactly as for segmentation."""

    def labelled_batches(
        self, reference: Segmentation, selection: CalibrationSelection, progress: Progress | None = None
    ) -> Iterator[tuple[CalibrationBatch, torch.Tensor]]:
        """Inputs cut from the reference's scan, each with what the reference has there: labels (batch, *spatial), or
        masks (batch, boxes, *spatial) of a model that is told by boxes. Raises `UserError` where there is no way."""
        raise UserError(f"The inputs of {self.name} have no place in a scan, so no reference either. Leave it out.")

    def forward_for_calibration(self, network: nn.Module, *inputs: Any) -> torch.Tensor:
        """Run every layer that is to be quantized once; returns logits (batch, classes, *spatial)."""
        return network(*inputs)

    def exclusive(self, logits: torch.Tensor) -> bool:
        """Whether one of the classes holds at each place, the first of them background; else each channel decides."""
        return logits.shape[1] > 1

    def foreground(self, logits: torch.Tensor) -> torch.Tensor:
        """Where the output of `forward_for_calibration` sees a structure: bool (batch, *spatial)."""
        return logits.argmax(1) > 0 if self.exclusive(logits) else (logits > 0).any(1)

    def row_focus(
        self, layer: str, module: nn.Module, grid: tuple[int, ...], focus: torch.Tensor | None
    ) -> torch.Tensor | None:
        """How the focus map falls on the rows of one layer's input.

        `grid` is the layer's `medquant.matrices.spatial_grid`, `focus` (batch, *spatial) that of the network's
        input. Returns (rows,): above .5 foreground, 0 to .5 background, negative for padding that must not count;
        None where rows have no place in the image.
        """
        from medquant.gram import focus_on_grid

        return focus_on_grid(module, grid, focus)

    def places(self, network: nn.Module, *inputs: Any) -> dict[str, torch.Tensor]:
        """Where the rows of each layer's input lie: (spatial axes, rows) in voxels of the first of the inputs, NaN for
        padding; without layers whose rows stand for no place. `network` is on the processor."""
        return places_of_rows(network, self.forward_for_calibration, inputs)

    def default_ignore(self) -> tuple[str, ...]:
        """Name patterns (fnmatch) of layers that stay in floating point whatever the recipe, each with cause."""
        return ()

    def require_prompt(self, prompt: BoxPrompt | None, volume: Volume) -> None:
        """Raise `UserError` for a prompt that this model cannot work with on `volume`, before anything long begins."""
        refuse_boxes(self.name, prompt)

    @abstractmethod
    def segment(
        self, volume: Volume, prompt: BoxPrompt | None = None, progress: Progress | None = None
    ) -> Segmentation:
        """Labels on the volume's own grid."""

    def parts(self) -> dict[str, Part]:
        """The pieces of the network that `segment` computes with, by name: what a runtime compiles or a file holds."""
        return {"network": Part(self.network, {}, ("logits",))}

    def compute(self, part: str, *inputs: torch.Tensor) -> torch.Tensor:
        """One pass through a part: by its session where there is one, else by PyTorch."""
        if part in self.sessions:
            return self.sessions[part](*inputs)
        if not self._modules:
            self._modules = {name: piece.module for name, piece in self.parts().items()}
        return self._modules[part](*inputs)

    def with_network(self, network: nn.Module) -> Model:
        """The same adapter around another network (the quantized one), run by PyTorch."""
        twin = copy.copy(self)
        twin.network, twin.sessions, twin._modules, twin.why = network.eval(), {}, {}, ""
        twin.forget()
        return twin

    def forget(self) -> None:  # noqa: B027 - most adapters keep nothing
        """Drop what is cached from earlier volumes (image embeddings)."""

"""MedSAM2 as a model of single pictures: a box on every slice, no memory from one slice to the next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Sam2Config, Sam2Model

from medquant.errors import UserError
from medquant.files import sha256_of_file
from medquant.models.base import Model, Part, described, device_of
from medquant.models.prompt_images import SAM, SlicePreprocessing
from medquant.models.sam import SamModelAdapter
from medquant.models.sam2_parts import sam2_parts
from medquant.models.sam2_weights import from_sam2, infer_config
from medquant.models.weight_files import fill, read_state_dict

MEDSAM2 = replace(SAM, image_size=512, fit="stretch", resize="pil-cubic", cut_logits=True)
"""The authors' inference for CT: grey levels of a window, 512 x 512 whatever the aspect, SAM's mean and deviation."""


class Sam2ModelAdapter(SamModelAdapter):
    """A `transformers.Sam2Model` prompted with boxes, slice by slice as `SamModelAdapter` does it.

    The authors prompt one slice and follow the structure through the others; here every slice has its box, as in
    MedSAM, and the weights that follow are not loaded.
    """

    family = "medsam2"

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Sam2ModelAdapter:
        """Build the adapter around an untrained network of `spec["config"]` (the dictionary of a `Sam2Config`)."""
        try:
            with torch.device("meta"):
                network = Sam2Model(Sam2Config(**spec["config"]))
            preprocessing = SlicePreprocessing.from_dict(spec["preprocessing"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"The description of this MedSAM2 cannot be used ({error}). Get the file again.") from error
        return cls(network.to_empty(device="cpu"), preprocessing=preprocessing, **described(spec, "MedSAM2"))

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        name: str | None = None,
        image_size: int = 512,
        window_level: float | None = None,
        window_width: float | None = None,
        licence: str = "",
    ) -> Sam2ModelAdapter:
        """Load a weight file with the authors' names (MedSAM2_latest.pt and the others, or SAM 2.1's own).

        `image_size`: the side of the network's input, 512 for MedSAM2 and 1024 for SAM 2. `window_level` and
        `window_width` (HU) replace those of the CT window.
        """
        source = Path(source).expanduser()
        state = read_state_dict(source)
        if image_size < 32 or image_size % 32:
            raise UserError(f"The side {image_size} is no multiple of 32. MedSAM2 takes 512.")
        config = infer_config(state, image_size=image_size, source=source.name)
        window = {"window_level": window_level, "window_width": window_width}
        settings = replace(MEDSAM2, image_size=image_size, **{k: float(v) for k, v in window.items() if v is not None})
        with torch.device("meta"):
            network = Sam2Model(config)
        fill(network, from_sam2(state), source=source.name, what="a SAM 2 of these sizes")
        spec = {
            "family": cls.family,
            "name": name or source.stem,
            "config": _plain_config(config),
            "preprocessing": settings.to_dict(),
            "weights_hash": sha256_of_file(source),
            "weights_bytes": source.stat().st_size,
            "licence": licence,
        }
        return cls(network, preprocessing=settings, **described(spec))

    def forward_for_calibration(self, network: nn.Module, *inputs: Any) -> torch.Tensor:
        """Mask logits (1, boxes, h, w) of one picture. Every convolution and linear layer is called."""
        pixels, boxes = (tensor.to(device_of(network)) for tensor in inputs)
        masks = network(pixel_values=pixels, input_boxes=boxes, multimask_output=False).pred_masks[:, :, 0]
        # A box prompt skips the mask prompt's layers; SAM feeds them its own previous logits.
        network.prompt_encoder.mask_embed(masks[0][:, None])
        return masks

    def row_focus(
        self, layer: str, module: nn.Module, grid: tuple[int, ...], focus: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Rows in windows have no place here: their order changes from stage to stage."""
        return Model.row_focus(self, layer, module, grid, focus)

    def parts(self) -> dict[str, Part]:
        """ "image_encoder" (pixels -> embedding) and "mask_decoder" (embedding, any number of boxes -> logits)."""
        return sam2_parts(self.network)


def _plain_config(config: Sam2Config) -> dict[str, Any]:
    """What shapes the network, as plain data."""
    data = config.to_dict()
    parts = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    kept = {name: {k: v for k, v in data[name].items() if not _is_bookkeeping(k)} for name in parts}
    backbone = kept["vision_config"]["backbone_config"]
    kept["vision_config"]["backbone_config"] = {
        k: v for k, v in backbone.items() if not _is_bookkeeping(k) or k == "model_type"
    }
    return kept


def _is_bookkeeping(name: str) -> bool:
    return name.startswith("_") or name in (
        "transformers_version", "architectures", "output_hidden_states", "return_dict", "dtype", "id2label", "label2id",
        "chunk_size_feed_forward", "is_encoder_decoder", "problem_type", "output_attentions", "model_type",
    )  # fmt: skip

"""The two pieces of a SAM that a runtime executes: the image encoder, and the mask decoder with its prompt."""

from __future__ import annotations

import torch
from torch import nn
from transformers import SamModel

from medquant.models.base import Part, device_of


class ImageEncoder(nn.Module):
    """Pixels (1, 3, size, size) -> embedding (1, channels, side, side)."""

    def __init__(self, network: SamModel) -> None:
        super().__init__()
        self.encoder = network.vision_encoder

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encoder(pixels).last_hidden_state


class MaskDecoder(nn.Module):
    """Embedding (1, channels, side, side) and boxes (1, n, 4) in pixels of the input -> logits (n, 4 side, 4 side).

    What `SamModel` does with boxes and `multimask_output=False`, any number of boxes, without writing in place. The
    boxes are the batch, so that integers whose range is that of each input do not mix them.
    """

    def __init__(self, network: SamModel) -> None:
        super().__init__()
        self.prompts, self.decoder = network.prompt_encoder, network.mask_decoder
        with torch.inference_mode(False), torch.no_grad():
            places = network.get_image_wide_positional_embeddings().clone()
        self.register_buffer("places", places, persistent=False)

    def forward(self, embedding: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        prompts = self.prompts
        # A box is its two corners, each moved to the centre of its pixel, in parts of the picture.
        corners = (boxes + 0.5).reshape(-1, 1, 2, 2) / prompts.input_image_size
        kinds = torch.cat([prompts.point_embed[2].weight, prompts.point_embed[3].weight])
        no_mask = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        masks, _quality = self.decoder(
            image_embeddings=embedding.expand(corners.shape[0], -1, -1, -1),
            image_positional_embeddings=self.places.expand(corners.shape[0], -1, -1, -1),
            sparse_prompt_embeddings=prompts.shared_embedding(corners) + kinds,
            dense_prompt_embeddings=no_mask.expand(-1, -1, *embedding.shape[-2:]),
            multimask_output=False,
        )
        return masks[:, 0, 0]


def sam_parts(network: SamModel) -> dict[str, Part]:
    """ "image_encoder" and "mask_decoder", with inputs drawn at random from what pictures and boxes are like."""
    vision = network.config.vision_config
    size, side = vision.image_size, vision.image_size // vision.patch_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, size, size, generator=generator)
    embedding = torch.randn(1, vision.output_channels, side, side, generator=generator) * 0.1
    return encoder_and_decoder(ImageEncoder(network), MaskDecoder(network), pixels, embedding, device_of(network))


def encoder_and_decoder(
    encoder: nn.Module, decoder: nn.Module, pixels: torch.Tensor, embedding: torch.Tensor, device: torch.device
) -> dict[str, Part]:
    """Both pieces with what they are tried on: pixels (1, 3, size, size), an embedding, and two boxes."""
    boxes = torch.tensor([[[0.2, 0.3, 0.6, 0.7], [0.5, 0.4, 0.8, 0.6]]]) * pixels.shape[-1]
    return {
        "image_encoder": Part(encoder.eval(), {"pixels": pixels.to(device)}, ("embedding",)),
        "mask_decoder": Part(
            decoder.eval(),
            {"embedding": embedding.to(device), "boxes": boxes.to(device)},
            ("logits",),
            {"boxes": (1,)},
        ),
    }

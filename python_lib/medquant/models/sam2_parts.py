"""The two pieces of a SAM 2 that a runtime executes for one picture: the encoder, and the decoder with its boxes."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import Sam2Model

from medquant.models.base import Part, device_of
from medquant.models.sam_parts import encoder_and_decoder


def feature_shapes(network: Sam2Model) -> list[tuple[int, int, int]]:
    """Channels, rows and columns of the three feature maps, the finest first."""
    sides, width = network.config.vision_config.backbone_feature_sizes, network.hidden_dim
    return [(channels, *side) for channels, side in zip((width // 8, width // 4, width), sides)]


class ImageEncoder(nn.Module):
    """Pixels (1, 3, size, size) -> the three feature maps end to end (1, numbers)."""

    def __init__(self, network: Sam2Model) -> None:
        super().__init__()
        self.encoder = network.vision_encoder
        self.fine, self.middle = network.mask_decoder.conv_s0, network.mask_decoder.conv_s1
        self.no_memory = network.no_memory_embedding

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        fine, middle, coarse = self.encoder(pixels).fpn_hidden_states
        maps = (self.fine(fine), self.middle(middle), coarse + self.no_memory.reshape(1, -1, 1, 1))
        return torch.cat([one.flatten(1) for one in maps], dim=1)


class MaskDecoder(nn.Module):
    """Feature maps end to end (1, numbers) and boxes (1, n, 4) in pixels of the input -> logits (n, rows, columns).

    What `Sam2Model` does with boxes and `multimask_output=False`: one mask, and the best of three where that one is not
    stable. The boxes are the batch, so that integers whose range is that of each input do not mix them.
    """

    def __init__(self, network: Sam2Model) -> None:
        super().__init__()
        self.prompts, self.decoder = network.prompt_encoder, network.mask_decoder
        self.shapes = feature_shapes(network)
        with torch.inference_mode(False), torch.no_grad():
            places = network.get_image_wide_positional_embeddings().clone()
        self.register_buffer("places", places, persistent=False)

    def forward(self, features: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        prompts = self.prompts
        pieces = features.split([math.prod(shape) for shape in self.shapes], dim=1)
        corners = (boxes + 0.5).reshape(-1, 1, 2, 2)
        count = corners.shape[0]
        fine, middle, coarse = (p.reshape(1, *s).expand(count, -1, -1, -1) for p, s in zip(pieces, self.shapes))
        size = (prompts.input_image_size, prompts.input_image_size)
        placed = prompts.shared_embedding(corners, size) + prompts.point_embed.weight[2:4]
        padding = prompts.not_a_point_embed.weight.expand(count, 1, 1, -1)  # as the authors' code has it
        dense = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(-1, -1, *coarse.shape[-2:])
        masks, *_ = self.decoder(
            image_embeddings=coarse,
            image_positional_embeddings=self.places.expand(count, -1, -1, -1),
            sparse_prompt_embeddings=torch.cat((placed, padding), dim=2),
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=[fine, middle],
        )
        return masks[:, 0, 0]


def sam2_parts(network: Sam2Model) -> dict[str, Part]:
    """ "image_encoder" and "mask_decoder", with inputs drawn at random from what pictures and boxes are like."""
    size = network.prompt_encoder.input_image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, size, size, generator=generator)
    numbers = sum(math.prod(shape) for shape in feature_shapes(network))
    embedding = torch.randn(1, numbers, generator=generator) * 0.1
    return encoder_and_decoder(ImageEncoder(network), MaskDecoder(network), pixels, embedding, device_of(network))

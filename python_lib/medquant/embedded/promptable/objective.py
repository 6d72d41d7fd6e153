"""The network as training runs it, its loss and its optimisers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamModel

from medquant.embedded.promptable.configuration import IMAGE_SIZE, PREPROCESSOR
from medquant.embedded.promptable.pool import Batch

#: Parameters of prompts that box training never gives: masks and points.
NEVER_PROMPTED = (".mask_embed.", "not_a_point_embed", "point_embed.0.", "point_embed.1.")


class Trainee(nn.Module):
    """SAM with an edge head that is thrown away; runs images of 256 or, more cheaply, 128 pixels."""

    def __init__(self, sam: SamModel) -> None:
        super().__init__()
        self.sam = sam
        self.edge_head = nn.Conv2d(sam.config.vision_config.output_channels, 16, 1)

    def forward(self, images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mask logits (n, b, s/2, s/2), predicted IoU (n, b), edge logits (n, s/2, s/2).

        `images` (n, 1, s, s) in 0..1, `boxes` (n, b, 4) in pixels of 256 whatever s is. Below 256 pixels
        the position embeddings are resized.
        """
        encoder, decoder, prompts = self.sam.vision_encoder, self.sam.mask_decoder, self.sam.prompt_encoder
        pixels = ((images - PREPROCESSOR["mean"]) / PREPROCESSOR["std"]).expand(-1, 3, -1, -1)
        hidden = encoder.patch_embed.projection(pixels).permute(0, 2, 3, 1)
        grid = hidden.shape[1]
        positions = encoder.pos_embed
        if grid != positions.shape[1]:
            positions = F.adaptive_avg_pool2d(positions.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)
        hidden = hidden + positions
        for layer in encoder.layers:
            hidden = layer(hidden)
        embeddings = encoder.neck(hidden)

        sparse, _ = prompts(None, None, boxes, None)
        dense = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        axis = (torch.arange(grid, device=images.device) + 0.5) / grid
        row, column = torch.meshgrid(axis, axis, indexing="ij")
        image_positions = prompts.shared_embedding(torch.stack([column, row], -1)[None])
        image_positions = image_positions.permute(0, 3, 1, 2).expand(len(images), -1, -1, -1)
        masks, iou = decoder(
            image_embeddings=embeddings,
            image_positional_embeddings=image_positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        edges = F.pixel_shuffle(self.edge_head(embeddings), 4)
        return masks[:, :, 0].float(), iou[:, :, 0].float(), edges[:, 0].float()


def loss_of(trainee: Trainee, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss, and the mean Dice of the thresholded masks (no gradient)."""
    with torch.autocast("cpu", torch.bfloat16):
        logits, iou, edges = trainee(batch.images, batch.boxes)
    target = batch.masks
    size = target.shape[-1]
    weight = 0.03 + 0.97 * _grown_boxes(batch.boxes * (size / IMAGE_SIZE), size)
    weight = weight / weight.sum((-1, -2), keepdim=True)
    cross_entropy = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).sum((-1, -2))
    probability = logits.sigmoid()
    overlap = (probability * target).sum((-1, -2))
    soft_dice = 1 - (2 * overlap + 1) / (probability.sum((-1, -2)) + target.sum((-1, -2)) + 1)

    with torch.no_grad():
        hard, truth = logits > 0, target > 0.5
        common = (hard & truth).sum((-1, -2)).float()
        total = hard.sum((-1, -2)) + truth.sum((-1, -2))
        dice = (2 * common + 1) / (total + 1)
        true_iou = common / (total - common).clamp_min(1)
    edge_weight = 1 + 2 * batch.edges
    edge_loss = (F.binary_cross_entropy_with_logits(edges, batch.edges, reduction="none") * edge_weight).mean()
    loss = cross_entropy.mean() + soft_dice.mean() + 0.1 * F.mse_loss(iou, true_iou) + 0.3 * edge_loss
    return loss, dice.mean()


def _grown_boxes(boxes: Tensor, size: int) -> Tensor:
    """1 inside the boxes grown by 15 % of their sides, (n, b, size, size)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    grow_x, grow_y = 0.15 * (x2 - x1) + 1, 0.15 * (y2 - y1) + 1
    axis = torch.arange(size) + 0.5
    columns = (axis >= (x1 - grow_x)[..., None]) & (axis <= (x2 + 1 + grow_x)[..., None])
    rows = (axis >= (y1 - grow_y)[..., None]) & (axis <= (y2 + 1 + grow_y)[..., None])
    return (rows[..., :, None] & columns[..., None, :]).float()


def make_optimisers(trainee: Trainee) -> list[torch.optim.Optimizer]:
    """Muon (orthogonalised momentum) for the linear layers, AdamW for everything else."""
    matrices, others, bare = [], [], []
    for name, parameter in trainee.named_parameters():
        if any(part in name for part in NEVER_PROMPTED):
            parameter.requires_grad_(False)
        elif parameter.ndim == 2 and "embed" not in name and "token" not in name.rsplit(".", 2)[-2]:
            matrices.append(parameter)
        elif parameter.ndim == 4:
            others.append(parameter)
        else:
            bare.append(parameter)
    muon = torch.optim.Muon(matrices, lr=4e-3, weight_decay=0.05, momentum=0.95, ns_steps=5)
    groups = [{"params": others, "weight_decay": 0.05}, {"params": bare, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))
    for optimiser in (muon, adam):
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def set_rate(optimisers: list[torch.optim.Optimizer], step: int, fraction: float) -> float:
    """Warm-up over 100 steps, constant for the first third of the training, then linear to 2 % of the peak."""
    factor = min(1.0, (step + 1) / 100) * (1 - 0.98 * min(max((fraction - 0.33) / 0.67, 0), 1))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = factor * group["peak"]
    return factor

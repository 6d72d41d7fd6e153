"""VISTA3D's automatic branch for a chosen set of classes.

Source: He et al., VISTA3D: a Unified Segmentation Foundation Model for 3D Medical Imaging, 2024 (arXiv 2406.05285);
its modules are MONAI's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.networks.nets import vista3d132
from torch import nn


class AutomaticVISTA3D(nn.Module):
    """Patches (batch, 1, D, H, W), sides multiples of 16 -> logits (batch, 1 + classes, D, H, W).

    The first channel is the background, which is zero everywhere: a class is seen where its logit is above zero and
    above those of the others. Each class is the inner product of its embedding with the features of a voxel; for
    given classes this is a convolution of size one, whose weights are computed once. The branch of point prompts,
    which shares the encoder, is left out. It is made on the meta device: fill it, or call `to_empty`.
    """

    def __init__(self, classes: int, *, width: int = 48) -> None:
        super().__init__()
        with torch.device("meta"):
            whole = vista3d132(encoder_embed_dim=width)
            self.classes = nn.Conv3d(width, classes, 1, bias=False)
        self.image_encoder = whole.image_encoder
        self.image_encoder.up_layers = nn.ModuleList()  # of the point prompts
        self.image_post_mapping = whole.class_head.image_post_mapping

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        encoder = self.image_encoder
        levels = encoder.encoder(x)[::-1]
        x = levels[0]
        for level, skipped in zip(encoder.up_layers_auto, levels[1:]):
            x = level["blocks"](level["upsample"](x) + skipped)
        logits = self.classes(self.image_post_mapping(encoder.up_layers_auto[-1]["head"](x)))
        return torch.cat((torch.zeros_like(logits[:, :1]), logits), dim=1)


def whole_vista3d(width: int) -> nn.Module:
    """MONAI's network with both branches, as its weights are published."""
    return vista3d132(encoder_embed_dim=width)


@torch.no_grad()
def automatic_state(state: Mapping[str, torch.Tensor], classes: Sequence[int]) -> dict[str, torch.Tensor]:
    """The state of `AutomaticVISTA3D` for these class numbers from that of the whole network."""
    with torch.device("meta"):
        head = whole_vista3d(state["class_head.class_embeddings.weight"].shape[1]).class_head
    own = {n.removeprefix("class_head."): t.float() for n, t in state.items() if n.startswith("class_head.")}
    head.load_state_dict(own, assign=True)
    embedded = head.mlp(head.class_embeddings(torch.tensor(classes)[:, None]))[:, 0]
    kept = {
        name.removeprefix("class_head."): tensor
        for name, tensor in state.items()
        if name.startswith(
            ("image_encoder.encoder.", "image_encoder.up_layers_auto.", "class_head.image_post_mapping.")
        )
    }
    return kept | {"classes.weight": embedded[:, :, None, None, None].clone()}

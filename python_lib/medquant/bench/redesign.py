"""MedQuanBench's redesign (Table 4, lower half) on a small network: is 1x1x1 easier to round, and what is lost?

The paper's network is MedFormer with weights of its own. Here nnU-Net's network for thick slices, 1x3x3 on its first
two levels, is trained on phantoms within the run, then redesigned with phantoms whose labels it does not see, and
rounded as in the paper. The original is rounded beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from medquant.embedded.phantom import make_phantom
from medquant.models.base import CalibrationBatch, Model
from medquant.models.torch_program import from_module
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.published_recipes import PUBLISHED, published
from medquant.quantize import quantize
from medquant.rewrites.redesign import redesigned
from medquant.rewrites.redesigned import reads_one_plane
from medquant.rewrites.settings import Redesign
from medquant.sensitivity.change import mean_dice, overlaps
from medquant.sensitivity.layers import sensitivity
from medquant.sensitivity.trials import Rounding

SHAPE, SPACING = (16, 64, 64), (8.0, 5.0, 5.0)
LABELS = (5, 1, 6, 2, 3)
"""Of the phantom: liver, spleen, stomach, right and left kidney."""
TRAINING, CALIBRATING, TESTING = range(1000, 1012), range(1100, 1104), range(900, 904)
"""Seeds of the phantoms."""
LEARNING_RATE = 4e-3


@dataclass(frozen=True)
class Row:
    """One network; Dice are means over structures and test phantoms."""

    network: str
    """ "original", "one layer redesigned" (the 1x3x3 that rounding harms most) or "all layers redesigned"."""
    precision: str
    granularity: str
    dsc_vs_original: float
    """Against the FP32 masks of the original."""
    dsc_vs_labels: float


def run(
    *,
    steps: int = 400,
    redesign: Redesign | None = None,
    bits: Sequence[int] = (8, 4),
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> list[dict[str, Any]]:
    """Rows of `Row`. The network is trained for `steps` steps of one phantom each; all follows from the arguments."""
    tracker = Progress(progress, cancelled)
    settings = redesign or Redesign()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same weights whatever the machine
    try:
        model = from_module(trained(steps, tracker.span(0.0, 0.5)), name="original")
        calibrating = [CalibrationBatch((image,)) for image, _ in _phantoms(CALIBRATING)]
        testing = _phantoms(TESTING)
        with torch.inference_mode():
            full = [model.network(image).argmax(1) for image, _ in testing]
        networks: dict[str, Model] = {"original": model}
        for name, layers in (("one layer", (_worst_plane(model, calibrating),)), ("all layers", ("*",))):
            chosen = replace(settings, layers=layers)
            networks[f"{name} redesigned"], _ = redesigned(model, calibrating, chosen, tracker.span(0.55, 0.7))
        rows, count = [], len(networks) * (1 + len(bits) * len(PUBLISHED))
        for name, network in networks.items():
            for width, granularity in ((32, ""), *((b, g) for b in bits for g in PUBLISHED)):
                tracker.report(0.7 + 0.3 * len(rows) / count, f"{name}, {width} bits {granularity}")
                rounded = network
                if width < 32:
                    rounded = quantize(network, calibrating, recipe=published(width, granularity)).model
                precision = "FP32" if width == 32 else f"W{width}A{width}"
                rows.append(asdict(_measured(name, precision, granularity, rounded.network, testing, full)))
    finally:
        torch.set_num_threads(threads)
    tracker.report(1.0, "Compared")
    return rows


def untrained() -> nn.Module:
    """nnU-Net's network: images (1, 1, 16, 64, 64) -> logits; 1x3x3 on two levels, 3x3x3 on the third."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    return PlainConvUNet(
        *(1, 3, [8, 16, 32], nn.Conv3d, [[1, 3, 3], [1, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2], [2, 2, 2]]),
        *(2, 1 + len(LABELS), 2),
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


def trained(steps: int, tracker: Progress) -> nn.Module:
    """The network after `steps` steps on phantoms, by Dice and cross-entropy."""
    from monai.losses import DiceCELoss

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = untrained().train()
    cases = _phantoms(TRAINING)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    for step in range(steps):
        tracker.report(step / steps, f"Training on phantoms, step {step + 1} of {steps}")
        image, labels = cases[step % len(cases)]
        loss = loss_of(network(image), labels[:, None])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        falling.step()
    return network.eval().requires_grad_(False)


def _phantoms(seeds: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images (1, 1, *SHAPE) of zero mean, and labels (1, *SHAPE)."""
    found = []
    for seed in seeds:
        array, labels, _, _ = make_phantom(seed, SHAPE, SPACING)
        image = torch.from_numpy(np.clip(array, -160, 240).astype(np.float32))[None, None] / 100
        named = np.select([labels == label for label in LABELS], range(1, 1 + len(LABELS)))
        found.append((image - image.mean(), torch.from_numpy(named).long()[None]))
    return found


def _worst_plane(model: Model, batches: Sequence[CalibrationBatch]) -> str:
    """The 1x3x3 convolution whose rounding alone changes the output most."""
    recipe = published(4, "per-channel/token")
    found = sensitivity(model, batches, roundings=(Rounding(4, 4),), recipe=recipe)
    names = found.worst(len(found.layers))
    return next(name for name in names if reads_one_plane(model.network.get_submodule(name)))


def _measured(
    name: str,
    precision: str,
    granularity: str,
    network: nn.Module,
    testing: Sequence[tuple[torch.Tensor, torch.Tensor]],
    full: Sequence[torch.Tensor],
) -> Row:
    scores = []
    for (image, labels), original in zip(testing, full, strict=True):
        with torch.inference_mode():
            found = network(image).argmax(1)
        scores.append([mean_dice(overlaps(found, other, 1 + len(LABELS))) for other in (original, labels)])
    return Row(name, precision, granularity, *np.mean(scores, 0).tolist())

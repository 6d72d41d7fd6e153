"""The networks of the runtime benchmark: how each is built, what it is fed, and how its output becomes a mask.

Weights are random but for the embedded model and the network of `runtime_real`; time and memory do not depend on them.
Every process builds the same network from the same seed, and imports what that network needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from medquant.activation_settings import IntActivations
from medquant.errors import UserError
from medquant.models.base import CalibrationBatch, Model, Part
from medquant.recipe import CalibrationSettings, IntWeights, Recipe

PATCH = 96
CLASSES = 14
REAL = "allconvunet"


@dataclass(frozen=True)
class Case:
    """One network of the benchmark, or one part of a model."""

    title: str
    build: Callable[[], Model]
    part: str = "network"
    quantized: bool = True
    transformer: bool = False

    def piece(self, model: Model, seed: int = 1) -> Part:
        """The part with an input that it was not calibrated on (of another seed, another input), on the processor."""
        part = model.parts()[self.part]
        if self.part == "mask_decoder":
            return replace(part, inputs={name: example.cpu() for name, example in part.inputs.items()})
        (name, example), *_ = part.inputs.items()
        return replace(part, inputs={name: smooth(tuple(example.shape), seed)})

    def calibration(self, model: Model) -> list[CalibrationBatch]:
        """One input of the network."""
        (example, *_) = model.parts()["image_encoder" if self.part != "network" else "network"].inputs.values()
        first = smooth(tuple(example.shape), seed=0)
        if self.part == "network":
            return [CalibrationBatch((first,))]
        side = float(example.shape[-1])
        boxes = torch.tensor([[[0.2, 0.2, 0.6, 0.7], [0.3, 0.4, 0.8, 0.9]]]) * side
        return [CalibrationBatch((first, boxes), torch.ones(1, *example.shape[-2:]))]

    def recipe(self, model: Model, calibration: list[CalibrationBatch]) -> Recipe:
        """W8A8 without a solver, as NNCF does it."""
        plain = CalibrationSettings(sequential=False, shrink=False, positions_per_input=1)
        weights = IntWeights(8, symmetric=True)
        activations = IntActivations(8, symmetric=not self.transformer, observer="mse", dither=False)
        return Recipe(
            weights=weights, method="rtn", activations=activations, calibration=plain, drop_dead_channels=False
        )

    def mask(self, model: Model, output: torch.Tensor) -> torch.Tensor:
        """Labels: of SAM the masks of two boxes, by the FP32 decoder from what the encoder gave."""
        if self.part == "network":
            return output.argmax(1)
        if self.part == "image_encoder":
            with torch.inference_mode():
                side = model.preprocessing.image_size
                boxes = torch.tensor([[[0.2, 0.2, 0.6, 0.7], [0.3, 0.4, 0.8, 0.9]]]) * side
                output = model.parts()["mask_decoder"].module(output, boxes)
        return (output > 0).long()


def smooth(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """A smooth random picture or volume (batch, channels, *spatial), mean 0 and deviation about 1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(*shape[:2], *(max(2, size // 8) for size in shape[2:]), generator=generator)
    mode = "trilinear" if len(shape) == 5 else "bilinear"
    fine = functional.interpolate(coarse, size=shape[2:], mode=mode, align_corners=False)
    return (fine / fine.std()).contiguous()


def _around(name: str, network: nn.Module) -> Model:
    from medquant.models.torch_program import from_module

    return from_module(network.eval(), name=name, roi_size=(PATCH,) * 3)


def _nnunet() -> Model:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    torch.manual_seed(0)
    widths, strides = (32, 64, 128, 256, 320, 320), (1, 2, 2, 2, 2, 2)
    norm = {"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
    act = {"nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}}
    shape = {"n_conv_per_stage": 2, "num_classes": CLASSES, "n_conv_per_stage_decoder": 2, "conv_bias": True}
    return _around("nnU-Net, 31 M", PlainConvUNet(1, 6, widths, nn.Conv3d, 3, strides, **shape, **norm, **act))


def _monai(name: str) -> Model:
    from monai.networks import nets

    torch.manual_seed(0)
    kernel, strides = [3] * 5, [1, 2, 2, 2, 2]
    made = {
        "SwinUNETR": lambda: nets.SwinUNETR(1, CLASSES, feature_size=24),
        "UNETR": lambda: nets.UNETR(1, CLASSES, (PATCH,) * 3),
        "SegResNet": lambda: nets.SegResNet(3, 16, 1, CLASSES),
        "DynUNet": lambda: nets.DynUNet(3, 1, CLASSES, kernel, strides, strides[1:], filters=[32, 64, 128, 192, 256]),
    }[name]
    return _around(f"MONAI {name}", made())


def _sam() -> Model:
    from medquant.bench.footprint import random_vit_b

    return random_vit_b()


def _embedded() -> Model:
    from medquant.models.registry import load_model

    return load_model("embedded", device="cpu")


CASES = {
    "sam-vit-b": Case("SAM ViT-B encoder", _sam, "image_encoder", transformer=True),
    "nnunet": Case("nnU-Net, 31 M, 96^3", _nnunet),
    "swinunetr": Case("MONAI SwinUNETR, 96^3", lambda: _monai("SwinUNETR")),
    "unetr": Case("MONAI UNETR, 96^3", lambda: _monai("UNETR")),
    "segresnet": Case("MONAI SegResNet, 96^3", lambda: _monai("SegResNet")),
    "dynunet": Case("MONAI DynUNet, 96^3", lambda: _monai("DynUNet")),
    "embedded": Case("embedded encoder", _embedded, "image_encoder", transformer=True),
    "sam-vit-b-decoder": Case("SAM ViT-B, boxes to masks", _sam, "mask_decoder", quantized=False),
    "embedded-decoder": Case("embedded, boxes to masks", _embedded, "mask_decoder", quantized=False),
}


def case_of(name: str, data: Path | None, float_share: float | None = None) -> Case:
    """The case of this name. Raises `UserError` where there is none, or its scans and weights are not given.

    `float_share`: of `REAL`, the part of the arithmetic that stays in floating point; None: as `bench quality` has it.
    """
    if name != REAL:
        if name not in CASES:
            raise UserError(f"There is no {name} here. Choose among {', '.join((*CASES, REAL))}.")
        return CASES[name]
    if data is None:
        raise UserError(f"{REAL} has real weights and scans. Give their folder with --data.")
    from medquant.bench.runtime_real import real_case

    return real_case(data) if float_share is None else real_case(data, float_share)


def quantized_file(folder: Path, case: str, float_share: float | None = None) -> Path:
    """Where a case's quantized model lies during the benchmark, one file for each `float_share` that was given."""
    share = "" if float_share is None else f"-{float_share:g}"
    return folder / f"{case}{share}.mq.safetensors"

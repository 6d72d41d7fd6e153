"""Weights that an export stores as int8: what to say of them, and weights of 7 bits for every processor."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from medquant.attention_products import attention_modules
from medquant.deploy.int8_codes import BITS_WITHOUT_VNNI, LARGEST_CODE_WITHOUT_VNNI, nearest_int8
from medquant.deploy.program import runs_on_integers
from medquant.layers import QuantizedLayer
from medquant.models.base import Part
from medquant.network_edit import set_module, structural_twin
from medquant.quantized_model import QuantizedModel

_OVERFLOW = (
    "The weights use all 8 bits of int8. x86 processors without VNNI (Intel before about 2019, AMD before Zen 4) add "
    "products of such integers in 16 bits and clip sums that do not fit, without a word: masks may be wrong there. For "
    "those, export with --any-processor (7 bits) or --storage packed. Others, ARM and GPUs included, are not concerned."
)
_WITHIN = (
    "The weights were rounded once more, to 7 bits, so that sums cannot overflow on x86 processors without VNNI. What "
    "was verified is that network; compare its masks with those of the 8-bit one."
)
_PRODUCTS = "Products of attention whose factors have 8 bits are computed in floating point, for the same reason."


class _SevenBits(QuantizedLayer):
    """A layer whose weights were rounded once more."""

    was_bits = 8
    """Bits of a weight before."""


def notes_on_int8(part: Part, *, any_processor: bool, for_gpu: bool = False) -> tuple[str, ...]:
    """What users of a file with int8 weights are to know. `for_gpu`: nothing overflows there, and nothing is packed."""
    layers = [layer for layer in part.module.modules() if isinstance(layer, QuantizedLayer) and runs_on_integers(layer)]
    if not layers:
        return ()
    notes = [_WITHIN] if any_processor else [] if for_gpu else [_OVERFLOW]
    if any_processor and attention_modules(part.module):
        notes.append(_PRODUCTS)
    bits = {layer.was_bits if isinstance(layer, _SevenBits) else layer.bits for layer in layers}
    fewer = sorted(count for count in bits if count <= 4)
    if fewer:
        listing = " and ".join(str(bits) for bits in fewer)
        smaller = "" if for_gpu else " --storage packed keeps them small; most programs then compute in floating point."
        notes.append(
            f"Weights of {listing} bits are stored as int8, a byte each, as integer kernels take them: the file is as "
            f"large as that of an 8-bit model.{smaller}"
        )
    return tuple(notes)


def within_seven_bits(model: QuantizedModel) -> QuantizedModel:
    """The model with the weights of its layers on integers rounded to codes of at most 63 in size. It stays.

    Products of attention with factors of 8 bits are not rounded any more.
    """
    holder = structural_twin(nn.Sequential(model.model.network))
    for name, layer in list(holder.named_modules()):
        if isinstance(layer, QuantizedLayer) and runs_on_integers(layer):
            set_module(holder, name, _rounded(layer))
    if attention_modules(holder):  # its module loads `transformers`
        from medquant.deploy.attention import drop_overflowing_products

        drop_overflowing_products(holder)
    return replace(model, model=model.model.with_network(holder[0]))


def _rounded(layer: QuantizedLayer) -> QuantizedLayer:
    layout, zero = layer.geometry.layout, 2 ** (BITS_WITHOUT_VNNI - 1)
    codes, scale = nearest_int8(layer, LARGEST_CODE_WITHOUT_VNNI)
    codes = codes.short().clamp_min(1 - zero) + zero
    made = _SevenBits(
        layer.geometry,
        BITS_WITHOUT_VNNI,
        layout.to_matrices(codes).to(torch.uint8).flatten(),
        scale.reshape(layout.groups, 1, -1),
        None,
        -float(zero),
        None,
        layer.bias,
    )
    made.input_divisor, made.input_quantizer, made.was_bits = layer.input_divisor, layer.input_quantizer, layer.bits
    return made

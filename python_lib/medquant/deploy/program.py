"""A module whose quantized layers stand in the form that other runtimes' converters understand.

Integer kernels want weights on a symmetric grid with one scale for each output channel: codes of 2 to 8 bits are
widened to such int8 codes. The input's quantizer becomes torch's own fake quantization, which converters turn into
FakeQuantize (OpenVINO) or QuantizeLinear and DequantizeLinear (ONNX).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from medquant.activations import ActivationQuantizer
from medquant.attention_products import attention_modules
from medquant.deploy.exact_norms import stage_norms
from medquant.deploy.int8_codes import LARGEST_CODE, largest_code_here, nearest_int8
from medquant.dither import ordered_dither
from medquant.layers import QuantizedLayer, divided
from medquant.network_edit import set_module, structural_twin

Dialect = Literal["openvino", "onnx"]
"""Who reads the program: ONNX has an operator for codes times scales, OpenVINO finds them by itself."""
WRONG_ON_INTEGERS = ("ConvTranspose1d", "ConvTranspose2d")
"""What OpenVINO 2026.4 computes wrongly on integers (by a third of the output in SAM's mask decoder): it gets these
layers in floating point, their inputs as they are."""


def integer_program(
    module: nn.Module,
    *,
    dialect: Dialect = "openvino",
    integers: bool = True,
    largest_code: int | None = None,
    exact_norms: bool = False,
) -> nn.Module:
    """A twin of `module` (tensors shared where they can be) for conversion; the original stays as it is.

    With `integers`, layers that have a quantizer round their input, on int8 weights where integer kernels can follow
    (`runs_on_integers`). Without, no input is rounded. All other layers have their decoded weight, linear ones as codes
    that a runtime decodes where it multiplies. `largest_code`: None takes what this processor adds without overflow;
    where that is less than int8 holds, products of attention with factors of 8 bits are left in floating point.
    `exact_norms`: average large patches in two stages (`medquant.deploy.exact_norms`).
    """
    holder = structural_twin(nn.Sequential(module))  # so that a module which is one layer can be exchanged as well
    largest_code = largest_code or largest_code_here()
    for name, part in list(holder.named_modules()):
        if isinstance(part, QuantizedLayer):
            exported = _exported(part, dialect, integers, largest_code)
            exported.dialect = dialect
            set_module(holder, name, exported)
    if attention_modules(holder):  # its module loads `transformers`
        from medquant.deploy.attention import drop_overflowing_products, export_attention

        if largest_code < LARGEST_CODE:
            drop_overflowing_products(holder)
        export_attention(holder, static_quantizer if integers else None)
    if exact_norms:
        stage_norms(holder)
    return holder[0]


def decoded_program(module: nn.Module, *, integers: bool = True) -> nn.Module:
    """A twin of `module` whose quantized layers hold their decoded weights, for PyTorch.

    With `integers` inputs are rounded as by the engine, in floating point; without, they are not.
    """
    holder = structural_twin(nn.Sequential(module))
    for name, part in list(holder.named_modules()):
        if isinstance(part, QuantizedLayer):
            set_module(holder, name, DecodedLayer(part, part.input_quantizer if integers else None))
    if not integers and attention_modules(holder):
        from medquant.deploy.attention import drop_attention_quantizers

        drop_attention_quantizers(holder)
    return holder[0]


def runs_on_integers(layer: nn.Module) -> bool:
    """Whether integer kernels can compute what this layer does: its input has one scale, known beforehand."""
    quantizer = getattr(layer, "input_quantizer", None)
    return quantizer is not None and quantizer.has_integer_kernel and quantizer.mode == "static"


def integer_layers(module: nn.Module) -> list[str]:
    """Names of the layers of a quantized module that are to run on integers."""
    return [name for name, part in module.named_modules() if runs_on_integers(part)]


def integer_products(module: nn.Module) -> int:
    """How many products of attention are to run on integers, two of each module that takes part."""
    return 2 * sum(part.quantizers is not None for part in attention_modules(module).values())


def rounds_inputs(module: nn.Module) -> bool:
    """Whether any layer of a quantized module has its input rounded, on integers or not."""
    return any(getattr(part, "input_quantizer", None) is not None for part in module.modules())


def _exported(layer: QuantizedLayer, dialect: Dialect, integers: bool, largest_code: int) -> nn.Module:
    if dialect == "openvino" and layer.geometry.kind in WRONG_ON_INTEGERS:
        return DecodedLayer(layer)
    if integers and runs_on_integers(layer):
        return IntegerLayer(layer, static_quantizer(layer.input_quantizer), largest_code, dialect)
    quantizer = layer.input_quantizer if integers else None
    whole = layer.live_inputs is None and layer.live_outputs is None
    if layer.geometry.kind == "Linear" and whole and quantizer is None:
        if layer.row_group is None:
            return CompressedLinear(layer)
        if dialect == "openvino" and GroupedLinear.can(layer):
            return GroupedLinear(layer)
    return DecodedLayer(layer, quantizer)


def static_quantizer(quantizer: nn.Module) -> nn.Module:
    """A quantizer as constants where it has one known scale; any other as it is."""
    fits = isinstance(quantizer, ActivationQuantizer) and quantizer.mode == "static" and quantizer.spread == "tensor"
    return StaticQuantizer(quantizer) if fits else quantizer


class StaticQuantizer(nn.Module):
    """`ActivationQuantizer` with one known scale, its numbers written into the program as constants.

    Always 256 levels, as int8 kernels have them (OpenVINO is inexact with others). A grid of fewer bits is cut at
    its ends beforehand. A symmetric one of 255 levels gets the lowest level of int8 in addition: what lies below its
    range is clipped one level later.
    """

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.scale, self.zero, self.dither = float(quantizer.scale), int(quantizer.zero), quantizer.dither
        levels = quantizer.levels
        self.low, self.high = 0, 255
        self.ends = (-self.zero * self.scale, (levels - 1 - self.zero) * self.scale) if levels < 255 else None
        if 2 * self.zero == levels - 1:
            self.low, self.high, self.zero = -128, 127, 0
        self.lifted = 0.0

    def lift(self) -> float:
        """From now on give values that are larger by a constant, which is returned: codes without a zero point."""
        self.lifted, self.zero = self.zero * self.scale, 0
        return self.lifted

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The values at the levels of the grid; same shape and type."""
        if self.dither:
            values = values + ordered_dither(tuple(int(size) for size in values.shape[2:])) * self.scale
        if self.ends is not None:
            values = values.clamp(*self.ends)
        if self.lifted:
            values = values + self.lifted
        return self.rounded(values)

    def rounded(self, values: torch.Tensor) -> torch.Tensor:
        """The levels nearest to values that lie where the grid does."""
        return torch.fake_quantize_per_tensor_affine(values, self.scale, self.zero, self.low, self.high)


class _Dequantize(torch.autograd.Function):
    """Codes times scales: one operator in ONNX, which keeps the codes in the file."""

    @staticmethod
    def forward(ctx: Any, codes: torch.Tensor, scale: torch.Tensor, axis: int) -> torch.Tensor:
        return codes.float() * scale.reshape(-1, *[1] * (codes.ndim - axis - 1))

    @staticmethod
    def symbolic(g: Any, codes: Any, scale: Any, axis: int) -> Any:
        return g.op("DequantizeLinear", codes, scale, axis_i=axis)


class ExportedLayer(nn.Module):
    """A layer in torch's plain operations; subclasses say how its weight is held."""

    dialect: Dialect = "openvino"

    def __init__(self, layer: QuantizedLayer, quantizer: nn.Module | None = None) -> None:
        super().__init__()
        self.geometry = layer.geometry
        self.quantizer = quantizer
        self.register_buffer("bias", layer.bias)
        self.register_buffer("divisor", layer.input_divisor)

    def weight(self) -> torch.Tensor:
        """The weight in floating point."""
        raise NotImplementedError

    def forward(self, input: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        """Named and shaped as in torch."""
        if self.divisor is not None:
            input = divided(input, self.divisor, self.geometry)
        if self.quantizer is not None:
            input = self.quantizer(input)
        return self.geometry.apply(input, self.weight(), self.bias, output_size)

    def _times_scale(self, codes: torch.Tensor, axis: int) -> torch.Tensor:
        if self.dialect == "onnx":
            return _Dequantize.apply(codes, self.scale, axis)
        return codes.float() * self.scale.reshape(-1, *[1] * (codes.ndim - axis - 1))


class DecodedLayer(ExportedLayer):
    """A layer with its weight in floating point."""

    def __init__(self, layer: QuantizedLayer, quantizer: nn.Module | None = None) -> None:
        super().__init__(layer, quantizer)
        self.register_buffer("decoded", layer.weight)

    def weight(self) -> torch.Tensor:
        return self.decoded


class CompressedLinear(ExportedLayer):
    """A linear layer whose weight stays codes, by an expression that runtimes know as a compressed weight."""

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__(layer)
        scale = layer.scale.float()[0].T
        offset = scale * layer.zero if layer.offset is None else layer.offset.float()[0].T
        outputs = layer.geometry.layout.outputs
        self.register_buffer("codes", layer.codes()[0].T.contiguous())
        self.register_buffer("zero", (-offset / scale).expand(outputs, 1).contiguous())
        self.register_buffer("scale", scale.expand(outputs, 1)[:, 0].contiguous())

    def weight(self) -> torch.Tensor:
        if self.dialect == "onnx":
            return self._times_scale(self.codes, 0) - self.zero * self.scale[:, None]
        return (self.codes.float() - self.zero) * self.scale[:, None]


class GroupedLinear(ExportedLayer):
    """A linear layer with a scale for each group of inputs, whose weight stays codes.

    Runtimes know groups of one length that follow each other: where a permutation gathers them, the inputs are brought
    into its order.
    """

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__(layer)
        outputs, groups = layer.geometry.layout.outputs, layer.scale.shape[1]
        order = layer.row_group[0].long().argsort(stable=True)
        scale = layer.scale.float()[0].T
        offset = scale * layer.zero if layer.offset is None else layer.offset.float()[0].T
        in_order = bool((order.diff() == 1).all())
        self.register_buffer("order", None if in_order else order)
        if self.divisor is not None:
            self.divisor = self.divisor[order]
        self.register_buffer("codes", layer.codes()[0][order].T.reshape(outputs, groups, -1).contiguous())
        self.register_buffer("zero", (-offset / scale).expand(outputs, groups)[..., None].contiguous())
        self.register_buffer("scale", scale.expand(outputs, groups)[..., None].contiguous())

    @staticmethod
    def can(layer: QuantizedLayer) -> bool:
        """Whether its groups are of inputs, not of single weights, and of one length."""
        return layer.row_group.ndim == 2 and len(layer.row_group[0].long().bincount().unique()) == 1

    def weight(self) -> torch.Tensor:
        return ((self.codes.float() - self.zero) * self.scale).flatten(1)

    def forward(self, input: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        return super().forward(input if self.order is None else input.index_select(-1, self.order), output_size)


class IntegerLayer(ExportedLayer):
    """A layer on integers: its input rounded, its weight int8 codes times a scale for each output."""

    def __init__(self, layer: QuantizedLayer, quantizer: StaticQuantizer, largest_code: int, dialect: Dialect) -> None:
        super().__init__(layer, quantizer)
        self.dialect = dialect
        codes, scale = nearest_int8(layer, largest_code)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        if dialect == "openvino" and self.geometry.kind == "Linear":
            # The runtime would subtract what the zero point adds from every output: the bias can hold it.
            constant = quantizer.lift() * (codes.double().sum(1) * scale.double()).float()
            self.bias = -constant if self.bias is None else self.bias.float() - constant

    def weight(self) -> torch.Tensor:
        layout = self.geometry.layout
        if not layout.transposed:
            return self._times_scale(self.codes, 0)
        if layout.groups == 1:
            return self._times_scale(self.codes, 1)
        each = self.codes.shape[0] // layout.groups  # (in, out / groups, *kernel): a scale for each group and column
        scale = self.scale.reshape(layout.groups, 1, -1).expand(-1, each, -1).flatten(0, 1)
        return self.codes.float() * scale.reshape(*scale.shape, *[1] * (self.codes.ndim - 2))

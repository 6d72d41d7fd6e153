"""What a quantized network stores, bit by bit."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from medquant.layers import QuantizedLayer
from medquant.network_edit import stored_bits_of
from medquant.quantized_model import LayerReport, QuantizationReport
from medquant.rewrites.rewritten import Rewritten
from medquant.rewrites.settings import INNER


def account_for(
    network: nn.Module,
    reports: dict[str, LayerReport],
    kept: dict[str, str],
    seconds: dict[str, float],
    inputs: int,
) -> QuantizationReport:
    """Count the stored bits of every weight of `network`.

    `reports` of the quantized layers, `kept` the layers (or single weights of them) left in floating point.
    """
    weight_bits = weights = other_bits = parameters = 0
    reports, kept = dict(reports), dict(kept)
    for name, module in network.named_modules():
        if isinstance(module, QuantizedLayer):
            count = torch.Size(module.geometry.weight_shape).numel()
            weight_bits += module.stored_bits()
            weights += count
            biases = 0 if module.bias is None else module.bias.numel()
            other_bits += 32 * biases
            parameters += count + biases
        elif isinstance(module, Rewritten):
            # It stands for a weight that is counted inside.
            stored, inside = module.stored_bits(), f"{name}.{INNER}"
            weight_bits += stored
            if inside in reports:
                count = torch.Size(module.geometry.weight_shape).numel()
                more = reports[inside].effective_bits + stored / count
                reports[inside] = replace(reports[inside], effective_bits=more)
            if module.down is not None:
                kept[f"{name}.branch"] = "a low-rank branch, computed in floating point"
        else:
            for key, tensor in module.named_parameters(recurse=False):
                bits = stored_bits_of(tensor) * tensor.numel()
                parameters += tensor.numel()
                if (name in kept and key == "weight") or f"{name}.{key}" in kept:
                    weight_bits += bits
                    weights += tensor.numel()
                else:
                    other_bits += bits
    return QuantizationReport(
        layers=tuple(reports.values()),
        kept=kept,
        effective_bits=weight_bits / weights,
        bits_per_parameter=(weight_bits + other_bits) / parameters,
        parameters=parameters,
        seconds=seconds,
        calibration_inputs=inputs,
    )

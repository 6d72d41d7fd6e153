"""What a network does with its layers, seen in one pass: order, calls, shapes, batch norms that follow."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from medquant.alive import AliveTensors
from medquant.channels import channel_variances
from medquant.matrices import CONVOLUTIONS, TRANSPOSED, is_quantizable

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass
class Observation:
    """The layers of a network in the order of their first call."""

    order: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    batch_norms: dict[str, str] = field(default_factory=dict)
    """Convolution -> the batch norm that is applied to its output, where that is the only one."""
    variances: dict[str, torch.Tensor] = field(default_factory=dict)
    """Layer -> covariance of its inputs within each channel, at the first call (`channels.channel_variances`)."""
    held_bytes: dict[str, int] = field(default_factory=dict)
    """Layer -> bytes of the tensors that are alive when it is first reached, without inputs and parameters."""
    pass_bytes: int = 0
    """The most bytes alive at any time."""
    output: torch.Tensor | None = None


def observe(network: nn.Module, run: Callable[[], Any], *, variances: bool = True) -> Observation:
    """Run `run()`, which calls `network` once, and note what happened. The network is left as it was.

    Without `variances` those of the layers' inputs are not computed.
    """
    seen = Observation()
    maker: dict[int, tuple[str, weakref.ref, torch.Tensor]] = {}
    hooks = []

    def layer_hook(name: str, is_convolution: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: torch.Tensor) -> None:
            if name not in seen.calls:
                seen.order.append(name)
                if variances and getattr(module, "groups", 1) == 1:
                    seen.variances[name] = channel_variances(module, args[0] if args else options["input"])
            seen.calls[name] = seen.calls.get(name, 0) + 1
            if is_convolution:
                maker[id(output)] = name, weakref.ref(output), _sample(output)

        return hook

    def norm_hook(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, _output: torch.Tensor) -> None:
            source, made, sample = maker.get(id(args[0]), ("", lambda: None, None))
            # An activation in between that works in place hands on the same tensor with other values.
            if made() is args[0] and torch.equal(sample, _sample(args[0])):
                seen.batch_norms[source] = name

        return hook

    alive = AliveTensors([*network.parameters(), *network.buffers()])

    def arrival_hook(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            seen.held_bytes.setdefault(name, alive.bytes)

        return hook

    for name, module in network.named_modules():
        if is_quantizable(module):
            hooks.append(module.register_forward_pre_hook(arrival_hook(name)))
            is_convolution = isinstance(module, CONVOLUTIONS + TRANSPOSED)
            hooks.append(module.register_forward_hook(layer_hook(name, is_convolution), with_kwargs=True))
        elif isinstance(module, BATCH_NORMS) and module.running_mean is not None:
            hooks.append(module.register_forward_hook(norm_hook(name)))
    try:
        with torch.inference_mode(), alive:
            seen.output = run()
    finally:
        for hook in hooks:
            hook.remove()
    seen.pass_bytes = alive.peak_bytes
    seen.batch_norms = {c: b for c, b in seen.batch_norms.items() if seen.calls[c] == 1}
    return seen


def _sample(values: torch.Tensor) -> torch.Tensor:
    """A few thousand of the values, enough to notice a change."""
    flat = values.reshape(-1)
    return flat[:: max(1, len(flat) // 4096)].clone()

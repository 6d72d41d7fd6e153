"""What is seen in one pass, and batch norms folded into the layer before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from medquant.folding import fold_batch_norm
from medquant.observe import observe


def trained(norm: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.1, 4.0)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm.eval()


FOLDS = [
    (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), (2, 3, 9)),
    (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), (2, 3, 6, 7)),
    (nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8), (1, 4, 6, 7)),
    (nn.Conv3d(2, 3, 3, 2, 1), nn.BatchNorm3d(3), (1, 2, 5, 6, 7)),
    (nn.ConvTranspose2d(3, 5, 3, 2, 1), nn.BatchNorm2d(5), (1, 3, 5, 6)),
    (nn.ConvTranspose2d(4, 6, 2, 2, groups=2, bias=False), nn.BatchNorm2d(6), (1, 4, 5, 6)),
    (nn.ConvTranspose3d(4, 4, 2, 2, groups=4), nn.BatchNorm3d(4), (1, 4, 3, 3, 3)),
]


@pytest.mark.parametrize(("layer", "norm", "shape"), FOLDS, ids=lambda part: str(part))
@torch.inference_mode()
def test_folding_changes_nothing(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    layer, norm, x = layer.double(), trained(norm).double(), torch.randn(shape, dtype=torch.float64)
    before = layer.weight.clone()
    expected = norm(layer(x))
    weight, bias = fold_batch_norm(layer, norm)
    assert torch.equal(layer.weight, before)
    twin = type(layer).__new__(type(layer))
    twin.__dict__.update(layer.__dict__)
    twin._parameters = {"weight": nn.Parameter(weight), "bias": nn.Parameter(bias)}
    torch.testing.assert_close(twin(x), expected)


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last, self.never = nn.Linear(4, 2), nn.Linear(1, 1)
        self.twice, self.first = nn.Conv1d(4, 4, 1), nn.Conv1d(1, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.twice(self.twice(self.first(x)))
        return self.last(x.transpose(1, 2))


def test_order_and_calls() -> None:
    network, x = Several(), torch.randn(1, 1, 8)
    seen = observe(network, lambda: network(x))
    assert seen.order == ["first", "twice", "last"]
    assert seen.calls == {"first": 1, "twice": 2, "last": 1}
    assert torch.equal(seen.output, network(x))
    assert not any(module._forward_hooks for module in network.modules())


def test_the_network_is_left_as_it_was_after_an_error() -> None:
    network = Several()
    with pytest.raises(ZeroDivisionError):
        observe(network, lambda: 1 / 0)
    assert not any(module._forward_hooks for module in network.modules())


def found(*layers: nn.Module, call: Callable[[nn.Sequential, torch.Tensor], object] | None = None) -> dict[str, str]:
    network = nn.Sequential(*layers).eval()
    x = torch.randn(1, 2, 6, 6)
    return observe(network, lambda: call(network, x) if call else network(x)).batch_norms


def test_batch_norms_that_follow_a_convolution() -> None:
    conv, norm = nn.Conv2d(2, 2, 3), trained(nn.BatchNorm2d(2))
    assert found(conv, norm) == {"0": "1"}
    assert found(nn.ConvTranspose2d(2, 2, 2, 2), norm) == {"0": "1"}
    assert found(norm, conv) == {}
    assert found(conv, nn.ReLU(), norm) == {}
    assert found(conv, nn.InstanceNorm2d(2)) == {}
    assert found(conv, nn.BatchNorm2d(2, track_running_stats=False)) == {}


def test_an_activation_in_place_is_not_overlooked() -> None:
    """The tensor is the same object, its values are not."""
    assert found(nn.Conv2d(2, 2, 3), nn.ReLU(inplace=True), trained(nn.BatchNorm2d(2))) == {}


def test_a_convolution_that_is_called_twice_keeps_its_norm() -> None:
    conv, norm = nn.Conv2d(2, 2, 3), trained(nn.BatchNorm2d(2))
    assert found(conv, norm, call=lambda net, x: (net[1](net[0](x)), net[0](x))) == {}

"""Norms of large patches: the engine's own numbers, and OpenVINO's are near float64 with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medquant.deploy.exact_norms import LARGE, StagedNorm, stage_norms
from medquant.deploy.openvino_runtime import OpenVino
from medquant.models.base import Part

NORMS = [
    (nn.InstanceNorm3d(6, affine=True), (2, 6, 33, 34, 35)),
    (nn.InstanceNorm3d(6), (1, 6, 40, 40, 40)),
    (nn.InstanceNorm2d(4, affine=True), (1, 4, 200, 210)),
    (nn.GroupNorm(2, 6), (2, 6, 33, 34, 35)),
    (nn.GroupNorm(1, 4), (1, 4, 200, 210)),
]


@pytest.mark.parametrize(("norm", "shape"), NORMS)
def test_the_same_as_the_norm_itself(norm: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    values = torch.randn(shape) * 3 + 5
    network = nn.Sequential(norm)
    stage_norms(network)
    assert isinstance(network[0], StagedNorm) and np.prod(shape[2:]) > LARGE
    assert torch.allclose(network(values), norm(values), atol=2e-5)


def test_norms_that_keep_statistics_stay() -> None:
    network = nn.Sequential(nn.BatchNorm3d(3), nn.InstanceNorm3d(3, track_running_stats=True), nn.LayerNorm(3))
    stage_norms(network)
    assert not any(isinstance(module, StagedNorm) for module in network.modules())


def test_large_patches_are_near_float64_by_openvino() -> None:
    """Mostly air with a bright part, as a scan is: what a single long sum in single precision cannot hold."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.Conv3d(4, 4, 1)).eval()
    patch = torch.full((1, 1, 96, 96, 96), -3.0)
    patch[..., 30:60, 20:70, 40:90] = torch.randn(30, 50, 50) * 0.2 + 1
    part = Part(network, {"patch": patch}, ("logits",))
    found = OpenVino().compile(part, precision="fp32", threads=2)(patch)
    with torch.no_grad():
        exact = network.double()(patch.double())
    assert float((found - exact).norm() / exact.norm()) < 2e-4

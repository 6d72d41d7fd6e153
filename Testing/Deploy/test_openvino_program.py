"""Networks whose trace OpenVINO cannot convert."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medquant.deploy.openvino_program import openvino_model
from medquant.deploy.openvino_runtime import OpenVino
from medquant.errors import UserError
from medquant.models.base import Part
from medquant.models.torch_program import from_module


def test_shifted_windows_that_are_padded_are_converted() -> None:
    from monai.networks import nets

    torch.manual_seed(0)
    small = {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4), "spatial_dims": 2}
    part = from_module(nets.SwinUNETR(1, 2, **small).eval(), name="swin", roi_size=(64, 64)).parts()["network"]
    found = OpenVino().compile(part, precision="fp32", threads=1)(*part.inputs.values())
    with torch.no_grad():
        expected = part.module(*part.inputs.values())
    assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_an_operator_that_cannot_be_converted_is_a_message() -> None:
    class Unknown(nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return torch.linalg.pinv(values) @ torch.linalg.cholesky(values @ values.mT)

    with pytest.raises(UserError, match=r"OpenVINO cannot convert this model .* --runtime pytorch"):
        openvino_model(Part(Unknown(), {"values": torch.randn(3, 3)}, ("output",)))

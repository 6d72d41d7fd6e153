"""Layers as matrices: rows times matrices must be what torch's own layer computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from medquant.matrices import Layout, input_rows, is_quantizable, spatial_grid

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def products(module: nn.Module, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows times matrices: (groups, N, n)."""
    return input_rows(module, inputs, positions) @ Layout.of(module).to_matrices(module.weight)


def from_rows(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The output of a linear or convolution layer, by way of its rows."""
    grid = spatial_grid(module, inputs)
    everything = torch.arange(torch.Size(grid).numel())
    flat = products(module, inputs, everything).transpose(0, 1).reshape(len(everything), -1)
    if module.bias is not None:
        flat = flat + module.bias
    out = flat.reshape(*grid, -1)
    return out if isinstance(module, nn.Linear) else out.movedim(-1, 1)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, torch.Tensor]:
    dims = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 2))
    kernel, dilation, size = each(1, 3), each(1, 2), each(5, 8)
    options: dict[str, Any] = {"dilation": dilation, "groups": groups, "bias": draw(st.booleans())}
    padding = draw(st.sampled_from(["valid", "same", "numbers"]))
    if padding == "same":
        options["padding"] = "same"
    else:
        options["stride"] = each(1, 3)
        options["padding"] = each(0, 2) if padding == "numbers" else "valid"
    options["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    torch.manual_seed(draw(st.integers(0, 99)))
    layer = CONVOLUTIONS[dims](inputs, outputs, kernel, **options).double()
    return layer, torch.randn(draw(st.integers(1, 2)), inputs, *size, dtype=torch.float64)


@given(convolutions())
def test_convolutions_are_matrix_products(case: tuple[nn.Module, torch.Tensor]) -> None:
    layer, x = case
    expected = layer(x)
    assert spatial_grid(layer, x) == (expected.shape[0], *expected.shape[2:])
    torch.testing.assert_close(from_rows(layer, x), expected)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 7, 5), (2, 3, 4, 5)])
def test_linear_layers_of_any_leading_shape(shape: tuple[int, ...]) -> None:
    layer, x = nn.Linear(5, 4).double(), torch.randn(shape, dtype=torch.float64)
    assert spatial_grid(layer, x) == shape[:-1]
    torch.testing.assert_close(from_rows(layer, x), layer(x))


def test_depth_wise() -> None:
    layer, x = nn.Conv2d(6, 12, 3, padding=1, groups=6).double(), torch.randn(1, 6, 5, 7, dtype=torch.float64)
    assert Layout.of(layer).to_matrices(layer.weight).shape == (6, 9, 2)
    torch.testing.assert_close(from_rows(layer, x), layer(x))


@given(convolutions(), st.integers(0, 99))
def test_chosen_positions_are_rows_of_all(case: tuple[nn.Module, torch.Tensor], seed: int) -> None:
    layer, x = case
    total = torch.Size(spatial_grid(layer, x)).numel()
    some = torch.randint(0, total, (5,), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(input_rows(layer, x, some), input_rows(layer, x, torch.arange(total))[:, some])


def test_inputs_that_are_views() -> None:
    base = torch.randn(1, 9, 11, 3, dtype=torch.float64)
    layer, x = nn.Conv2d(3, 4, 3, bias=False).double(), base.permute(0, 3, 2, 1)[..., 1:]
    torch.testing.assert_close(from_rows(layer, x), layer(x))


@st.composite
def transposed(draw: st.DrawFn) -> tuple[nn.Module, torch.Tensor]:
    dims = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 2]))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    torch.manual_seed(draw(st.integers(0, 99)))
    layer = TRANSPOSED[dims](inputs, outputs, kernel, stride=kernel, groups=groups, bias=False).double()
    return layer, torch.randn(2, inputs, *(draw(st.integers(2, 4)) for _ in range(dims)), dtype=torch.float64)


@given(transposed())
def test_transposed_convolutions_without_overlap(case: tuple[nn.Module, torch.Tensor]) -> None:
    """Kernel equal to stride: every output voxel is one product, at the offset of its column."""
    layer, x = case
    kernel, grid = layer.kernel_size, spatial_grid(layer, x)
    rows = products(layer, x, torch.arange(torch.Size(grid).numel()))
    spread = rows.transpose(0, 1).reshape(*grid, layer.out_channels, *kernel)
    dims = len(kernel)
    # (batch, *space, channel, *offset) -> (batch, channel, space0, offset0, space1, offset1, ...)
    order = [0, dims + 1, *(axis for d in range(dims) for axis in (1 + d, dims + 2 + d))]
    out = spread.permute(order).reshape(grid[0], -1, *(s * k for s, k in zip(grid[1:], kernel)))
    torch.testing.assert_close(out, layer(x))


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [(1, 0, 1, 1), (2, 1, 1, 1), (2, 1, 2, 2)])
def test_transposed_convolutions_with_overlap(stride: int, padding: int, dilation: int, groups: int) -> None:
    """The columns of all positions, summed where they overlap."""
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False, **options).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    expected = layer(x)
    rows = products(layer, x, torch.arange(2 * 5 * 6)).transpose(0, 1).reshape(2, 30, 6 * 9).transpose(1, 2)
    torch.testing.assert_close(functional.fold(rows, expected.shape[2:], 3, **options), expected)


@given(st.one_of(convolutions(), transposed()))
def test_weights_come_back_from_their_matrices(case: tuple[nn.Module, torch.Tensor]) -> None:
    layer, _ = case
    layout = Layout.of(layer)
    matrices = layout.to_matrices(layer.weight)
    assert torch.equal(layout.to_weight(matrices), layer.weight)
    assert layout.outputs == layer.out_channels
    assert matrices.shape[0] == layer.groups and matrices.shape[2] * layer.groups == layout.outputs * layout.share


def test_columns_that_share_a_scale_belong_to_one_output() -> None:
    layer = nn.ConvTranspose3d(4, 6, (2, 1, 3), groups=2)
    layout = Layout.of(layer)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(3).reshape(1, 3, 1, 1, 1).expand_as(layer.weight))
    columns = layout.to_matrices(layer.weight).reshape(2, 2, 3, layout.share)
    assert layout.share == 6 and (columns == torch.arange(3).reshape(1, 1, 3, 1)).all()


def test_what_is_quantizable() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    class Renamed(nn.Conv2d):
        pass

    assert is_quantizable(Renamed(1, 1, 1)) and is_quantizable(nn.ConvTranspose1d(1, 1, 1))
    assert not is_quantizable(Scaled(1, 1)) and not is_quantizable(nn.Embedding(2, 2))

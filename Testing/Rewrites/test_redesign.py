"""The redesign: 1x3x3 convolutions become 1x1x1, the network is trained, and nobody takes it for the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from medquant import artifact
from medquant.activation_settings import IntActivations
from medquant.deploy.export.exporting import export
from medquant.errors import Cancelled, UserError
from medquant.evaluation.wording import short_names
from medquant.granularity import Adaptive
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import from_module
from medquant.progress import Progress
from medquant.quantized_model import QuantizedModel
from medquant.recipe import IntWeights, Recipe
from medquant.rewrites.distillation import divergence
from medquant.rewrites.redesign import fit_pointwise, redesigned
from medquant.rewrites.redesigned import pointwise, reads_one_plane
from medquant.rewrites.settings import Redesign

Quantize = Callable[..., QuantizedModel]
FEW = Redesign(steps=6, learning_rate=1e-3)
PLANES = ("encoder.stages.0.0.convs.0.conv", "encoder.stages.1.0.convs.0.conv", "decoder.stages.0.convs.0.conv",
          "decoder.stages.1.convs.0.conv")  # fmt: skip
"""The 1x3x3 convolutions of `network`, in its order."""


@pytest.fixture
def network() -> nn.Module:
    """nnU-Net's own network as it plans for thick slices: 1x3x3 on the first two levels, 3x3x3 below."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    torch.manual_seed(0)
    options = {"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True}, "nonlin": nn.LeakyReLU}
    kernels, strides = [[1, 3, 3], [1, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    made = PlainConvUNet(
        *(1, 3, [8, 8, 16], nn.Conv3d, kernels, strides, 1, 3, 1),
        conv_bias=True,
        nonlin_kwargs={"inplace": True},
        **options,
    )
    return made.eval()


@pytest.fixture
def patches() -> list[torch.Tensor]:
    """Three inputs (1, 1, 4, 16, 16), smooth within a slice as scans are."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(3, 1, 4, 4, 4, generator=generator)
    return list(functional.interpolate(coarse, size=(4, 16, 16), mode="trilinear").split(1))


def made_of(
    network: nn.Module, patches: list[torch.Tensor], settings: Redesign = FEW, progress: Progress | None = None
):
    return redesigned(from_module(network, name="small"), [CalibrationBatch((x,)) for x in patches], settings, progress)


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.sampled_from([(1, 3, 3), (3, 1, 3), (3, 3, 1), (1, 5, 3)]),
    stride=st.tuples(*[st.integers(1, 3)] * 3),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    size=st.tuples(*[st.integers(3, 9)] * 3),
)
def test_the_fit_is_that_of_least_squares_at_the_centres(kernel, stride, dilation, groups, bias, size) -> None:
    """Against numpy's own solver, on centre inputs taken one by one, and by the residual of the layer itself."""
    torch.manual_seed(0)
    padding = tuple(dilation * (k // 2) for k in kernel)
    layer = nn.Conv3d(4, 6, kernel, stride, padding, dilation, groups, bias)
    assert reads_one_plane(layer)
    inputs = [torch.randn(2, 4, *size).cumsum(-1) for _ in range(2)]
    with torch.no_grad():
        wanted = [layer(x) for x in inputs]
        made, told = fit_pointwise(layer, inputs, wanted)
        found = [made(x) for x in inputs]
    assert [one.shape for one in found] == [one.shape for one in wanted]
    left = sum(float((a - b).square().sum()) for a, b in zip(found, wanted, strict=True))
    whole = sum(float(one.square().sum()) for one in wanted)
    assert told.fit_error == pytest.approx((left / whole) ** 0.5, rel=1e-3, abs=1e-4)
    assert told.fit_error <= told.centre_error + 1e-6 and told.kernel == kernel
    best = 0.0
    for group in range(groups):
        rows, targets = [], []
        for x, y in zip(inputs, wanted, strict=True):
            for place in np.ndindex(*y.shape[2:]):
                at = tuple(i * s for i, s in zip(place, stride, strict=True))
                for one in range(len(x)):
                    own = x[(one, slice(2 * group, 2 * group + 2) if groups == 2 else slice(None), *at)].numpy()
                    rows.append(np.append(own, [1.0] * bias))
                    share = 6 // groups
                    targets.append(y[(one, slice(group * share, (group + 1) * share), *place)].numpy())
        a, b = np.array(rows, float), np.array(targets, float)
        solution = np.linalg.lstsq(a, b, rcond=None)[0]
        best += float(((a @ solution - b) ** 2).sum())
    assert left == pytest.approx(best, rel=1e-3, abs=1e-3 * whole)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv3d(2, 2, 3, padding=1),
        nn.Conv3d(2, 2, 1),
        nn.Conv3d(2, 2, (1, 1, 1)),
        nn.Conv3d(2, 2, (1, 3, 3)),  # loses a border
        nn.Conv3d(2, 2, (1, 2, 2), (1, 2, 2)),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.ConvTranspose3d(2, 2, (1, 3, 3), padding=(0, 1, 1)),
    ],
    ids=["cube", "point", "named-point", "no-padding", "even", "flat", "transposed"],
)
def test_other_layers_stay(module: nn.Module) -> None:
    assert not reads_one_plane(module)


def test_divergence_is_that_of_the_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    found, wanted = (torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    p, q = wanted.softmax(1), found.softmax(1)
    one = torch.distributions.kl_divergence(
        torch.distributions.Categorical(p.movedim(1, -1)), torch.distributions.Categorical(q.movedim(1, -1))
    )
    assert float(divergence(found, wanted, exclusive=True)) == pytest.approx(float(one.mean()))
    two = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(logits=wanted), torch.distributions.Bernoulli(logits=found)
    )
    assert float(divergence(found, wanted, exclusive=False)) == pytest.approx(float(two.mean()))
    assert float(divergence(wanted, wanted, exclusive=True)) == pytest.approx(0.0, abs=1e-12)


def test_training_brings_it_nearer_and_is_the_same_twice(network: nn.Module, patches: list[torch.Tensor]) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    longer = replace(FEW, steps=40)
    made, told = made_of(network, patches, longer)
    assert made.name == "small redesigned" and tuple(told.layers) == PLANES
    assert not any(reads_one_plane(module) for module in made.network.modules())
    assert len(told.losses) == 40 and sum(told.losses[-8:]) < 0.8 * sum(told.losses[:8])
    assert (told.inputs, told.held_out) == (2, 1) and all(e.fit_error < e.centre_error for e in told.layers.values())
    fitted = made_of(network, patches, replace(FEW, steps=0))[1]
    assert fitted.losses == () and fitted.dsc == fitted.dsc_fitted == told.dsc_fitted and told.error < fitted.error
    with torch.inference_mode():  # the input that was held out: the second
        expected, found = network(patches[1]), made.network(patches[1])
    assert told.error == pytest.approx(float((found - expected).norm() / expected.norm()), rel=1e-4)
    masks = [output.argmax(1) for output in (expected, found)]
    dice = [2 * int(((masks[0] == n) & (masks[1] == n)).sum()) / int((masks[0] == n).sum() + (masks[1] == n).sum())
            for n in (1, 2) if int((masks[0] == n).sum() + (masks[1] == n).sum())]  # fmt: skip
    assert told.dsc == pytest.approx(sum(dice) / len(dice))
    again, retold = made_of(network, patches, longer)
    assert retold == told
    assert all(torch.equal(a, b) for a, b in zip(made.network.parameters(), again.network.parameters(), strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(p.requires_grad for p in made.network.parameters())
    other = made_of(network, patches, replace(longer, seed=1))[1]
    assert other.losses != told.losses


@pytest.mark.parametrize("bits", [None, 4], ids=["weights", "both"])
def test_it_is_quantized_stored_and_opened_as_a_different_model(
    bits: int | None, network: nn.Module, patches: list[torch.Tensor], quantized: Quantize, tmp_path: Path
) -> None:
    activations = bits and IntActivations(bits=bits, granularity=Adaptive(), mode="dynamic")
    recipe = Recipe(weights=IntWeights(8), activations=activations, method="rtn", redesign=FEW)
    assert Recipe.from_json(recipe.to_json()) == recipe and "a different model" in recipe.describe()
    made = quantized(network, patches, recipe)
    assert made.name == "small redesigned W8" + ("A4" if bits else "")
    told = made.report.redesign
    assert told.describe().startswith("A different model: 4 convolutions of 1x3x3 of small became 1x1x1")
    assert f"{told.dsc:.3f} against small's on calibration inputs it was not trained on" in told.describe()
    assert made.provenance.redesign == told.describe()
    shapes = {layer.name: layer.shape for layer in made.report.layers}
    assert all(shapes[name][2:] == (1, 1, 1) for name in PLANES)
    with torch.inference_mode():
        output = made.model.network(patches[1])
    made.save(tmp_path / "r.mq.safetensors")
    opened = artifact.load(tmp_path / "r.mq.safetensors", model=from_module(network, name="small"))
    with torch.inference_mode():
        assert torch.equal(opened.model.network(patches[1]), output)
    assert opened.name == made.name and opened.model.name == "small redesigned"
    assert opened.report.redesign == told and opened.provenance == made.provenance and opened.recipe == recipe
    # The network that was given has its planes still.
    assert sum(reads_one_plane(module) for module in network.modules()) == len(PLANES)


def test_a_report_and_a_card_say_that_it_is_a_different_model(
    network: nn.Module, quantized: Quantize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medquant import compare, segment
    from medquant.evaluation.facts import facts_of
    from medquant.evaluation.report import write_report

    generator = torch.Generator().manual_seed(0)
    volume = Volume(torch.randn(4, 16, 16, generator=generator).numpy(), torch.eye(4).numpy())
    monkeypatch.setattr("medquant.deploy.export.example._scan", lambda: volume)
    inputs = [torch.from_numpy(volume.array.copy())[None, None]]
    made = quantized(network, inputs, Recipe(method="rtn", redesign=FEW), roi_size=(4, 16, 16))
    assert made.report.redesign.held_out == 0 and "on an input it was trained on" in made.report.redesign.describe()
    export(made, tmp_path / "out", "onnx")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**A different model: 4 convolutions of 1x3x3" in card and card.startswith("# small redesigned W4")
    original = from_module(network, name="small", roi_size=(4, 16, 16))
    found = [segment(one, volume) for one in (original, made)]
    compared = compare(found, facts=[facts_of(original), facts_of(made)])
    assert list(short_names(compared.summary).values())[1] == "redesigned W4"
    for layers in ({made.name: made.report}, {}):
        page = write_report(tmp_path / "r.html", compared, found, layers=layers).read_text()
        assert "<b>redesigned W4.</b> A different model: " in page


def test_patterns_choose_and_what_cannot_be_done_is_told(network: nn.Module, patches: list[torch.Tensor]) -> None:
    made, told = made_of(network, patches[:1], replace(FEW, layers=("encoder.*",)))
    assert tuple(told.layers) == PLANES[:2] and told.held_out == 0
    assert reads_one_plane(made.network.get_submodule(PLANES[2]))
    with pytest.raises(UserError, match=r"No convolution of 1x3x3 is called head\. Choose among encoder"):
        made_of(network, patches, Redesign(("head",)))
    cubes = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 2, 1))
    with pytest.raises(UserError, match=r"no convolution that reads one plane only.* Leave the redesign out"):
        made_of(cubes, patches)
    for wrong in ({"layers": ()}, {"steps": -1}, {"steps": 1.5}, {"learning_rate": 0.0}):
        with pytest.raises(UserError):
            Redesign(**wrong)
    with pytest.raises(UserError, match="unknown entries: epochs"):
        Recipe.from_dict({"redesign": {"epochs": 3}})


def test_it_reports_itself_and_stops(network: nn.Module, patches: list[torch.Tensor]) -> None:
    seen = []
    made_of(network, patches, FEW, Progress(seen.append))
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert sum("Training" in event.message for event in seen) == FEW.steps
    steps = []

    def during_training() -> bool:
        return bool(steps) and "step 3" in steps[-1].message

    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(Cancelled):
        made_of(network, patches, FEW, Progress(steps.append, during_training))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_pointwise_keeps_channels_groups_stride_and_bias() -> None:
    layer = nn.Conv3d(4, 6, (1, 3, 3), (1, 2, 2), (0, 1, 1), groups=2, bias=False)
    made, x = pointwise(layer), torch.randn(1, 4, 3, 7, 8)
    assert made.bias is None and made.groups == 2 and made(x).shape == layer(x).shape

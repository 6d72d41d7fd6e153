"""Real networks compute what they did after every rewrite, trained or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from medquant import load_model
from medquant.embedded.phantom import make_phantom
from medquant.imaging.volume import Volume
from medquant.jobs import layer_jobs
from medquant.matrices import Layout
from medquant.models.base import CalibrationSelection
from medquant.network_edit import structural_twin
from medquant.observe import observe
from medquant.recipe import Recipe
from medquant.rewrites.apply import rewrite_network
from medquant.rewrites.rewritten import Rewritten
from medquant.rewrites.settings import LowRank, Rewrites, Rotation, Smoothing

EVERYTHING = Rewrites(True, Smoothing(), Rotation(), LowRank())
REWRITES = {
    "equalization": Rewrites(equalization=True),
    "smoothing": Rewrites(smoothing=Smoothing()),
    "rotation": Rewrites(rotation=Rotation()),
    "low-rank": Rewrites(low_rank=LowRank()),
    "everything": EVERYTHING,
}
EQUALIZED = {"PlainConvUNet": 8, "SwinUNETR": 8, "UNETR": 26, "embedded": 20, "embedded-nnunet": 12}
"""Layers of each network that are read through nothing but homogeneous functions, by its code."""
Case = tuple[nn.Module, list[Callable[[nn.Module], torch.Tensor]]]


def network_of(name: str) -> Case:
    """A network and what runs it (or a twin) on two inputs."""
    torch.manual_seed(0)
    if name.startswith("embedded"):
        model = load_model(name, device="cpu")
        array, _, _, affine = make_phantom(0, (6, 96, 96), (12.0, 4.0, 4.0))
        volume = Volume(array, affine, name="ct", modality="CT")
        batches = list(model.calibration_batches(volume, CalibrationSelection(count=2)))[:2]
        runs = [lambda twin, b=batch: model.forward_for_calibration(twin, *b.inputs) for batch in batches]
        return model.network, runs
    network, size = BUILD[name]()
    inputs = [torch.randn(1, 1, *size) for _ in range(2)]
    return network.eval(), [lambda twin, x=x: first(twin(x)) for x in inputs]


def first(output: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


def plain_conv_unet() -> tuple[nn.Module, tuple[int, ...]]:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    options: dict[str, Any] = {"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True, "eps": 1e-5}}
    options |= {"nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}}
    return PlainConvUNet(1, 3, [8, 16, 32], nn.Conv3d, 3, [1, 2, 2], 2, 3, 2, conv_bias=True, **options), (16, 16, 16)


def monai(name: str, *arguments: Any, size: tuple[int, ...], **options: Any) -> tuple[nn.Module, tuple[int, ...]]:
    from monai.networks import nets

    return getattr(nets, name)(*arguments, **options), size


BUILD = {
    "PlainConvUNet": plain_conv_unet,
    "SwinUNETR": lambda: monai(
        *("SwinUNETR", 1, 3),
        feature_size=12,
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 2, 4),
        spatial_dims=2,
        size=(64, 64),
    ),
    "UNETR": lambda: monai(
        *("UNETR", 1, 3, (32, 32, 32)), feature_size=8, hidden_size=24, mlp_dim=32, num_heads=2, size=(32, 32, 32)
    ),
}
cached = cache(network_of)


def rewritten(case: Case, wanted: Rewrites) -> tuple[nn.Module, dict[str, str], float]:
    """The twin, what was done, and by how much the outputs changed, relative to their largest value."""
    network, runs = case
    twin = structural_twin(network)
    forwards = [lambda run=run: run(twin) for run in runs]
    seen = observe(twin, forwards[0], variances=False)
    jobs, _ = layer_jobs(twin, seen, Recipe(), {})
    told = rewrite_network(twin, jobs, dict.fromkeys(jobs, wanted), forwards, seen.output, lambda *_: ())
    change = 0.0
    with torch.inference_mode():
        for run in runs:
            expected = run(network)
            change = max(change, float((run(twin) - expected).abs().max() / expected.abs().max()))
    return twin, told, change


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in ("PlainConvUNet", "SwinUNETR", "UNETR", "embedded") for kind in REWRITES),
        ("embedded-nnunet", "everything"),
    ],
)
def test_the_network_computes_what_it_did(name: str, kind: str) -> None:
    case = cached(name)
    before = {key: tensor.clone() for key, tensor in case[0].state_dict().items()}
    modules = [type(module) for module in case[0].modules()]
    twin, told, change = rewritten(case, REWRITES[kind])
    assert change < 1e-4
    assert [type(module) for module in case[0].modules()] == modules
    for key, tensor in case[0].state_dict().items():
        assert torch.equal(tensor, before[key])
    wrapped = {name for name, module in twin.named_modules() if isinstance(module, Rewritten)}
    layouts = {name: Layout.of(case[0].get_submodule(name)) for name in told}
    several = {name for name, layout in layouts.items() if layout.inputs > 1}
    even = {name for name, layout in layouts.items() if layout.inputs % 2 == 0}
    branched = {
        name
        for name, layout in layouts.items()
        if layout.groups == 1 and 8 * (layout.rows + layout.columns) < layout.rows * layout.columns
    }
    done = {"smoothing": several, "rotation": even, "low-rank": branched, "everything": several | branched}
    assert wrapped == done.get(kind, set())
    if REWRITES[kind].equalization:
        assert sum("equalized with" in words for words in told.values()) == EQUALIZED[name]


def test_pairs_of_nnunet_are_those_of_its_stages() -> None:
    """Every norm and the convolution that reads it, in a stage and on the way up; not where a skip reads it too."""
    _, told, _ = rewritten(cached("PlainConvUNet"), REWRITES["equalization"])
    pairs = {name: words.removeprefix("equalized with ") for name, words in told.items() if "equalized with" in words}
    encoder, decoder = "encoder.stages", "decoder.stages"
    assert pairs == {
        **{f"{encoder}.{n}.0.convs.1.conv": f"{encoder}.{n}.0.convs.0.norm" for n in range(3)},
        **{f"{decoder}.{n}.convs.1.conv": f"{decoder}.{n}.convs.0.norm" for n in range(2)},
        "decoder.transpconvs.0": "encoder.stages.2.0.convs.1.norm",
        "decoder.transpconvs.1": "decoder.stages.0.convs.1.norm",
        "decoder.seg_layers.1": "decoder.stages.1.convs.1.norm",
    }

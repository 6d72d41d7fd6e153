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


@pytest.mark.parametrize("kind", REWRITES)
@pytest.mark.parametrize("name", ["PlainConvUNet", "SwinUNETR", "UNETR", "embedded", "embedded-nnunet"])
def test_the_network_computes_what_it_did(name: str, kind: str) -> None:
    case = cached(name)
    before = {key: tensor.clone() for key, tensor in case[0].state_dict().items()}
    modules = [type(module) for module in case[0].modules()]
    twin, told, change = rewritten(case, REWRITES[kind])
    assert change < 1e-4
    assert [type(module) for module in case[0].modules()] == modules
    for key, tensor in case[0].state_dict().items():
        assert torch.equal(tensor, before[key])
    wrapped = [module for module in twin.modules() if isinstance(module, Rewritten)]
    expected = {"smoothing": "smoothed by", "rotation": "rotated by", "low-rank": "rank 4 in", "everything": "rotated"}
    done = [name for name, words in told.items() if expected.get(kind, "equalized with") in words]
    assert len(done) >= {"PlainConvUNet": 4, "SwinUNETR": 2, "UNETR": 6, "embedded": 4, "embedded-nnunet": 4}[name] // 2
    if kind == "equalization":
        assert not wrapped
    elif kind != "everything":
        assert len(wrapped) == len(done)


def test_pairs_of_nnunet_are_those_of_its_stages() -> None:
    """Every norm and the convolution after it, in a stage and into the next; not across skips and to the heads."""
    _, told, _ = rewritten(cached("PlainConvUNet"), REWRITES["equalization"])
    pairs = {name: words.removeprefix("equalized with ") for name, words in told.items() if "equalized with" in words}
    assert pairs
    for layer, norm in pairs.items():
        assert layer.endswith("conv") or "transpconvs" in layer or "seg_layers" in layer
        assert norm.endswith("norm")
    assert all(f"stages.{n}." in name for n in (0, 1) for name in pairs if "encoder" in name and f"stages.{n}." in name)

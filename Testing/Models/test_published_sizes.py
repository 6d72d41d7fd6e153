"""Networks with published weights: names, shapes and sizes as published."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import pytest
import torch
from monai.networks import nets
from monai.networks.nets import UNETR, SwinUNETR
from torch import nn

from medquant.models.networks.medformer import MedFormer
from medquant.models.networks.segformer3d import SegFormer3D
from medquant.models.networks.stunet import SIZES, STUNet
from medquant.models.networks.transunet import TransUNet
from medquant.models.networks.unest import UNesT
from medquant.models.networks.vista3d import AutomaticVISTA3D, whole_vista3d
from medquant.models.published import ARCHITECTURES, VISTA3D_CLASSES

STRIDES = [[2, 2, 2]] * 4 + [[1, 1, 2]]

# Digests of the sorted lines "name (shape)" of the authors' own networks, and their numbers of parameters, made with
# their code on the device "meta": github.com/uni-medical/STU-Net 0652eaf (nnUNet-2.2), OSUPCVLab/SegFormer3D 9d2fa50,
# Beckschen/TransUNet 02ef001 (R50-ViT-B_16), yhygao/CBIM-Medical-Image-Segmentation 7c26979 (bcv/medformer_3d.yaml),
# MASILab/UNesT 75386be (multiorganSeg, its `dimensions=` of MONAI renamed).
AUTHORS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "STU-Net-S": (lambda: stunet("small"), "bb43c83d2d9b9bd2", 14_596_941),
    "STU-Net-B": (lambda: stunet("base"), "ed25cceec0d85b5a", 58_262_669),
    "STU-Net-L": (lambda: stunet("large"), "cc309d2ac7ca3937", 440_302_605),
    "STU-Net-H": (lambda: stunet("huge"), "7b0499b6e2f5746a", 1_457_326_221),
    "SegFormer3D": (SegFormer3D, "2a5d3b8be140cac2", 4_525_251),
    "TransUNet": (lambda: TransUNet(9), "d75cb51c4e8524c2", 105_277_081),
    "MedFormer": (lambda: MedFormer(1, 14, auxiliary=True), "ca2d2bf660950443", 36_669_180),
    "UNesT-S": (lambda: UNesT(14, widths=(64, 128, 256), heads=(2, 4, 8)), "d1a77555442d1137", 22_400_239),
    "UNesT-B": (lambda: UNesT(14), "a3be12a5b267d133", 87_201_231),
    "UNesT-L": (
        lambda: UNesT(14, widths=(192, 384, 768), heads=(6, 12, 24), depths=(2, 2, 20)),
        "1b97a356873ca7a9",
        279_457_455,
    ),
}


def stunet(size: str) -> STUNet:
    depth, width = SIZES[size]
    return STUNet(1, 105, depth=depth, width=width, strides=STRIDES)


def digest(state: Mapping[str, torch.Tensor]) -> str:
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in kept.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", AUTHORS)
def test_names_shapes_and_parameters_are_the_authors(name: str) -> None:
    build, known, count = AUTHORS[name]
    with torch.device("meta"):
        network = build()
    assert digest(network.state_dict()) == known
    assert parameters(network) == count


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("STU-Net-S", "14.6"),
        ("STU-Net-B", "58.26"),
        ("STU-Net-L", "440.30"),
        ("STU-Net-H", "1457.33"),
        ("SegFormer3D", "4.5"),
    ],
)
def test_parameters_in_millions_as_the_papers_print_them(name: str, published: str) -> None:
    digits = len(published.partition(".")[2])
    assert f"{AUTHORS[name][2] / 1e6:.{digits}f}" == published


@pytest.mark.parametrize(("features", "published"), [(12, 4.1), (24, 15.7), (48, 62.2)])
def test_swin_unetr_has_the_benchmarks_sizes(features: int, published: float) -> None:
    assert round(parameters(SwinUNETR(1, 14, feature_size=features)) / 1e6, 1) == published


def test_arguments_of_the_published_sizes_are_read_off_their_shapes() -> None:
    """Each network is built anew from what its own shapes say, and has the same names and shapes."""
    networks = {"segformer3d": SegFormer3D, "transunet": lambda: TransUNet(9), "unest": lambda: UNesT(133)}
    networks["medformer"] = lambda: MedFormer(1, 14, auxiliary=True)
    networks["unetr"] = lambda: UNETR(1, 14, (96, 96, 96), feature_size=16)
    for name, build in networks.items():
        kind = ARCHITECTURES[name]
        with torch.device("meta"):
            state = kind.convert(build().state_dict()) if name != "transunet" else build().state_dict()
            again = kind.build(kind.arguments(state))
        assert digest(again.state_dict()) == digest(state), name


def test_vista3d_keeps_only_what_automatic_segmentation_needs() -> None:
    with torch.device("meta"):
        whole, automatic = whole_vista3d(48), AutomaticVISTA3D(len(VISTA3D_CLASSES))
    assert parameters(whole) == 217_964_982
    left_out = parameters(whole.point_head) + parameters(whole.image_encoder.up_layers)
    head = parameters(whole.class_head) - parameters(whole.class_head.image_post_mapping)
    assert parameters(automatic) == parameters(whole) - left_out - head + 48 * len(VISTA3D_CLASSES)


COUNTED: dict[str, tuple[Callable[[], nn.Module], int, float]] = {
    # Our parameters as docs/models.md tells them, and megabytes of FP32 weights in MedQuanBench, Table 5.
    "U-Net": (lambda: nets.BasicUNet(3, 1, 14), 5_749_806, 23.11),
    "SegResNet": (
        lambda: nets.SegResNet(3, 48, 1, 118, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1)),
        42_290_950,
        170.44,
    ),
    # Millions of parameters, times four bytes: the table of UNesT's repository, for 96^3 patches.
    "nnU-Net": (
        lambda: nets.DynUNet(3, 1, 14, [3] * 6, [1, 2, 2, 2, 2, (1, 2, 2)], [2, 2, 2, 2, (1, 2, 2)]),
        30_780_206,
        4 * 30.7,
    ),
    "UNETR": (lambda: nets.UNETR(1, 14, (96, 96, 96)), 92_802_478, 4 * 92.6),
    "UNesT-B": (lambda: UNesT(133), 87_205_158, 4 * 87.3),
}


@pytest.mark.parametrize("name", COUNTED)
def test_sizes_are_those_told_and_within_a_hundredth_of_those_measured(name: str) -> None:
    build, count, megabytes = COUNTED[name]
    with torch.device("meta"):
        network = build()
    assert parameters(network) == count
    assert 4e-6 * count == pytest.approx(megabytes, rel=0.01)

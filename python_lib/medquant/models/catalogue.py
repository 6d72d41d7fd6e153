"""The models that can be named: what each is for, how large it is, and whether it is on this machine."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medquant.models import hub

EMBEDDED_WEIGHTS = Path(__file__).resolve().parents[1] / "embedded" / "weights"
EMBEDDED_PROMPTABLE = EMBEDDED_WEIGHTS / "promptable"
EMBEDDED_NNUNET = EMBEDDED_WEIGHTS / "nnunet" / "Dataset900_PhantomAbdomen" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
EMBEDDED_UNETR = EMBEDDED_WEIGHTS / "unetr"
EMBEDDED_DIFFUSION = EMBEDDED_WEIGHTS / "diffusion"
"""Not a model to segment with: `medquant bench generation` measures it."""
SAM_FILES = {
    "sam-vit-b": "sam_vit_b_01ec64.pth",
    "sam-vit-l": "sam_vit_l_0b3195.pth",
    "sam-vit-h": "sam_vit_h_4b8939.pth",
}
AUTHORS_FILES = {
    "medsam2": "MedSAM2_latest.pt or another of the authors' files",
    "stunet": "base_ep4k.model or another of the authors' files, or a results folder of nnU-Net version 2",
    "published": "the authors' checkpoint",
}
"""What a name of a network with published weights needs; "published:NAME" for those of `PUBLISHED_NETWORKS`."""
PUBLISHED_NETWORKS = {
    "swinunetr": "SwinUNETR",
    "unetr": "UNETR",
    "unest": "UNesT",
    "medformer": "MedFormer",
    "segformer3d": "SegFormer3D",
    "transunet": "TransUNet",
    "vista3d": "VISTA3D",
}
STUNET_SUFFIX = ".model"
MONAI_NETWORKS = ("UNet", "DynUNet", "SegResNet", "UNETR", "SwinUNETR", "AttentionUnet", "BasicUNet", "VNet")
DEMONSTRATES = {
    "embedded": "A small model for demonstration, trained on procedural images only. It diagnoses nothing.",
    "embedded-nnunet": "A small nnU-Net for demonstration, trained on procedural phantoms only. It diagnoses nothing.",
    "embedded-unetr": "A small UNETR for demonstration, trained on procedural phantoms only. It diagnoses nothing.",
}
"""What is said of the embedded models wherever their masks are shown."""


@dataclass(frozen=True)
class ModelEntry:
    """One line of `medquant models`."""

    name: str
    """What `load_model` takes."""
    family: str
    title: str
    task: str
    modality: str
    prompt: str
    """Either "box", or "none" for models that find the structures themselves."""
    parameters: int | None = None
    """None: depends on the weights."""
    bytes_on_disk: int | None = None
    """Of the weight files where they are on this machine, else of the published ones; None: depends on the weights."""
    licence: str = "that of your weights"
    offline: bool = False
    """Whether the weights are on this machine already."""
    needs: str = ""
    """What the user has to give, in words; empty: nothing."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def list_models() -> list[ModelEntry]:
    """Every model that `load_model` knows by name."""
    return [*_embedded(), *_sam_family(), *_published(), *_trained_by_the_user()]


def _embedded() -> list[ModelEntry]:
    promptable, bytes_promptable = _size_of(EMBEDDED_PROMPTABLE)
    automatic, bytes_automatic = _size_of(EMBEDDED_NNUNET)
    hybrid, bytes_hybrid = _size_of(EMBEDDED_UNETR)
    return [
        ModelEntry(
            name="embedded",
            family="medsam",
            title="Small promptable model",
            task="demonstration: any organ in a box",
            modality="CT, MR",
            prompt="box",
            parameters=promptable,
            bytes_on_disk=bytes_promptable,
            licence="Apache-2.0",
            offline=EMBEDDED_PROMPTABLE.is_dir(),
        ),
        ModelEntry(
            name="embedded-nnunet",
            family="nnunet",
            title="nnU-Net trained on phantoms",
            task="demonstration: abdominal organs of the phantom",
            modality="CT",
            prompt="none",
            parameters=automatic,
            bytes_on_disk=bytes_automatic,
            licence="Apache-2.0",
            offline=EMBEDDED_NNUNET.is_dir(),
        ),
        ModelEntry(
            name="embedded-unetr",
            family="monai",
            title="UNETR trained on phantoms",
            task="demonstration: abdominal organs of the phantom",
            modality="CT",
            prompt="none",
            parameters=hybrid,
            bytes_on_disk=bytes_hybrid,
            licence="Apache-2.0",
            offline=EMBEDDED_UNETR.is_dir(),
        ),
    ]


def _sam_family() -> list[ModelEntry]:
    here = hub.medsam_folder() is not None
    medsam = ModelEntry(
        name="medsam",
        family="medsam",
        title="MedSAM ViT-B",
        task="any structure in a box",
        modality="CT, MR, other",
        prompt="box",
        parameters=93_735_472,
        bytes_on_disk=375_049_145,
        licence="Apache-2.0",
        offline=here,
        needs="" if here else f"a download of 375 MB, or {hub.ORIGINAL_FILE} as weights",
    )
    published = {
        "sam-vit-b": ("Segment Anything ViT-B", 93_735_472, 375_042_383),
        "sam-vit-l": ("Segment Anything ViT-L", 312_342_832, 1_249_524_607),
        "sam-vit-h": ("Segment Anything ViT-H", 641_090_608, 2_564_550_879),
    }
    return [medsam] + [
        ModelEntry(
            name=name,
            family="medsam",
            title=title,
            task="any object in a box, trained on photographs",
            modality="any",
            prompt="box",
            parameters=parameters,
            bytes_on_disk=size,
            licence="Apache-2.0",
            needs=f"{SAM_FILES[name]} as weights",
        )
        for name, (title, parameters, size) in published.items()
    ]


def _published() -> list[ModelEntry]:
    medsam2 = ModelEntry(
        name="medsam2",
        family="medsam2",
        title="MedSAM2 (SAM 2.1 tiny), single slices",
        task="any structure in a box",
        modality="CT, MR, other",
        prompt="box",
        parameters=31_440_721,
        licence="Apache-2.0",
        needs=f"{AUTHORS_FILES['medsam2']} as weights",
    )
    stunet = ModelEntry(
        name="stunet",
        family="nnunet",
        title="STU-Net (small, base, large, huge)",
        task="104 structures of the whole body, or what it was trained for",
        modality="CT",
        prompt="none",
        licence="Apache-2.0",
        needs=f"{AUTHORS_FILES['stunet']} as weights",
    )
    trained = {"task": "what it was trained for", "modality": "what it was trained on", "prompt": "none"}
    return [medsam2, stunet] + [
        ModelEntry(f"published:{name}", "published", title, **trained, needs=f"{AUTHORS_FILES['published']} as weights")
        for name, title in PUBLISHED_NETWORKS.items()
    ]


def _trained_by_the_user() -> list[ModelEntry]:
    trained = {"task": "what it was trained for", "modality": "what it was trained on", "prompt": "none"}
    nnunet = ModelEntry("nnunet", "nnunet", "nnU-Net v2", **trained, needs="a results folder as weights")
    return [nnunet] + [
        ModelEntry(
            f"monai:{name}", "monai", f"MONAI {name}", **trained, needs="a state dict as weights, and its arguments"
        )
        for name in MONAI_NETWORKS
    ]


def _size_of(folder: Path) -> tuple[int | None, int | None]:
    """Parameters (where a header tells them) and bytes of the weights in a folder; None where there are none."""
    file = folder / "model.safetensors"
    if file.is_file():
        from safetensors import safe_open

        with safe_open(file, framework="np") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118 - not a mapping
        return sum(math.prod(shape) for shape in shapes), file.stat().st_size
    return None, sum(f.stat().st_size for f in folder.glob("fold_*/checkpoint_*.pth")) or None

"""The models that there are before the engine could be asked: what an installation brings, and MedSAM."""

from __future__ import annotations

from MedQuantSlicerLib.state import ModelLine

KNOWN_MODELS = (
    ModelLine(
        spec="embedded",
        title="Small promptable model",
        task="demonstration: any organ in a box",
        needs_box=True,
        modality="CT, MR",
        size="15 MB",
        licence="Apache-2.0",
        is_demo=True,
    ),
    ModelLine(
        spec="embedded-nnunet",
        title="nnU-Net trained on phantoms",
        task="demonstration: abdominal organs of the phantom",
        needs_box=False,
        modality="CT",
        size="9.7 MB",
        licence="Apache-2.0",
        is_demo=True,
    ),
    ModelLine(
        spec="embedded-unetr",
        title="UNETR trained on phantoms",
        task="demonstration: abdominal organs of the phantom",
        needs_box=False,
        modality="CT",
        size="5.7 MB",
        licence="Apache-2.0",
        is_demo=True,
    ),
    ModelLine(
        spec="medsam",
        title="MedSAM ViT-B",
        task="any structure in a box",
        needs_box=True,
        modality="CT, MR, other",
        size="375 MB",
        licence="Apache-2.0",
        present=False,
        needs="a download of 375 MB, or medsam_vit_b.pth as weights",
        can_download=True,
    ),
)

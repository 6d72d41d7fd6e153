"""A real network that is tiny and untrained, and scans that it takes: cells that are computed in a moment."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from medquant.bench.medquanbench.subjects import FileCase, Subject
from medquant.bench.networks import NamedNetwork
from medquant.embedded.phantom import make_phantom
from medquant.imaging.volume import Volume
from medquant.imaging.writing import save_segmentation, write_volume
from medquant.models.monai_networks import build_network
from medquant.segmentation import Segmentation, Structure

ARGUMENTS = {"out_channels": 4, "channels": [4, 8], "strides": [2], "norm": "batch"}
NAMES = ("spleen", "right kidney", "liver")
MEASURED = ("seconds", "runtime_seconds", "quantize_seconds", "bytes")
"""What differs from run to run; a quantized file holds the time that it was made in, to a digit more or less."""


def small_network(folder: Path) -> NamedNetwork:
    """MONAI's UNet with weights of a seed."""
    torch.manual_seed(0)
    weights = folder / "unet.pt"
    torch.save(build_network("UNet", ARGUMENTS).state_dict(), weights)
    options = {"arguments": ARGUMENTS, "roi_size": [16, 16, 16], "preprocessing": {"intensity": "zscore"}}
    options["labels"] = {name: number for number, name in enumerate(NAMES, start=1)}
    return NamedNetwork("monai:UNet", str(weights), json.dumps(options))


def small_scans(folder: Path, count: int = 3) -> tuple[FileCase, ...]:
    """Coarse phantoms with labels that the network knows."""
    found = []
    for seed in range(count):
        array, labels, _, affine = make_phantom(seed, (8, 20, 20), (15.0, 18.0, 18.0))
        volume = Volume(array, affine, name=f"scan{seed}", modality="CT")
        known = np.select([labels == 1, labels == 2, labels == 5], [1, 2, 3]).astype(np.uint8)
        structures = tuple(Structure(number, name) for number, name in enumerate(NAMES, start=1))
        write_volume(volume, folder / f"scan{seed}.nii.gz")
        save_segmentation(Segmentation(known, volume, structures), folder / f"labels{seed}.seg.nrrd")
        found.append(FileCase(folder / f"scan{seed}.nii.gz", folder / f"labels{seed}.seg.nrrd"))
    return tuple(found)


def a_subject(folder: Path, count: int = 3) -> Subject:
    """The first scan calibrates, the others test."""
    scans = small_scans(folder, count)
    return Subject(small_network(folder), scans[:1], scans[1:], inputs=2)


def scores(rows: list[dict]) -> list[dict]:
    """The rows without what differs from run to run."""
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]

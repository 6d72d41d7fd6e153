"""Tables 1 and 2 of Permutation-COMQ in small: a real SAM that is tiny and untrained, and coarse phantoms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_subject import NAMES, small_scans

from medquant.bench.networks import NamedNetwork
from medquant.bench.permutation_comq.material import Material
from medquant.datasets import Case


def small_sam(folder: Path, tiny_sam: Callable[[], Any]) -> NamedNetwork:
    """A folder saved by transformers; the library's own start is too near zero to show anything."""
    model = tiny_sam()
    for parameter in model.vision_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder / "sam")
    return NamedNetwork(str(folder / "sam"))


def small_material(folder: Path, count: int = 3) -> Material:
    """The first phantom calibrates, the others test."""
    scans = small_scans(folder, count)
    names = dict(enumerate(NAMES, start=1))
    cases = [Case(scan.name, scan.image, names, labels=scan.labels) for scan in scans[1:]]
    return Material("phantoms", cases, scans[0].name, scans[0].image)

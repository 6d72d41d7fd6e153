"""A small real nnU-Net, trained on phantoms by nnunetv2 itself: for demonstration, never for diagnosis.

`train` makes the results folder that travels with the package; `evaluate` (also `python -m
medquant.embedded.nnunet_demo.evaluate`) measures it.
"""

from __future__ import annotations

from pathlib import Path

from medquant.embedded.nnunet_demo.training import train

__all__ = ["results_folder", "train"]


def results_folder() -> Path:
    """The results folder that comes with the package, in nnunetv2's own layout."""
    from medquant.embedded.nnunet_demo.layout import DATASET, MODEL

    return Path(__file__).parents[1] / "weights" / "nnunet" / DATASET / MODEL

"""How long it takes to find the sensitive layers: three networks, by masks and by the proxy.

The networks of full size have random weights, whose effects mean nothing: only the time is told of them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from medquant.bench.footprint import random_vit_b
from medquant.bench.pipeline_model import write_model
from medquant.embedded.phantom import make_phantom
from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.memory import PeakMemory
from medquant.models.base import Model
from medquant.models.registry import load_model
from medquant.progress import CancelCheck, Progress, ProgressCallback
from medquant.sensitivity.effects import View
from medquant.sensitivity.layers import sensitivity


@dataclass(frozen=True)
class Row:
    """One network and view, on one slice or patch."""

    network: str
    parameters: int
    view: str
    layers: int
    cells: int
    """Layers times numbers of bits (2, 4 and 8)."""
    seconds: float
    first_cell_seconds: float
    """Until the map begins to fill."""
    peak_memory_mb: float
    threads: int


def _embedded() -> Model:
    return load_model("embedded")


def _nnunet() -> Model:
    with tempfile.TemporaryDirectory() as folder:
        return load_model("nnunet", weights=write_model(Path(folder) / "results"))


NETWORKS: dict[str, tuple[Callable[[], Model], Sequence[View]]] = {
    "embedded": (_embedded, ("one-at-a-time",)),
    "nnunet": (_nnunet, ("one-at-a-time",)),
    "sam-vit-b": (random_vit_b, ("proxy", "one-at-a-time")),
}


def run(
    *,
    networks: Sequence[str] = tuple(NETWORKS),
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
) -> list[dict[str, Any]]:
    """A row of `Row` for each of `networks` and view. Raises `UserError` for an unknown one."""
    unknown = [name for name in networks if name not in NETWORKS]
    if unknown:
        raise UserError(f"Unknown network {unknown[0]!r}. Choose among {', '.join(NETWORKS)}.")
    tracker = Progress(progress, cancelled)
    tracker.report(0.0, "Making the phantom")
    array, _, _, affine = make_phantom()
    volume = Volume(array, affine, "phantom", "CT")
    rows = []
    for number, name in enumerate(networks):
        make, views = NETWORKS[name]
        model = make()
        for place, view in enumerate(views):
            start = (number + place / len(views)) / len(networks)
            part = tracker.span(start, start + 1 / len(views) / len(networks))
            rows.append(asdict(_timed(name, model, view, volume, part)))
    return rows


def _timed(name: str, model: Model, view: View, volume: Volume, tracker: Progress) -> Row:
    told: list[float] = []
    began = time.perf_counter()
    with PeakMemory() as memory:
        found = sensitivity(
            model,
            volume,
            views=(view,),
            partial=lambda cell: told.append(time.perf_counter()),
            **tracker.callbacks(f"{name}, {view}"),
        )
    return Row(
        network=name,
        parameters=sum(parameter.numel() for parameter in model.network.parameters()),
        view=view,
        layers=len(found.layers),
        cells=len(found.cells),
        seconds=time.perf_counter() - began,
        first_cell_seconds=told[0] - began,
        peak_memory_mb=memory.peak_mb,
        threads=torch.get_num_threads(),
    )

"""Masks of a scan, told slice by slice as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from medquant.errors import UserError
from medquant.evaluation import wording
from medquant.worker import measured
from medquant.worker.arrays import told_of, write_array
from medquant.worker.work import Work

if TYPE_CHECKING:
    from medquant.imaging.volume import Volume
    from medquant.prompts import Box, BoxPrompt
    from medquant.segmentation import Execution

SECONDS_BETWEEN_PARTS = 0.3


def segment(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """Segment `volume` with `model` (a name, a path or a handle).

    `boxes`: corners in LPS mm, for models that take them. `extent` "slice" takes the middle slice of each box only.
    `of` names the model that a handle was made from: what is measured is remembered under it.
    """
    from medquant.evaluation.facts import facts_of
    from medquant.models.base import device_of
    from medquant.models.sam_slices import slices_with_boxes
    from medquant.segment import segment as run_segment

    spec, ready = params["model"], work.part(0.0, 0.05)
    volume = work.warm.volume(work.folder, params["volume"])
    model = work.warm.model(spec, ready)
    adapter = getattr(model, "model", model)
    prompt = None
    if adapter.takes_boxes:
        prompt = prompt_of(params.get("boxes") or (), volume, params.get("plane"), params.get("extent", "box"))
    adapter.require_prompt(prompt, volume)
    model = work.warm.executed(spec, params.get("runtime") or "auto", ready)
    adapter = getattr(model, "model", model)
    known, parts, rest = getattr(adapter, "encoded", 0), _Parts(work, prompt), work.part(0.05, 1.0)
    found = run_segment(
        model,
        volume,
        prompt=prompt,
        progress=rest.callback,
        cancelled=rest.cancelled,
        partial=parts.add if prompt is not None else None,
    )
    parts.send()
    slices = len(slices_with_boxes(volume, prompt)) if prompt is not None else None
    facts = facts_of(model, device=device_of(adapter.network).type.upper())
    told = told_of(work.folder, "masks", found, facts)
    again = slices is not None and adapter.encoded - known < slices
    if not again and params.get("of"):
        pace = {"seconds": found.seconds / (slices or 1), "per": "slice" if slices else "scan"}
        measured.remember(params["of"], facts.recipe or measured.FP32, **pace)
    size = (facts.bytes_fp32 if facts.weight_bits == 32 else None) or facts.bytes_on_disk
    return {
        "mask": {**told, "bits": facts.weight_bits, "plane": params.get("plane") or "", "known_slices": again},
        "slices": slices,
        "seconds": found.seconds,
        "seconds_text": wording.seconds(found.seconds),
        "size_text": wording.size(size) if size else "",
        "memory_text": wording.memory(found.peak_memory_mb),
        **_execution(found.execution),
    }


def _execution(run: Execution) -> dict[str, str]:
    kernels = {None: "float32" if run.precision == "fp32" else run.precision, True: "simulated", False: "int8 kernels"}
    return {
        "kernels": kernels[run.simulated],
        "execution": run.describe(),
        "why": run.reason,
        "device": run.device,
    }


def prompt_of(boxes: Sequence[dict[str, Any]], volume: Volume, plane: str | None, extent: str) -> BoxPrompt | None:
    """Boxes of `{"name", "corners", "label"}`; those of one name share a label, others never do. None without any."""
    from medquant.prompts import BoxPrompt

    labels: dict[str, int] = {}
    placed = []
    for number, told in enumerate(boxes, start=1):
        name = told.get("name") or ("structure" if len(boxes) == 1 else f"structure {number}")
        wished, taken = int(told.get("label") or 1), set(labels.values())
        free = next(label for label in count(1) if label not in taken)
        label = labels.setdefault(name, free if wished in taken else wished)
        placed.append(_box(told["corners"], volume, name, label, plane or None, extent))
    return BoxPrompt(tuple(placed)) if placed else None


def _box(
    corners: Sequence[Sequence[float]], volume: Volume, name: str, label: int, plane: str | None, extent: str
) -> Box:
    """The voxels around any number of corners: exact for a box along the scan's axes, the bounding box for others."""
    from medquant.prompts import Box

    points = np.array([(*corner, 1.0) for corner in corners], dtype=float)
    if points.ndim != 2 or len(points) < 2 or points.shape[1] != 4 or not np.isfinite(points).all():
        raise UserError(f"The box {name} has no corners. Draw it again.")
    space = "world"
    if len(points) > 2:
        space, points = "ijk", np.linalg.solve(volume.affine, points.T).T
    lower, upper = (tuple(side[:3].tolist()) for side in (points.min(0), points.max(0)))
    box = Box(lower, upper, space, label, name, plane)
    return _middle(box, volume) if extent == "slice" else box


def _middle(box: Box, volume: Volume) -> Box:
    """The middle slice of a box."""
    from medquant.imaging.boxes import resolve_box

    lower, upper, axis = resolve_box(box, volume)
    along = 2 - axis
    middle = (lower[along] + upper[along]) // 2
    ends = [tuple(middle if place == along else at for place, at in enumerate(end)) for end in (lower, upper)]
    return replace(box, lower=ends[0], upper=ends[1], space="ijk")


class _Parts:
    """Slices of labels, gathered for a moment so that a fast model does not send hundreds of messages."""

    def __init__(self, work: Work, prompt: BoxPrompt | None) -> None:
        self._work, self._lock = work, threading.Lock()
        self._labels = {str(box.label): box.name for box in reversed(prompt.boxes)} if prompt else {}
        self._slices: list[tuple[np.ndarray, tuple[int, int, int]]] = []
        self._sent = 0.0

    def add(self, labels: np.ndarray, begin: tuple[int, int, int]) -> None:
        """One more slice."""
        with self._lock:
            self._slices.append((labels, begin))
            due = time.monotonic() - self._sent >= SECONDS_BETWEEN_PARTS
        if due:
            self.send()

    def send(self) -> None:
        """What has come since; slices that touch make one block."""
        with self._lock:
            slices, self._slices, self._sent = self._slices, [], time.monotonic()
        while slices and not self._work.cancelled:
            block, begin = slices.pop(0)
            axis = block.shape.index(1) if 1 in block.shape else 0
            while slices and _follows(slices[0], block, begin, axis):
                block = np.concatenate([block, slices.pop(0)[0]], axis)
            array = write_array(self._work.folder, "part", block)
            self._work.partial(masks={"array": array, "offset": list(begin), "labels": self._labels})


def _follows(
    item: tuple[np.ndarray, tuple[int, int, int]], block: np.ndarray, begin: tuple[int, int, int], axis: int
) -> bool:
    labels, place = item
    end = tuple(at + (block.shape[axis] if number == axis else 0) for number, at in enumerate(begin))
    others = [number for number in range(3) if number != axis]
    return labels.shape[axis] == 1 and place == end and all(labels.shape[n] == block.shape[n] for n in others)

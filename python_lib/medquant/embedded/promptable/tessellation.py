"""Tessellation scenes: bent Voronoi cells, some merged, with or without gaps between them."""

from __future__ import annotations

import numpy as np

from medquant.embedded.promptable.appearance import Palette, acquire, sample_noise
from medquant.embedded.promptable.shapes import Camera, compete


def tessellation(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, cells and (empty) details of one scene: uint8 (size, size) each."""
    half_width = rng.uniform(0.5, 1.2)
    camera = Camera.look(size, (0.0, 0.0), half_width, rng.uniform(0, 2 * np.pi))
    bent = camera.warped(rng, rng.uniform(0.02, 0.09))
    count = int(rng.integers(6, 40))
    points = rng.uniform(-1.25, 1.25, (count, 2)) * half_width
    typical = 2.5 * half_width / np.sqrt(count)
    fields = []
    for px, py in points:
        squared = (bent.x - np.float32(px)) ** 2 + (bent.y - np.float32(py)) ** 2
        fields.append((squared / np.float32(2 * typical)) - np.float32(typical * rng.uniform(0.5, 0.9)))
    cells = compete(fields)

    merged = np.arange(count + 1, dtype=np.uint8)
    for cell in range(1, count + 1):
        if rng.random() < 0.3:  # join the nearest cell: the outline turns non-convex
            distance = ((points - points[cell - 1]) ** 2).sum(1)
            merged[cell] = merged[1 + int(np.argsort(distance)[1])]
    labels = merged[cells.owner]
    gap = rng.choice([0.0, 0.0, rng.uniform(0.005, 0.06)])
    if gap:
        edge = _near_border(labels, cells.rivalry, gap)
        labels = np.where(edge, 0, labels).astype(np.uint8)

    palette = Palette.draw(rng)
    means = np.array([palette.organ(rng) for _ in range(count + 1)], np.float32)
    means[0] = palette.fat if rng.random() < 0.7 else palette.organ(rng)
    grey = means[labels]
    amplitude = rng.uniform(0, 0.05, count + 1).astype(np.float32)[labels]
    grey = grey + amplitude * sample_noise(rng, camera.x, camera.y, exponent=2.0, scale=rng.uniform(0.002, 0.012))
    wall = (cells.depth < rng.uniform(0.01, 0.04)) & (rng.random(count + 1) < 0.2)[labels]
    grey = np.where(wall, np.float32(palette.organ(rng)), grey)
    return acquire(rng, grey, camera.pitch, palette), labels, np.zeros_like(labels)


def _near_border(labels: np.ndarray, rivalry: np.ndarray, width: float) -> np.ndarray:
    """Pixels near a border between two different merged cells (borders inside a merged cell stay)."""
    near = rivalry < width
    reach = 3
    differs = np.zeros_like(near)
    for axis in (0, 1):
        for step in (-reach, reach):
            differs |= np.roll(labels, step, axis) != labels
    return near & differs

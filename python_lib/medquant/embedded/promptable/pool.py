"""Scenes kept in a memory-mapped file, and the batches of boxes and masks drawn from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medquant.embedded.promptable.scenes import SCENE_SIZE, make_scene

TARGETS = 8
RECENT = 1000  # batches are drawn from the latest scenes
SMALLEST_TARGET = 60  # pixels of a 256 x 256 image


@dataclass(frozen=True)
class Batch:
    """`images` (n, 1, s, s) in 0..1; `boxes` (n, 8, 4) in pixels of 256; `masks` (n, 8, s/2, s/2) in 0..1; `edges`."""

    images: torch.Tensor
    boxes: torch.Tensor
    masks: torch.Tensor
    edges: torch.Tensor


class ScenePool:
    """Scenes [seed, stream, 0], [seed, stream, 1], ... in a file that grows as training asks for more."""

    def __init__(self, path: Path, capacity: int, seed: int, stream: int) -> None:
        self.capacity, self.seed, self.stream = capacity, seed, stream
        shape = (capacity, 3, SCENE_SIZE, SCENE_SIZE)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.stat().st_size != np.prod(shape):
            path.unlink(missing_ok=True)
            self.store = np.memmap(path, np.uint8, "w+", shape=shape)
        else:
            self.store = np.memmap(path, np.uint8, "r+", shape=shape)
        self.count_path = path.with_suffix(".count")
        self.made = int(self.count_path.read_text()) if self.count_path.exists() else 0
        self.count = 0

    def grow(self, count: int, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Go on to scene `count`; of the latest ones, make those that the file lacks. False where it was stopped."""
        self.count = min(count, self.capacity)
        for index in range(max(self.made, self.count - RECENT), self.count):
            if stopped():
                return False
            scene = make_scene([self.seed, self.stream, index])
            self.store[index] = scene.image, scene.organs, scene.details
            self.made = index + 1
            self.count_path.write_text(str(self.made))
        return True

    def batch(self, rng: np.random.Generator, number: int, size: int) -> Batch:
        """`number` random scenes of the latest at `size` (256 or 128) pixels, each with eight boxes and their masks."""
        images, boxes, masks, edges = [], [], [], []
        while len(images) < number:
            scene = _turned(rng, self.store[rng.integers(max(0, self.count - RECENT), self.count)])
            targets = _targets(rng, scene)
            if targets is None:
                continue
            images.append(_shrink(_grey(rng, scene[0]), SCENE_SIZE // size))
            boxes.append(np.stack([_jittered(rng, _box_of(target)) for target in targets]))
            masks.append(_shrink(targets.astype(np.float32), 2 * SCENE_SIZE // size))
            edges.append(_edges(scene, 2 * SCENE_SIZE // size))
        return Batch(
            torch.from_numpy(np.stack(images))[:, None],
            torch.from_numpy(np.stack(boxes)),
            torch.from_numpy(np.stack(masks)),
            torch.from_numpy(np.stack(edges)),
        )


def _turned(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    if rng.random() < 0.5:
        scene = scene[:, :, ::-1]
    if rng.random() < 0.3:
        scene = scene[:, ::-1]
    return scene.transpose(0, 2, 1) if rng.random() < 0.2 else scene


def _grey(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Grey values 0..1 with a slightly different window and gamma at each visit."""
    table = np.linspace(0, 1, 256, dtype=np.float32)
    table = np.clip((table - 0.5) * np.exp(rng.normal(0, 0.12)) + 0.5 + rng.normal(0, 0.04), 0, 1)
    table **= np.exp(rng.normal(0, 0.12))
    return table.astype(np.float32)[image]


def _targets(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray | None:
    """Eight masks, bool (8, 256, 256), of distinct things where there are enough; large ones a little preferred."""
    _, organs, details = scene
    areas = [np.bincount(plane.ravel(), minlength=256) for plane in (organs, details)]
    things = [(p, v) for p in (0, 1) for v in np.flatnonzero(areas[p]) if v and areas[p][v] >= SMALLEST_TARGET]
    if not things:
        return None
    weight = np.array([areas[p][v] for p, v in things], float) ** 0.15
    chosen = rng.choice(len(things), TARGETS, replace=len(things) < TARGETS, p=weight / weight.sum())
    planes = (organs, details)
    return np.stack([planes[things[i][0]] == things[i][1] for i in chosen])


def _box_of(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float32)


def _jittered(rng: np.random.Generator, box: np.ndarray) -> np.ndarray:
    """A box as a person draws it: often exact, else edges moved up to 12 % of the side, rather outwards."""
    if rng.random() < 0.3:
        return box
    side = np.array([box[2] - box[0], box[3] - box[1]], np.float32) + 1
    outward = rng.uniform(-0.05, 0.12, 4) * rng.random()
    moved = box + np.float32(outward) * np.concatenate([-side, side])
    return np.clip(moved, 0, SCENE_SIZE - 1).astype(np.float32)


def _shrink(image: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return np.ascontiguousarray(image)
    *lead, height, width = image.shape
    return image.reshape(*lead, height // factor, factor, width // factor, factor).mean((-3, -1))


def _edges(scene: np.ndarray, factor: int) -> np.ndarray:
    """1 where a cell of `factor` pixels holds a border of any organ or detail, float32."""
    code = scene[1].astype(np.int16) + 256 * scene[2].astype(np.int16)
    edge = np.zeros(code.shape, bool)
    edge[:, 1:] |= code[:, 1:] != code[:, :-1]
    edge[1:] |= code[1:] != code[:-1]
    height, width = edge.shape
    return edge.reshape(height // factor, factor, width // factor, factor).any((1, 3)).astype(np.float32)

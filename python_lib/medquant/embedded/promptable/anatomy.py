"""Body scenes: the outline, layers and bones of a trunk, and the organs that share its cavity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medquant.embedded.promptable.shapes import Blob, Camera


@dataclass(frozen=True)
class Trunk:
    """One axial section; lengths are in body units (half the body's width is about 1), y is dorsal."""

    outline: Blob
    skin: float
    fat: float
    muscle: float
    flat: float
    spine: tuple[float, float, float]
    thoracic: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Trunk:
        flat = rng.uniform(0.55, 0.85)
        outline = Blob(
            0.0, 0.0, 1.0, flat, 0.0, rng.normal(0, 0.04), tuple((rng.normal(0, 0.02), 0.0) for _ in range(4))
        )
        fat = float(np.exp(rng.uniform(np.log(0.02), np.log(0.22))))
        muscle = rng.uniform(0.035, 0.11)
        size = rng.uniform(0.1, 0.17)
        spine = (rng.normal(0, 0.02), flat - fat - muscle - size * rng.uniform(0.9, 1.5), size)
        return cls(outline, rng.uniform(0.006, 0.02), fat, muscle, flat, spine, bool(rng.random() < 0.25))

    @property
    def inner(self) -> float:
        """How deep under the skin the cavity starts."""
        return self.fat + self.muscle

    def inside(self, rng: np.random.Generator, reach: float = 0.9) -> tuple[float, float]:
        """A random point of the cavity."""
        angle, radius = rng.uniform(0, 2 * np.pi), reach * np.sqrt(rng.random())
        half_x, half_y = 1 - self.inner, self.flat - self.inner
        return half_x * radius * np.cos(angle), half_y * radius * np.sin(angle)


def spine_fields(trunk: Trunk, rng: np.random.Generator, camera: Camera) -> dict[str, np.ndarray]:
    """Vertebral body, canal and posterior arch."""
    x, y, size = trunk.spine
    body = Blob.draw(rng, x, y, size, aspect=(0.65, 0.85), angle=0.0, bend=0.08, rough=0.04)
    canal = Blob.draw(rng, x, y + size * 1.25, size * rng.uniform(0.3, 0.45), aspect=(0.7, 1.0), rough=0.02)
    arch = Blob.draw(
        rng,
        x,
        y + size * 1.5,
        size * rng.uniform(0.55, 0.8),
        aspect=(0.4, 0.9),
        angle=0.0,
        bend=0.3,
        rough=0.2,
    )
    return {"body": body.field(camera), "canal": canal.field(camera), "arch": arch.field(camera)}


def rib_fields(trunk: Trunk, rng: np.random.Generator, camera: Camera) -> list[np.ndarray]:
    """Obliquely cut ribs: short arcs in the muscle layer."""
    if rng.random() < 0.15:
        return []
    depth = trunk.fat + trunk.muscle * rng.uniform(0.4, 0.95)
    fields = []
    for side in (-1, 1):
        angle = rng.uniform(-0.9, -0.3)
        while angle < 1.2:
            px = side * (1 - depth) * np.cos(angle)
            py = (trunk.flat - depth) * np.sin(angle)
            tangent = np.arctan2((trunk.flat - depth) * np.cos(angle), -side * (1 - depth) * np.sin(angle))
            rib = Blob.draw(rng, px, py, rng.uniform(0.018, 0.034), aspect=(0.2, 0.6), angle=tangent, rough=0.05)
            fields.append(rib.field(camera))
            angle += rng.uniform(0.2, 0.5)
    return fields


def organ_blobs(trunk: Trunk, rng: np.random.Generator) -> list[tuple[str, Blob]]:
    """Kinds and shapes of the organs; half the scenes follow the upper abdomen, half are strewn at will."""
    if rng.random() < 0.4:
        count = int(rng.integers(4, 25))
        scale = rng.uniform(0.5, 1.1)
        strewn = []
        for _ in range(count):
            size = scale * np.exp(rng.uniform(np.log(0.04), np.log(0.4)))
            kind = rng.choice(["solid", "solid", "hollow", "vessel", "kidney"], p=[0.3, 0.25, 0.25, 0.1, 0.1])
            strewn.append((str(kind), Blob.draw(rng, *trunk.inside(rng), size, aspect=(0.15, 1.0), bend=0.6)))
        return strewn

    half_x, half_y = 1 - trunk.inner, trunk.flat - trunk.inner
    side = float(rng.choice([-1, 1], p=[0.8, 0.2]))  # the liver is mostly on the image's left
    spine_x, spine_y, spine_size = trunk.spine
    organs: list[tuple[str, Blob]] = []

    def place(kind: str, chance: float, x: float, y: float, size: float, **shape: object) -> None:
        if rng.random() < chance:
            px, py = half_x * (side * x + rng.normal(0, 0.06)), half_y * (y + rng.normal(0, 0.08))
            organs.append((kind, Blob.draw(rng, px, py, size * np.exp(rng.normal(0, 0.18)), **shape)))

    tilt = side * rng.uniform(-0.2, 0.9)
    place("liver", 0.9, 0.5, -0.05, 0.48, aspect=(0.5, 0.95), angle=tilt + np.pi / 2, bend=0.25, rough=0.1)
    place("liver", 0.4, 0.05, -0.5, 0.22, aspect=(0.3, 0.9), bend=0.3)
    place("spleen", 0.85, -0.72, 0.3, 0.2, aspect=(0.2, 0.7), angle=side * 1.1, bend=0.8, rough=0.08)
    place("stomach", 0.8, -0.38, -0.3, 0.27, aspect=(0.35, 1.0), bend=0.4, rough=0.12)
    place("kidney", 0.6, 0.42, 0.5, 0.14, aspect=(0.45, 0.9), bend=0.4)
    place("kidney", 0.6, -0.42, 0.5, 0.14, aspect=(0.45, 0.9), bend=0.4)
    place("solid", 0.5, -0.1, 0.05, 0.12, aspect=(0.12, 0.4), bend=0.6, rough=0.15)  # pancreas
    place("fluid", 0.4, 0.4, -0.2, 0.085, aspect=(0.4, 1.0))  # gallbladder
    place("solid", 0.4, 0.3, 0.3, 0.05, aspect=(0.1, 0.4), bend=0.8)  # adrenals
    place("solid", 0.4, -0.25, 0.3, 0.05, aspect=(0.1, 0.4), bend=0.8)
    place("solid", 0.25, -0.15, -0.55, 0.28, aspect=(0.5, 0.9))  # heart
    for shift, chance in ((-0.15, 0.9), (0.2, 0.75)):
        if rng.random() < chance:
            px = spine_x + side * shift * rng.uniform(0.6, 1.2)
            py = spine_y - spine_size * rng.uniform(1.0, 1.4)
            organs.append(("vessel", Blob.draw(rng, px, py, rng.uniform(0.04, 0.075), aspect=(0.6, 1.0), rough=0.03)))
    for shift in (-1, 1):
        if rng.random() < 0.7:
            px = spine_x + shift * spine_size * rng.uniform(1.2, 1.8)
            py = spine_y + spine_size * rng.uniform(-0.2, 0.8)
            organs.append(("muscle", Blob.draw(rng, px, py, rng.uniform(0.06, 0.15), aspect=(0.5, 1.0))))
    for _ in range(int(rng.integers(0, 12))):
        size = np.exp(rng.uniform(np.log(0.05), np.log(0.16)))
        kind = "hollow" if rng.random() < 0.8 else "solid"
        organs.append((kind, Blob.draw(rng, *trunk.inside(rng), size, aspect=(0.25, 1.0), bend=0.5)))
    return organs

"""Smooth random regions on a camera's pixel grid: each is a field, negative inside, in body units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Camera:
    """A square view: pixel centres in body coordinates, float32 (size, size), y downwards."""

    x: np.ndarray
    y: np.ndarray
    pitch: float

    @classmethod
    def look(cls, size: int, centre: tuple[float, float], half_width: float, angle: float = 0.0) -> Camera:
        axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        column, row = np.meshgrid(axis * half_width, axis * half_width)
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        x = c * column - s * row + np.float32(centre[0])
        y = s * column + c * row + np.float32(centre[1])
        return cls(x, y, 2 * half_width / size)

    def warped(self, rng: np.random.Generator, strength: float) -> Camera:
        """The same view of a body whose shapes are bent by a few random waves."""
        dx, dy = np.zeros_like(self.x), np.zeros_like(self.y)
        for _ in range(4):
            wavelength = np.exp(rng.uniform(np.log(0.2), np.log(1.6)))
            angle, phase, phase_y = rng.uniform(0, 2 * np.pi, 3)
            along = (np.cos(angle) * self.x + np.sin(angle) * self.y) * np.float32(2 * np.pi / wavelength)
            height = np.float32(strength * wavelength * rng.uniform(0.3, 1))
            dx += height * np.sin(along + np.float32(phase))
            dy += height * np.sin(along + np.float32(phase_y))
        return Camera(self.x + dx, self.y + dy, self.pitch)


@dataclass(frozen=True)
class Blob:
    """A bent ellipse with a wavy outline; lengths in body units, angle in radians."""

    x: float
    y: float
    long: float
    short: float
    angle: float
    bend: float
    waves: tuple[tuple[float, float], ...]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        x: float,
        y: float,
        size: float,
        *,
        aspect: tuple[float, float] = (0.4, 1.0),
        angle: float | None = None,
        bend: float = 0.35,
        rough: float = 0.1,
    ) -> Blob:
        """`size` is the geometric mean of the half axes; `rough` the height of the outline's waves."""
        ratio = np.sqrt(rng.uniform(*aspect))
        waves = tuple((rng.normal(0, rough / k**0.8), rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
        turn = rng.uniform(0, 2 * np.pi) if angle is None else angle + rng.normal(0, 0.25)
        return cls(x, y, size / ratio, size * ratio, turn, rng.normal(0, bend), waves)

    def field(self, camera: Camera) -> np.ndarray:
        """About the signed distance to the outline (float32, camera's shape)."""
        dx, dy = camera.x - np.float32(self.x), camera.y - np.float32(self.y)
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u = (c * dx + s * dy) * np.float32(1 / self.long)
        v = (c * dy - s * dx) * np.float32(1 / self.short)
        if self.bend:
            v = v + np.float32(self.bend * self.long / self.short) * (u * u - np.float32(0.3))
        radius = np.sqrt(u * u + v * v) + np.float32(1e-6)
        cos, sin = u / radius, v / radius
        cos_k, sin_k = cos, sin
        outline = np.ones_like(radius)
        for height, phase in self.waves:
            cos_k, sin_k = cos_k * cos - sin_k * sin, sin_k * cos + cos_k * sin
            outline += np.float32(height * np.cos(phase)) * cos_k - np.float32(height * np.sin(phase)) * sin_k
        return (radius - outline) * np.float32(np.sqrt(self.long * self.short) * 0.7 + self.short * 0.3)


@dataclass(frozen=True)
class Territories:
    """Who won each pixel: `owner` (0 none, else 1 + index), `depth` below the outline, `rivalry` margin."""

    owner: np.ndarray
    depth: np.ndarray
    rivalry: np.ndarray


def compete(fields: list[np.ndarray]) -> Territories:
    """Each pixel goes to the lowest field where one is negative; neighbours share smooth borders."""
    best = np.full_like(fields[0], 1e3)
    second = best.copy()
    owner = np.zeros(best.shape, np.uint8)
    for index, field in enumerate(fields):
        wins = field < best
        second = np.where(wins, best, np.minimum(second, field))
        best = np.where(wins, field, best)
        owner[wins] = index + 1
    owner[best >= 0] = 0
    rivalry = second - best
    return Territories(owner, np.minimum(-best, 0.5 * rivalry), rivalry)

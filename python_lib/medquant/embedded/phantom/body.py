"""The patient under construction: the space, what has been placed in it so far, and in which order it is painted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from medquant.embedded.phantom.fields import Region, Shape, SmoothField
from medquant.embedded.phantom.shapes import curve_region, spline, tube, without

# Plane of distances in mm, textures of the slice, optional auxiliary plane -> plane of HU.
Material = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Part:
    """Something painted: where (distance), with what, under which label, and one auxiliary field if it needs one."""

    shape: Shape
    material: Material
    label: int = 0
    auxiliary: np.ndarray | None = None


@dataclass
class Body:
    """Shapes by name, and parts in painting order (later ones cover earlier ones)."""

    region: Region
    rng: np.random.Generator
    straight_axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    fatness: float
    shapes: dict[str, Shape] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)

    def about(self, centre, reach: float | tuple = 60.0) -> Region:
        """The region within `reach` mm (number or x, y, z) of a point."""
        centre, reach = np.asarray(centre, float), np.broadcast_to(np.asarray(reach, float), 3)
        return self.region.crop(centre - reach, centre + reach)

    def place(
        self,
        name: str,
        region: Region,
        distance: np.ndarray,
        material: Material | None,
        label: int = 0,
        auxiliary=None,
    ) -> Shape:
        """Remember a shape and, given a material, paint it."""
        shape = Shape(distance.astype(np.float32, copy=False), region.box)
        self.shapes[name] = shape
        if material is not None and distance.size:
            self.parts.append(Part(shape, material, label, auxiliary))
        return shape

    def clear_of(self, distance: np.ndarray, region: Region, gaps: dict[str, float], blend: float = 4.0) -> np.ndarray:
        """`distance` kept `gaps[name]` mm away from shapes placed before."""
        for name, gap in gaps.items():
            if name in self.shapes:
                distance = without(distance, self.shapes[name].on(region), gap, blend)
        return distance

    def place_tube(
        self, name: str, points, radii, material: Material, label: int = 0, flatten=(1.0, 1.0, 1.0)
    ) -> Shape:
        """A vessel or the like along control points (x, y, z) in mm."""
        centres, sizes = spline(points, radii)
        region = curve_region(self.region, centres, sizes)
        distance, _ = tube(region, centres, sizes, flatten=flatten)
        return self.place(name, region, distance, material, label)

    def roughness(self, region: Region, pitch: float | tuple, amplitude: float) -> np.ndarray:
        """A fresh random field in mm on a region, to make surfaces less smooth."""
        noise = SmoothField(self.rng, pitch)
        axes = [axis[part] for axis, part in zip(self.straight_axes, region.box)]
        return noise.on(*axes) * np.float32(amplitude)

    def jitter(self, point, spread: float = 3.0) -> np.ndarray:
        """A point moved by a random amount."""
        return np.asarray(point, float) + self.rng.normal(0, spread, 3)

    def vary(self, spread: float = 0.07) -> float:
        """A random factor near 1."""
        return float(np.clip(self.rng.normal(1, spread), 1 - 2 * spread, 1 + 2 * spread))

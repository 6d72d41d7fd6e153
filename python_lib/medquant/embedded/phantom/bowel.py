"""Stomach, duodenum, colon and small bowel."""

from __future__ import annotations

import numpy as np

from medquant.embedded.phantom import materials
from medquant.embedded.phantom.body import Body
from medquant.embedded.phantom.labels import STOMACH
from medquant.embedded.phantom.shapes import curve_region, smooth_intersection, spline, tube
from medquant.embedded.phantom.vessels import mesenteric_vessels

SOLID = (
    "liver",
    "gallbladder",
    "spleen",
    "pancreas",
    "stomach",
    "right kidney outline",
    "left kidney outline",
)


def build_stomach(body: Body) -> None:
    points = [
        (54, 20, 60),
        (58, -4, 48),
        (64, -36, 22),
        (46, -56, -6),
        (12, -60, -20),
        (-14, -48, -16),
        (-30, -36, -8),
    ]
    fill = body.vary(0.1)
    centres, radii = spline([body.jitter(p, 3) for p in points], np.array((25, 33, 27, 21, 18, 13, 8)) * fill)
    region = curve_region(body.region, centres, radii)
    distance = tube(region, centres, radii, blend=6)[0] + body.roughness(region, 26, 2.0)
    distance = smooth_intersection(distance, body.shapes["abdomen"].on(region) + 3.5, 8)
    gaps = {
        "left kidney outline": 6,
        "spine": 16,
        "splenic vein": 6,
        "aorta": 10,
        "left adrenal": 4,
        "left crus": 4,
    }
    distance = body.clear_of(distance, region, gaps)
    straight_y = body.straight_axes[1][region.box[1]]
    lumen = (distance < -4).sum((0, 2)).cumsum()
    share = body.rng.uniform(0.22, 0.42)
    level = float(np.interp(share * lumen[-1], lumen, straight_y)) if lumen.size and lumen[-1] else 0.0
    contents = materials.fluid_under_gas(level, 18)
    body.place("stomach", region, distance, materials.hollow(3.4, 88, contents, 0.9), STOMACH)


def build_duodenum(body: Body) -> None:
    points = [
        (-30, -36, -8),
        (-44, -24, -6),
        (-47, -10, -28),
        (-42, -2, -54),
        (-14, -7, -66),
        (16, -8, -64),
        (34, -16, -44),
    ]
    centres, radii = spline([body.jitter(p, 1.5) for p in points], [9, 11, 11.5, 11, 10.5, 10.5, 10.5])
    gaps = dict.fromkeys(SOLID, 1.5) | {
        "aorta": 1.5,
        "vena cava": 1.5,
        "spine": 8,
        "superior mesenteric vein": 1.5,
    }
    _place_bowel(body, "duodenum", centres, radii, gaps)


def _place_bowel(body: Body, name: str, centres, radii, gaps) -> None:
    region = curve_region(body.region, centres, radii)
    distance, along = tube(region, centres, radii)
    distance += body.roughness(region, 12, 1.0)
    distance = smooth_intersection(distance, body.shapes["cavity"].on(region) + 2.5, 4)
    distance = body.clear_of(distance, region, gaps, 3)
    # How far below its loop's own centre line each voxel lies: gas collects above.
    below = region.y - _along(centres, along, centres[:, 1])
    body.place(name, region, distance, materials.hollow(2.0, 100, materials.small_bowel), auxiliary=below)


def _along(centres: np.ndarray, along: np.ndarray, values: np.ndarray) -> np.ndarray:
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(centres, axis=0), axis=1))])
    return np.interp(along, arc, values).astype(np.float32)


def build_colon(body: Body) -> None:
    """Ascending colon, right flexure, sagging transverse colon, left flexure, descending colon; haustra by sections."""
    sag = body.rng.normal(0, 8)
    points = [
        (-98, 12, -135), (-101, 10, -100), (-98, 6, -78), (-84, -24, -64), (-56, -58, -62 + sag / 2),
        (-12, -68, -74 + sag), (34, -68, -62 + sag), (76, -52, -28), (104, -18, 2), (113, 14, 2),
        (112, 32, -26), (108, 34, -60), (106, 30, -100), (104, 24, -135),
    ]  # fmt: skip
    sizes = np.array((25, 25, 24, 22, 20, 19, 19, 19, 18, 16, 14, 14, 13.5, 14)) * body.vary(0.1)
    centres, radii = spline([body.jitter(p, 3.5) for p in points], sizes, step=2.5)
    region = curve_region(body.region, centres, radii)
    distance, along = tube(region, centres, radii)
    pouches = np.abs(np.sin(along * np.float32(np.pi / 27))) ** 0.6
    distance += 4.5 * (1 - pouches.astype(np.float32)) + body.roughness(region, 14, 1.6)
    distance = smooth_intersection(distance, body.shapes["cavity"].on(region) + 3, 5)
    gaps = dict.fromkeys(SOLID, 2.0) | {"duodenum": 2.0, "left psoas": 3, "right psoas": 3}
    distance = body.clear_of(distance, region, gaps)
    below = region.y - _along(centres, along, centres[:, 1])
    contents = materials.stool_and_gas
    body.place("colon", region, distance, materials.hollow(2.2, 82, contents), auxiliary=below)


def build_small_bowel(body: Body) -> None:
    """Loops threaded through a loose packing of points in front of the spine."""
    rng = body.rng
    spacing = 22.0
    lattice = np.mgrid[-84:100:spacing, -68:14:spacing, -110:-8:spacing].reshape(3, -1).T
    free = lattice + rng.uniform(-6, 6, lattice.shape)
    taken = (*SOLID, "colon", "duodenum", "aorta", "vena cava", "superior mesenteric vein")
    room = np.array([min([distance_at(body, name, p) for name in taken]) for p in free])
    inside = np.array([-distance_at(body, "cavity", p) for p in free])
    free = free[(room > 5) & (inside > 12)]
    if len(free) < 4:
        return
    order, left = [0], set(range(1, len(free)))
    while left:
        nearest = min(left, key=lambda n: float(np.sum((free[n] - free[order[-1]]) ** 2)))
        order.append(nearest)
        left.remove(nearest)
    path = free[order]
    mesenteric_vessels(body, path[:: max(len(path) // 26, 1)])
    waist = np.where(rng.random(len(path)) < 0.2, 6.5, rng.uniform(9.5, 12.5, len(path)))
    centres, radii = spline(path, waist, step=4)
    gaps = dict.fromkeys(taken, 1.2) | {"colon": 0.8, "superior mesenteric artery": 2, "spine": 5}
    gaps |= {f"{side} psoas": 2 for side in ("left", "right")}
    _place_bowel(body, "small bowel", centres, radii, gaps)


def distance_at(body: Body, name: str, point) -> float:
    """Distance in mm of one point (x, y, z) to a shape; 40 where the shape is not near."""
    shape = body.shapes.get(name)
    if shape is None:
        return 40.0
    index = []
    for axis, value, part in zip(body.region.axes, point[::-1], shape.box):
        nearest = int(np.clip(np.searchsorted(axis, value), 0, len(axis) - 1))
        if not part.start <= nearest < part.stop:
            return 40.0
        index.append(nearest - part.start)
    return float(shape.distance[tuple(index)])

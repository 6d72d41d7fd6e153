"""Spine and ribs."""

from __future__ import annotations

import numpy as np

from medquant.embedded.phantom import materials
from medquant.embedded.phantom.body import Body
from medquant.embedded.phantom.fields import Region
from medquant.embedded.phantom.shapes import curve_region, smooth_intersection, smooth_union, spline, tube
from medquant.embedded.phantom.trunk import wall_point

PITCH = 34.0  # one vertebra and one disc, mm
BODY_Y, CANAL_Y = 42.0, 67.0

VERTEBRA = materials.bone(400, 165, 0.6)
ARCH = materials.bone(600, 240, 1.5)
RIB = materials.bone(560, 150, 1.1)


def column(region: Region, centre_y: float, half_x: float, half_y: float) -> np.ndarray:
    """Distance to an upright elliptic column on the midline."""
    u, v = region.x / np.float32(half_x), (region.y - np.float32(centre_y)) / np.float32(half_y)
    k0 = np.sqrt(u * u + v * v) + np.float32(1e-6)
    return k0 * (k0 - 1) / (np.sqrt((u / half_x) ** 2 + (v / half_y) ** 2) + np.float32(1e-6))


def build_skeleton(body: Body) -> None:
    """The spine, and the ribs that hang on it."""
    build_ribs(body, build_spine(body))


def build_spine(body: Body) -> float:
    """Bodies, discs, canal, arches and processes. Returns the height (mm) of the first lumbar body's middle."""
    region = body.region.crop((-60, 10, -400), (60, 115, 400))
    first_lumbar = float(-6 + body.rng.normal(0, 5))
    height = np.mod(region.z - first_lumbar + PITCH / 2, PITCH) - PITCH / 2  # from the nearest body's middle
    rough = body.roughness(region, 14, 0.5)
    canal = column(region, CANAL_Y, 11.5, 8.5)
    waist = 2.2 * np.cos(height * np.float32(np.pi / 26)) * (np.abs(height) < 13)
    round_body = column(region, BODY_Y, 24.5, 18.0) + rough
    vertebra = smooth_intersection(round_body + waist, np.abs(height) - 12.6, 3)
    vertebra = smooth_intersection(vertebra, 0.5 - canal, 3)
    disc = np.maximum(round_body + 0.8, 0.5 - canal)

    body.place("disc", region, disc, materials.parenchyma(82, 5, 5))
    body.place("vertebra", region, vertebra, VERTEBRA)
    body.place("arch", region, arch(region, height, canal) + rough, ARCH)
    body.place("canal", region, canal, materials.parenchyma(18, 4, 3))
    body.place("cord", region, column(region, CANAL_Y, 6.5, 5), materials.parenchyma(42, 3, 3))
    body.place("spine", region, np.minimum(disc, canal - 3), None)
    return first_lumbar


def arch(region: Region, height: np.ndarray, canal: np.ndarray) -> np.ndarray:
    """Pedicles, laminae, transverse, articular and spinous processes, repeated at every level."""
    x, y, side = region.x, region.y, np.abs(region.x)
    lamina = smooth_intersection(np.abs(canal - 4) - 3.2, np.abs(height + 5) - 11, 3)
    lamina = smooth_intersection(lamina, 64 - y, 3)
    pedicle = np.maximum(np.hypot(side - 15.5, height - 5) - 5.2, np.abs(y - 60) - 9)
    # Transverse process: a rod that tapers and leans back.
    lean = np.hypot(y - 66 - 0.12 * (side - 18), height - 4)
    transverse = np.maximum(lean - np.interp(side, [16, 42], [6.0, 3.0]).astype(np.float32), side - 41)
    transverse = np.maximum(transverse, 14 - side)
    to_joint = PITCH / 2 - np.abs(height)
    joint = np.sqrt(((side - 17.5) / 7.5) ** 2 + ((y - 74) / 8.0) ** 2 + (to_joint / 11) ** 2) * 7.5 - 7.5
    gap = np.abs(side - 17 - 0.25 * (y - 74)) - 0.9  # the joint space
    joint = np.maximum(joint, -gap)
    slope = height + np.float32(0.35) * (y - 84) + 5
    spinous = smooth_intersection(np.abs(x) - 3.4, np.abs(slope) - 9.5, 3)
    spinous = np.maximum(spinous, np.maximum(74 - y, y - 98))
    bone = smooth_union(smooth_union(lamina, pedicle, 5), smooth_union(transverse, spinous, 2), 5)
    return np.maximum(smooth_union(bone, joint, 2), -canal)


# Rib number -> angle from anterior (degrees) at which bone ends.
RIB_ENDS = {12: 126, 11: 98, 10: 60, 9: 54, 8: 49, 7: 44, 6: 40}


def build_ribs(body: Body, first_lumbar: float) -> None:
    """Ribs 12 to 6: from the spine outwards, forwards and down along the wall; cartilage up to the sternum."""
    slant = body.rng.normal(1, 0.08)
    for number, end in RIB_ENDS.items():
        head = first_lumbar + PITCH * (13 - number) + 6
        for side in (-1, 1):
            angles = np.linspace(135, end, 9)
            drop = slant * np.interp(angles, [40, 60, 90, 120, 138], [100, 86, 60, 32, 12])
            points = [(side * 24, 55, head), (side * 42, 66, head - 2), (side * 60, 82, head - 6)]
            points += [wall_point(a, side, head - d, 7.5) for a, d in zip(angles, drop)]
            sizes = np.interp(np.arange(len(points)), [0, 3, 8, 11], [4.5, 4.0, 3.7, 3.4])
            name = f"{'left' if side > 0 else 'right'} rib {number}"
            _place_rib(body, name, points, sizes, RIB)
            if number <= 10:
                tip = points[-1]
                bend = wall_point((end + 16) / 2, side, tip[2] + 12, 5.5)
                top = wall_point(9, side, max(tip[2] + 55, 82), 5)
                _place_rib(
                    body,
                    f"{name} cartilage",
                    [tip, bend, top],
                    [4.2, 4.2, 4],
                    materials.parenchyma(105, 14, 12),
                )
    sternum = body.about((0, -86, 100), (30, 25, 40))
    distance = np.sqrt((sternum.x / 13) ** 2 + ((sternum.y + 84) / 4.5) ** 2 + ((sternum.z - 105) / 36) ** 2)
    body.place("sternum", sternum, (distance - 1) * 4.5, RIB)


def _place_rib(body: Body, name: str, points, sizes, material) -> None:
    centres, radii = spline(points, sizes, step=6)
    low = (centres[:, 2] + 20).max(), (centres[:, 2] - 20).min()
    if low[0] < body.region.axes[0][0] or low[1] > body.region.axes[0][-1]:
        return
    region = curve_region(body.region, centres, radii)
    distance, _ = tube(region, centres, radii, flatten=(1, 1, 1.75))
    body.place(name, region, distance, material)

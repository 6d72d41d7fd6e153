"""Skin, fat, abdominal wall, diaphragm, lung bases and the heart's lower face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medquant.embedded.phantom import materials
from medquant.embedded.phantom.body import Body
from medquant.embedded.phantom.shapes import ellipsoid, smooth_intersection, smooth_union

# Half width and half depth of the muscular trunk (mm), the exponent of its superellipse, and its middle in y.
HALF_WIDTH, HALF_DEPTH, EXPONENT, MIDDLE_Y = 148.0, 98.0, 2.35, 8.0


def wall_radius(angle: np.ndarray, depth: float = 0.0) -> np.ndarray:
    """Distance in mm from the trunk's axis to `depth` mm under the muscles' surface; angle from anterior, radians."""
    across = np.abs(np.sin(angle)) / (HALF_WIDTH - depth)
    along = np.abs(np.cos(angle)) / (HALF_DEPTH - depth)
    return (across**EXPONENT + along**EXPONENT) ** (-1 / EXPONENT)


def wall_point(degrees: float, side: int, z: float, depth: float) -> tuple[float, float, float]:
    """A point in the wall: `side` is 1 on the patient's left, -1 on the right."""
    angle = np.deg2rad(degrees)
    radius = wall_radius(angle, depth)
    return side * radius * np.sin(angle), MIDDLE_Y - radius * np.cos(angle), z


def build_trunk(body: Body) -> None:
    """Places `skin`, `wall`, `cavity` (inside of the wall) and `abdomen` (the cavity below the diaphragm)."""
    region = body.region
    x, y, z = region.x, region.y - np.float32(MIDDLE_Y), region.z
    radius = np.hypot(x, y) + np.float32(1e-3)
    angle = np.arctan2(np.abs(x), -y)
    degrees = np.rad2deg(angle)
    table = np.deg2rad(np.linspace(0, 180, 721))
    outline = np.interp(angle, table, wall_radius(table)).astype(np.float32)
    narrowing = np.interp(z, [-95, -45, 25, 95], [0, -4, 0, -5]).astype(np.float32)
    groove = 6 * np.exp(-((x / 15) ** 2)) * (y > 0)
    wall = radius - outline - narrowing + groove + body.roughness(region, 70, 1.0)

    thickness = np.interp(degrees, [0, 25, 60, 95, 135, 160, 180], [18, 16, 13, 13, 21, 17, 8])
    thickness = thickness * np.interp(z, [-90, 90], [1.15, 0.75]) * body.fatness
    skin = wall - np.maximum(thickness.astype(np.float32) + body.roughness(region, 60, 1.5), 3.5)

    depth = np.interp(
        degrees,
        [0, 3, 7, 34, 39, 44, 58, 100, 125, 140, 151, 180],
        [4, 5, 11, 10, 6, 12, 17, 17, 18, 22, 38, 44],
    )
    # Higher up the wall is the rib cage, thinner at the sides.
    depth = depth * np.where(degrees < 145, np.interp(z, [-30, 25], [1.0, 0.82]), 1)
    cavity = wall + depth.astype(np.float32)
    lateral = (materials.ramp(degrees, 42, 50) * materials.ramp(-degrees, -138, -128)).astype(np.float32)

    body.place("skin", region, skin, materials.skin_and_fat)
    body.place("wall", region, wall, materials.wall_muscle, auxiliary=lateral)
    body.place("cavity", region, cavity, materials.fat(-103, 48))

    dome = diaphragm(body, degrees)
    lungs = smooth_intersection(cavity + 1.5, 1.2 - dome, 6)
    abdomen = smooth_intersection(cavity, dome, 4)
    body.place("diaphragm", region, np.maximum(cavity, -dome - 1.5), materials.striated_muscle(52, 20))
    body.place("lungs", region, lungs, materials.spongy_lung)
    body.place("abdomen", region, abdomen, None)
    heart(body)


def diaphragm(body: Body, degrees: np.ndarray) -> np.ndarray:
    """Distance to the two domes: negative below them."""
    region, rng = body.region, body.rng
    low = type(region)(region.x, region.y, np.maximum(region.z, -20), region.axes, region.slack, region.box)
    rise = rng.normal(0, 5)
    right = ellipsoid(low, (-58, -4, -20), (86, 88, 106 + rise))
    left = ellipsoid(low, (58, 2, -20), (84, 84, 92 + rise))
    recess = np.interp(degrees, [0, 45, 75, 105, 140, 180], [72, 60, 38, 14, 2, 0]).astype(np.float32)
    dome = smooth_union(smooth_union(right, left, 16), (region.z - recess) * np.float32(0.55), 14)
    # Spine, aorta and gullet descend behind the lungs' reach.
    middle = (np.hypot(region.x - 3, (region.y - 38) * np.float32(0.85)) - 31) * np.float32(0.95)
    return smooth_union(dome, middle, 8) + body.roughness(region, 40, 1.5)


def heart(body: Body) -> None:
    centre = body.jitter((20, -36, 116), 2)
    region = body.region.crop(centre - 80, centre + 80)
    heart_distance = ellipsoid(region, centre, (64, 46, 50))
    inside = body.shapes["cavity"].on(region) + 3
    above = -body.shapes["abdomen"].on(region) - 1
    body.place("pericardial fat", region, np.maximum(heart_distance - 6, inside), materials.fat(-98, 20))
    heart_distance = np.maximum(smooth_intersection(heart_distance, above, 4), inside)
    body.place("heart", region, heart_distance, materials.hollow(9, 112, materials.parenchyma(158)))


@dataclass(frozen=True)
class Pillar:
    """An elliptic column along z: centre and half axes (x, y) given at heights `z`, mm; `tilt` in degrees."""

    z: tuple[float, ...]
    centre_x: tuple[float, ...]
    centre_y: tuple[float, ...]
    half_x: tuple[float, ...]
    half_y: tuple[float, ...]
    tilt: float = 0.0

    def distance(self, region, side: int = 1) -> np.ndarray:
        """Signed distance in mm; side -1 is the mirror image. A half axis of 0 ends the column."""
        at = [
            np.interp(region.z, self.z, values).astype(np.float32)
            for values in (self.centre_x, self.centre_y, self.half_x, self.half_y)
        ]
        dx, dy = side * region.x - at[0], region.y - at[1]
        cos, sin = np.float32(np.cos(np.deg2rad(self.tilt))), np.float32(np.sin(np.deg2rad(self.tilt)))
        dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
        # Columns that have shrunk to nothing lie outside themselves.
        half_x, half_y = np.maximum(at[2], 0.5), np.maximum(at[3], 0.5)
        u, v = dx / half_x, dy / half_y
        k0, k1 = np.sqrt(u * u + v * v) + 1e-6, np.sqrt((u / half_x) ** 2 + (v / half_y) ** 2) + 1e-6
        return (k0 * (k0 - 1) / k1 + (1 - np.minimum(np.minimum(at[2], at[3]) / 2, 1))).astype(np.float32)


PSOAS = Pillar((-95, -40, 5, 30), (48, 40, 31, 27), (44, 50, 53, 55), (21, 15, 9, 0), (21, 17, 10, 0), tilt=-12)
QUADRATUS = Pillar((-95, -30, 0, 20), (74, 68, 60, 56), (70, 74, 76, 76), (20, 19, 13, 0), (9, 9, 6, 0), tilt=18)
ERECTOR = Pillar((-95, 0, 60, 95), (38, 37, 31, 28), (82, 82, 80, 80), (29, 28, 24, 21), (19, 19, 15, 13), tilt=-6)
MULTIFIDUS = Pillar((-95, 0, 95), (13, 12, 11), (81, 80, 79), (9, 9, 8), (16, 15, 13))
CRUS = Pillar((-60, -35, 40, 75), (9, 13, 15, 14), (24, 22, 20, 16), (0, 4, 5, 4), (0, 9, 12, 10), tilt=20)
LATISSIMUS = Pillar((-95, -60, 0, 95), (100, 103, 112, 122), (62, 64, 62, 52), (0, 16, 26, 32), (0, 7, 9, 12), tilt=-38)


def build_muscles(body: Body) -> None:
    """The muscles beside the spine, and the crura."""
    region = body.region.crop((-150, -10, -400), (150, 130, 400))
    wall, cavity = body.shapes["wall"].on(region), body.shapes["cavity"].on(region)
    back = np.maximum(np.abs(region.x) - 66, np.maximum(wall + 4, 58 - region.y))
    body.place("back fat", region, smooth_intersection(back, -cavity - 3, 3), materials.fat(-98, 40))
    for side, name in ((-1, "right"), (1, "left")):
        for muscle, pillar in (("erector", ERECTOR), ("multifidus", MULTIFIDUS)):
            distance = pillar.distance(region, side) + body.roughness(region, 18, 1.0)
            distance = smooth_intersection(distance, wall + 3, 4)
            body.place(f"{name} {muscle}", region, distance, materials.striated_muscle(55, 85))
        distance = np.maximum(LATISSIMUS.distance(region, side) + body.roughness(region, 25, 1.0), wall - 4)
        body.place(f"{name} latissimus", region, distance, materials.striated_muscle(56, 60))
        for muscle, pillar in (("quadratus", QUADRATUS), ("psoas", PSOAS), ("crus", CRUS)):
            distance = pillar.distance(region, side) + body.roughness(region, 22, 1.2)
            body.place(f"{name} {muscle}", region, distance, materials.striated_muscle(60, 45))

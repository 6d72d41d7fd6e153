"""Liver, gallbladder, spleen, kidneys, adrenals and pancreas."""

from __future__ import annotations

import numpy as np

from medquant.embedded.phantom import materials
from medquant.embedded.phantom.body import Body
from medquant.embedded.phantom.fields import Region
from medquant.embedded.phantom.labels import GALLBLADDER, LEFT_KIDNEY, LIVER, PANCREAS, RIGHT_KIDNEY, SPLEEN
from medquant.embedded.phantom.shapes import (
    curve_region,
    ellipsoid,
    rotation_xyz,
    smooth_intersection,
    spline,
    tube,
    without,
)


def table(values: np.ndarray, at: list[float], heights: list[float]) -> np.ndarray:
    return np.interp(values, at, heights).astype(np.float32)


def build_kidneys(body: Body) -> None:
    for name, side, centre, label in (
        ("right kidney", -1, (-62, 47, -42), RIGHT_KIDNEY),
        ("left kidney", 1, (61, 48, -26), LEFT_KIDNEY),
    ):
        middle = body.jitter(centre, 3)
        region = body.about(middle, (55, 50, 80))
        size = body.vary(0.06)
        # Upper pole medial and posterior; the hilum faces forwards and inwards.
        turn = rotation_xyz(degrees_z=side * (-28 + body.rng.normal(0, 5))) @ rotation_xyz(8, side * 12)
        outer = ellipsoid(region, middle, np.array((28, 24, 55)) * size, turn)
        outer += body.roughness(region, 20, 1.1)
        outer = body.clear_of(outer, region, {"spine": 8})
        outer = smooth_intersection(outer, body.shapes["cavity"].on(region) + 4, 6)
        for muscle in ("psoas", "quadratus", "crus"):
            outer = body.clear_of(outer, region, {f"{'left' if side > 0 else 'right'} {muscle}": 3})
        hilum = middle + turn.T @ np.array([-side * 16.0, -1.5, 0])
        sinus = ellipsoid(region, hilum, np.array((13, 6, 24)) * size, turn) + body.roughness(region, 9, 1.8)
        parenchyma = without(outer, sinus, 0, 3)
        body.place(name, region, parenchyma, materials.kidney, label)
        body.place(f"{name} outline", region, outer, None)
        fascia = np.maximum(
            np.abs(outer - 9 - body.roughness(region, 30, 2.5)) - 0.45, body.shapes["cavity"].on(region) + 3
        )
        body.place(f"{name} fascia", region, fascia, materials.fascia)
        pelvis = ellipsoid(region, hilum + turn.T @ np.array([-side * 6.0, 2, -4]), (11, 3.6, 9), turn)
        body.place(f"{name} pelvis", region, pelvis + body.roughness(region, 8, 1.0), materials.parenchyma(22, 3, 6))
        adrenal(body, side, middle + np.array([-side * 26, -10, 50]) * (1, 1, size))


def adrenal(body: Body, side: int, apex: np.ndarray) -> None:
    """Two thin limbs that meet in front: a lambda in axial slices."""
    limbs = (apex + np.array((side * 9, 17, -10)), apex + np.array((-side * 3, 18, -10)))
    region = body.about(apex + np.array((0, 8, -5)), 35)
    distance = np.minimum(*(_sheet(region, apex, end) for end in limbs))
    body.place(f"{'left' if side > 0 else 'right'} adrenal", region, distance, materials.parenchyma(88))


def _sheet(region: Region, start, end) -> np.ndarray:
    centres, radii = spline([start, (np.asarray(start) + end) / 2, end], [2.6, 2.4, 1.9])
    return tube(region, centres, radii, flatten=(1, 1, 5))[0]


def build_gallbladder(body: Body) -> None:
    fundus = body.jitter((-58, -58, -34), 4)
    size = body.vary(0.12)
    centres, radii = spline(
        [(-38, -26, 0), (-45, -38, -10), (-53, -51, -24), fundus], np.array((3, 8, 13, 13.5)) * size
    )
    region = curve_region(body.region, centres, radii)
    distance = tube(region, centres, radii, blend=3)[0] + body.roughness(region, 22, 1.2)
    contents = materials.parenchyma(9, 2, 2)
    body.place("gallbladder", region, distance, materials.hollow(1.3, 75, contents), GALLBLADDER)


def build_liver(body: Body) -> None:
    """The space under the right dome, cut from below by the visceral surface and from behind by the retroperitoneum."""
    rng = body.rng
    region = body.region.crop((-150, -110, -110), (110, 110, 110))
    x, y, z = region.x, region.y, region.z
    low, reach = rng.normal(0, 6), rng.normal(0, 10)
    surface = table(x, [-130, -95, -58, -22, 10, 45 + reach, 80 + reach], [-68, -62, -40, -2, 18, 40, 78])
    surface += np.float32(low) + np.float32(0.32) * (y + 25) + body.roughness(region, 42, 5.0)
    behind = y - table(x, [-125, -75, -45, -20, 8, 45, 85], [100, 92, 55, 22, -8, -30, -42])
    behind -= table(z, [-20, 30, 80], [-4, 0, 14])
    distance = smooth_intersection((surface - z) * np.float32(0.78), behind * np.float32(0.8), 16)
    distance = smooth_intersection(distance, body.shapes["abdomen"].on(region) + 1.6, 8)
    distance += body.roughness(region, 24, 1.2)
    gaps = {"vena cava": 0.2, "right kidney outline": 3.0, "stomach": 2.0, "gallbladder": -0.5, "spine": 10.0}
    gaps |= {
        "right crus": 1.5,
        "right psoas": 4.0,
        "right adrenal": 2.5,
        "oesophagus": 2.0,
        "portal vein": 0.8,
    }
    distance = body.clear_of(distance, region, gaps)
    # The fissure of the round ligament, and the one in front of the caudate lobe.
    for path, sizes in (
        ([(10, -84, 12), (2, -60, 16), (-6, -34, 20)], [4.5, 3.0, 2.2]),
        ([(-4, -24, 34), (2, -14, 40), (6, -4, 46)], [1.6, 1.5, 1.6]),
    ):
        centres, radii = spline(path, sizes)
        distance = without(distance, tube(region, centres, radii, flatten=(1, 1, 4.5))[0], 0, 5)
    body.place("liver", region, distance, materials.parenchyma(106, 5, 3), LIVER)
    liver_vessels(body, region)
    lesions(body)


def branch(rng: np.random.Generator, start, direction, length: float, radius: float, depth: int) -> list:
    """A wandering vessel and its daughters: list of (centres (n, 3), radii (n,))."""
    direction = np.asarray(direction, float) / np.linalg.norm(direction)
    points, heading = [np.asarray(start, float)], direction
    for _ in range(4):
        heading = heading + rng.normal(0, 0.22, 3)
        heading /= np.linalg.norm(heading)
        points.append(points[-1] + heading * length / 4)
    centres, radii = spline(points, np.linspace(radius, radius * 0.55, len(points)), step=3)
    pieces = [(centres, radii)]
    if depth:
        for part in (0.3, 0.55, 0.8):
            at = int(part * (len(centres) - 1))
            sideways = np.cross(direction, rng.normal(size=3))
            turn = direction * 0.7 + sideways / (np.linalg.norm(sideways) + 1e-9)
            pieces += branch(rng, centres[at], turn, length * rng.uniform(0.5, 0.7), radii[at] * 0.66, depth - 1)
    return pieces


def liver_vessels(body: Body, region: Region) -> None:
    rng = body.rng
    trunks = [
        ((-26, -2, 66), (-1, 0.35, -0.55), 85, 4.6),
        ((-26, -6, 66), (-0.45, -0.8, -0.5), 80, 4.2),
        ((-22, -8, 66), (0.75, -0.7, -0.25), 75, 4.0),
        ((-32, -13, 22), (-1, -0.25, 0.05), 70, 5.0),
        ((-50, -12, 24), (-0.7, 0.75, -0.2), 65, 4.4),
        ((-32, -14, 24), (0.55, -0.6, 0.45), 62, 4.2),
    ]
    pieces = [piece for start, way, length, radius in trunks for piece in branch(rng, start, way, length, radius, 2)]
    distance = np.full(region.shape, 40, np.float32)
    for centres, radii in pieces:
        part = curve_region(region, centres, radii)
        cut = tuple(slice(p.start - r.start, p.stop - r.start) for p, r in zip(part.box, region.box))
        distance[cut] = np.minimum(distance[cut], tube(part, centres, np.maximum(radii, 0.9))[0])
    distance = smooth_intersection(distance, body.shapes["liver"].on(region) + 3.5, 3)
    # Vessels within the liver belong to it, as in every public label map.
    body.place("liver vessels", region, distance, materials.parenchyma(172, 3, 2), LIVER)


def lesions(body: Body) -> None:
    """One rimmed lesion and, often, a cyst."""
    rng = body.rng
    places = [
        ((-92, 2, 16), 12.0, materials.rimmed(62, 88)),
        ((-66, -38, 40), 6.0, materials.parenchyma(9, 2, 2)),
    ]
    for (centre, size, material), keep in zip(places, (True, rng.random() < 0.6)):
        middle = body.jitter(centre, 9)
        size = size * body.vary(0.2)
        if not keep:
            continue
        region = body.about(middle, 3 * size + 8)
        distance = ellipsoid(region, middle, (size, size * 0.85, size * 0.95)) + body.roughness(region, 9, 1.2)
        distance = np.maximum(distance, body.shapes["liver"].on(region) + 2)
        body.place(f"lesion of {size:.0f} mm", region, distance, material, LIVER)


def build_spleen(body: Body) -> None:
    """A crescent: an ellipsoid against the wall, hollowed from the inside."""
    centre = body.jitter((101, 43, 26), 4)
    size = body.vary(0.09)
    region = body.about(centre, (65, 75, 85))
    turn = rotation_xyz(22, 12, -16)
    outer = ellipsoid(region, centre, np.array((40, 56, 62)) * size, turn)
    hollow = ellipsoid(region, centre - np.array((46, 20, 4)), (44, 52, 72), turn)
    distance = smooth_intersection(outer, body.shapes["abdomen"].on(region) + 2.5, 8)
    distance = without(distance, hollow, 0, 12) + body.roughness(region, 22, 1.3)
    distance = body.clear_of(distance, region, {"left kidney outline": 3, "stomach": 3, "left quadratus": 3})
    body.place("spleen", region, distance, materials.parenchyma(122, 4, 3), SPLEEN)


def build_pancreas(body: Body) -> None:
    points = [
        (-24, -2, -40),
        (-25, -10, -24),
        (-14, -19, -10),
        (6, -23, 0),
        (28, -17, 8),
        (52, 0, 14),
        (78, 20, 21),
    ]
    size = body.vary(0.1)
    centres, radii = spline([body.jitter(p, 2.0) for p in points], np.array((8, 13, 9, 8.5, 9.5, 9.5, 8)) * size)
    region = curve_region(body.region, centres, radii)
    distance = tube(region, centres, radii, blend=4, flatten=(1, 1, 1.25))[0]
    distance += body.roughness(region, 9, 2.4) + np.abs(body.roughness(region, 5.5, 1.3))
    gaps = {
        "superior mesenteric vein": 0.3,
        "splenic vein": 0.2,
        "portal vein": 0.3,
        "aorta": 4,
        "vena cava": 2,
    }
    gaps |= {
        "superior mesenteric artery": 2.5,
        "stomach": 2.5,
        "left kidney outline": 4,
        "spleen": 3,
        "liver": 2,
    }
    gaps |= {"gallbladder": 3, "left renal vein": 2, "spine": 12}
    body.place("pancreas", region, body.clear_of(distance, region, gaps, 3), materials.pancreas, PANCREAS)

"""Aorta, vena cava, portal system and the branches that a reader of axial slices looks for."""

from __future__ import annotations

import numpy as np

from medquant.embedded.phantom import materials
from medquant.embedded.phantom.body import Body
from medquant.embedded.phantom.labels import AORTA, VENA_CAVA
from medquant.embedded.phantom.shapes import curve_region, spline, tube

ARTERY = materials.parenchyma(156, 3, 2)
VEIN = materials.parenchyma(150, 3, 2)
PORTAL = materials.parenchyma(165, 3, 2)


def build_great_vessels(body: Body) -> None:
    caliber = body.vary(0.09)
    aorta = [
        (5, 12, -120),
        (6, 11, -60),
        (8, 11, -10),
        (10, 13, 30),
        (14, 18, 65),
        (18, 24, 95),
        (20, 27, 120),
    ]
    cava = [
        (-18, 16, -120),
        (-20, 16, -60),
        (-21, 15, -15),
        (-24, 11, 20),
        (-27, 4, 50),
        (-24, -4, 74),
        (-16, -14, 100),
    ]
    body.place_tube(
        "vena cava", [body.jitter(p, 1.2) for p in cava], 10.5 * body.vary(0.1), VEIN, VENA_CAVA, (1.18, 0.86, 1)
    )
    shape = body.place_tube(
        "aorta", [body.jitter(p, 1.0) for p in aorta], 9.6 * caliber, materials.hollow(1.0, 115, ARTERY), AORTA
    )
    calcified(body, shape)
    body.place_tube(
        "oesophagus",
        [(8, 12, 120), (11, 7, 85), (20, 0, 70), (38, 2, 58)],
        7.5,
        materials.parenchyma(62, 6, 6),
    )


def calcified(body: Body, aorta) -> None:
    """Plaques: bits of the aortic wall, on the spine's side more often."""
    region = body.region.crop((-25, -15, -400), (45, 60, 400))
    patches = body.roughness(region, 11, 1.0) + 0.02 * (region.y - 12)
    distance = np.maximum(np.abs(aorta.on(region) + 0.6) - 0.8, (2.05 - patches) * 3)
    body.place("plaque", region, distance, materials.parenchyma(520, 30, 30))


def build_branches(body: Body) -> None:
    """Coeliac trunk, mesenteric vessels, portal and splenic vein, renal vessels."""
    confluence = body.jitter((-6, -9, -2), 1.5)
    tubes = {
        "portal vein": ((confluence, (-17, -13, 9), (-31, -14, 21), (-46, -13, 25)), (6.5, 6.8, 6.2, 4.5), PORTAL),
        "splenic vein": ((confluence, (20, -9, 5), (52, 11, 15), (84, 26, 23)), (4.6, 4.3, 4.0, 3.4), PORTAL),
        "superior mesenteric vein": (
            (confluence, (-8, -13, -20), (-9, -17, -55), (-6, -26, -90)),
            (5.8, 5.8, 5.2, 4.0),
            PORTAL,
        ),
        "superior mesenteric artery": (
            ((8, 6, -3), (7, -5, -9), (4, -11, -35), (2, -20, -90)),
            (3.8, 3.6, 3.4, 2.8),
            ARTERY,
        ),
        "coeliac trunk": (((9, 8, 11), (9, -6, 13), (-4, -14, 14), (-24, -20, 18)), (3.6, 3.4, 2.6, 2.2), ARTERY),
        "splenic artery": (
            ((9, -6, 13), (24, -8, 17), (38, 6, 13), (56, 6, 20), (80, 24, 26)),
            (2.6, 2.4, 2.4, 2.2, 1.8),
            ARTERY,
        ),
        "left renal vein": (((44, 40, -28), (26, 16, -24), (8, -1, -22), (-16, 11, -22)), (4.2, 4.2, 3.4, 4), VEIN),
        "right renal vein": (((-46, 40, -40), (-34, 26, -36), (-22, 16, -33)), (4.2, 4.2, 4.2), VEIN),
        "left renal artery": (((10, 14, -20), (28, 27, -24), (46, 42, -24)), (2.8, 2.6, 2.4), ARTERY),
        "right renal artery": (((5, 16, -24), (-18, 28, -30), (-46, 43, -44)), (2.8, 2.6, 2.4), ARTERY),
        "inferior mesenteric vein": (((10, -10, -8), (26, 4, -30), (32, 10, -95)), (2.2, 2.2, 2.0), PORTAL),
        "right gonadal vein": (((-28, 10, -40), (-36, 12, -95)), (1.7, 1.7), VEIN),
    }
    for name, (points, radii, material) in tubes.items():
        body.place_tube(name, points, radii, material)


def mesenteric_vessels(body: Body, targets: np.ndarray) -> None:
    """Arcs from the mesenteric root to the bowel loops, and finer ones beside them."""
    rng = body.rng
    region = body.region.crop((-110, -90, -110), (110, 40, 10))
    distance = np.full(region.shape, 40, np.float32)
    for target in targets:
        root = np.array([-2, -18, np.clip(target[2] + 15, -75, -15)]) + rng.normal(0, 4, 3)
        for radius in (1.9, 1.3):
            middle = (root + target) / 2 + rng.normal(0, 7, 3)
            centres, radii = spline([root, middle, target + rng.normal(0, 5, 3)], [radius * 1.25, radius, radius * 0.8])
            part = curve_region(region, centres, radii, 8)
            cut = tuple(slice(p.start - r.start, p.stop - r.start) for p, r in zip(part.box, region.box))
            distance[cut] = np.minimum(distance[cut], tube(part, centres, radii)[0])
    gaps = dict.fromkeys(("liver", "stomach", "gallbladder", "pancreas", "left kidney", "right kidney", "spine"), 1.0)
    body.place("mesenteric vessels", region, body.clear_of(distance, region, gaps, 2), VEIN)

"""What tissues look like in portal-venous CT: functions from distance to the surface and texture to HU.

Each material is called with the distance plane (mm, negative inside), the slice's `Textures` and an auxiliary
plane, and returns HU. Means follow common portal-venous values (liver about 105, spleen 120, renal cortex 185).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Textures:
    """Unit-variance random planes of one slice, fine to broad, and the straight anterior-posterior axis in mm."""

    fine: np.ndarray
    medium: np.ndarray
    broad: np.ndarray
    y: np.ndarray


def ramp(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, linear between."""
    return np.clip((value - low) / (high - low), 0, 1)


def ridge(value: np.ndarray, width: float) -> np.ndarray:
    """1 on the zero set of a random field, falling off around it: thin curved sheets."""
    return np.exp(-((value / width) ** 2))


def parenchyma(mean: float, fine: float = 4.0, broad: float = 3.0):
    """Homogeneous organ with faint texture."""
    return lambda d, t, aux=None: mean + fine * t.fine + broad * t.medium


def fat(mean: float = -104.0, strands: float = 45.0):
    """Fat with thin septa."""
    return lambda d, t, aux=None: (
        mean + 5 * t.fine + 4 * t.broad + strands * ridge(t.medium, 0.10) * ramp(t.broad, -1.0, 1.2)
    )


def fascia(d, t, aux=None):
    """A thin sheet in fat, seen in places only."""
    return -100 + 105 * ramp(t.broad, -0.9, 0.7)


def skin_and_fat(d, t, aux=None):
    """Skin 2 mm thick on subcutaneous fat, whose septa run roughly parallel to it."""
    septa = 40 * ridge(t.medium + 0.12 * (d + 9), 0.08) * ramp(t.broad, -0.6, 0.8)
    return np.where(d > -2.0, 30 + 10 * t.fine, -107 + 4 * t.fine + septa)


def wall_muscle(d, t, aux):
    """Abdominal wall: muscle layers with fat planes between, where the auxiliary plane (0..1) says so."""
    planes = ridge(d + 5.5 + 0.7 * t.broad, 0.7) + ridge(d + 10.5 + 0.9 * t.broad, 0.7)
    return 58 + 5 * t.fine + 4 * t.medium - 110 * aux * planes - 50 * ridge(t.medium, 0.05)


def striated_muscle(mean: float = 58.0, fatty: float = 70.0):
    """Muscle with streaks of fat between bundles."""

    def material(d, t, aux=None):
        streaks = ridge(t.medium, 0.12) * ramp(t.broad, -0.4, 1.0)
        return mean + 6 * t.fine + 4 * t.medium - fatty * streaks

    return material


def bone(cortex: float, trabecular: float, thickness: float):
    """Cortical shell around trabecular bone."""

    def material(d, t, aux=None):
        inner = trabecular + 20 * t.fine + 12 * t.medium
        return inner + (cortex - inner) * ramp(d, -thickness - 0.8, -thickness + 0.4)

    return material


def kidney(d, t, aux=None):
    """Cortex, and medullary pyramids behind it with cortical columns between."""
    pyramid = ramp(-d, 5.5, 7.5) * ramp(t.broad + 0.5 * t.medium, -0.5, 0.0)
    return 187 + 5 * t.fine - 52 * pyramid


def pancreas(d, t, aux=None):
    """Lobules with fat in the clefts between."""
    clefts = ridge(t.medium - 0.25, 0.16) * ramp(d, -9, -1.5)
    return 97 + 7 * t.fine - 95 * clefts


def spongy_lung(d, t, aux=None):
    """Aerated lung, denser towards the back, with a faint pleural edge."""
    vessels = 820 * ramp(t.fine + 0.6 * t.medium, 2.3, 3.0)
    return -868 + 14 * t.fine + 14 * t.medium + vessels + 0.55 * np.maximum(t.y, 0) * ramp(d, -25, 0)


def hollow(wall: float, wall_hu: float, contents, rugae: float = 0.3):
    """An organ with a wall (mm, HU) around `contents`, itself a material; the wall's thickness varies by `rugae` mm."""

    def material(d, t, aux=None):
        edge = ramp(d + rugae * t.medium + 0.5 * rugae * t.broad, -wall - 0.4, -wall + 0.4)
        return contents(d, t, aux) * (1 - edge) + (wall_hu + 6 * t.fine) * edge

    return material


def fluid_under_gas(level_y: float, fluid_hu: float):
    """Contents of a stomach of someone lying on the back: gas above a horizontal level, fluid below."""

    def material(d, t, aux=None):
        below = ramp(t.y, level_y - 0.3, level_y + 0.3)
        return -975 * (1 - below) + below * (fluid_hu + 7 * t.medium + 4 * t.fine + 12 * ramp(t.broad, 0.4, 1.5))

    return material


def stool_and_gas(d, t, aux):
    """Colon contents: gas in front, mottled stool behind; the auxiliary plane is depth below the centre line, mm."""
    gas = ramp(-aux + 5 * t.broad, 3.5, 4.2)
    stool = 45 + 22 * t.medium - 420 * ramp(t.fine + 0.5 * t.medium, 1.15, 1.9)
    return stool * (1 - gas) - 970 * gas


def small_bowel(d, t, aux=None):
    """Feathery enhancing wall, fluid, now and then a bubble of gas."""
    folds = 65 * ramp(t.fine + 0.4 * t.medium, 0.3, 1.3) * ramp(d, -7.5, -3)
    gas = ramp(t.broad - 0.018 * aux, 1.6, 1.7) * ramp(-d, 2.5, 3.2)
    return (24 + 5 * t.fine + folds) * (1 - gas) - 940 * gas


def rimmed(mean: float, rim: float):
    """A lesion: mean HU inside, another HU at the edge."""
    return lambda d, t, aux=None: mean + 5 * t.fine + (rim - mean) * ramp(d, -2.2, -0.6)

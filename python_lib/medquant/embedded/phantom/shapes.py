"""Implicit shapes: signed distances in mm, negative inside, joined by smooth unions.

The smooth minimum is the quadratic one of Quilez ("smooth minimum", iquilezles.org): it differs from the plain
minimum only where the two distances are within `blend` of each other.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline

from medquant.embedded.phantom.fields import FAR, Region


def smooth_union(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """Smooth minimum of two distances; `blend` in mm is the width of the fillet."""
    overlap = np.maximum(blend - np.abs(a - b), 0) / np.float32(blend)
    return np.minimum(a, b) - overlap * overlap * np.float32(blend / 4)


def smooth_intersection(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """Smooth maximum of two distances."""
    return -smooth_union(-a, -b, blend)


def without(a: np.ndarray, b: np.ndarray, gap: float = 0.0, blend: float = 4.0) -> np.ndarray:
    """`a` pushed back from `b`, leaving `gap` mm between them."""
    return smooth_intersection(a, np.float32(gap) - b, blend)


def ellipsoid(region: Region, centre, semi_axes, rotation: np.ndarray | None = None) -> np.ndarray:
    """Ellipsoid with centre and half axes (x, y, z) in mm; `rotation` (3, 3) turns the patient into its axes."""
    offset = [region.x - centre[0], region.y - centre[1], region.z - centre[2]]
    if rotation is not None:
        offset = [sum(np.float32(r) * o for r, o in zip(row, offset)) for row in rotation]
    scaled = [o * np.float32(1 / s) for o, s in zip(offset, semi_axes)]
    k0 = np.sqrt(sum(s * s for s in scaled)) + np.float32(1e-6)
    k1 = np.sqrt(sum((s * np.float32(1 / a)) ** 2 for s, a in zip(scaled, semi_axes))) + np.float32(1e-6)
    # First-order distance: exact on the surface, good near it.
    return k0 * (k0 - 1) / k1


def rotation_xyz(degrees_x: float = 0, degrees_y: float = 0, degrees_z: float = 0) -> np.ndarray:
    """Rotation matrix (3, 3) about x, then y, then z."""
    a, b, c = np.deg2rad([degrees_x, degrees_y, degrees_z])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def spline(points, radii, step: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth curve through control points: centres (n, 3) about `step` mm apart, and radii (n,) in mm."""
    points = np.asarray(points, float)
    radii = np.broadcast_to(np.asarray(radii, float), len(points))
    chord = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1) + 1e-6)])
    where = np.linspace(0, chord[-1], max(int(chord[-1] / step) + 1, 2))
    curve = CubicSpline(chord, points, bc_type="natural")(where)
    return curve, np.interp(where, chord, radii)


def tube(
    region: Region, centres: np.ndarray, radii: np.ndarray, blend: float = 0.0, flatten=(1.0, 1.0, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Round cones between successive centres.

    Returns the distance (region's shape) and the position along the curve in mm of the nearest centre line
    point. `flatten` divides offsets per axis (x, y, z): 2 in z makes the section twice as tall.
    Only the neighbourhood of each piece is visited, so cost follows length, not the region.
    """
    distance = np.full(region.shape, FAR, np.float32)
    along = np.zeros(region.shape, np.float32)
    lengths = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.asarray(flatten, np.float32)
    for n in range(len(lengths)):
        reach = (max(radii[n], radii[n + 1]) + 7) * flat
        low, high = np.minimum(centres[n], centres[n + 1]), np.maximum(centres[n], centres[n + 1])
        box = region.indices(low - reach, high + reach)
        if any(part.start >= part.stop for part in box):
            continue
        a, b = centres[n].astype(np.float32) / flat, centres[n + 1].astype(np.float32) / flat
        offset = [c[box] / f - o for c, f, o in zip((region.x, region.y, region.z), flat, a)]
        edge = b - a
        t = sum(o * e for o, e in zip(offset, edge)) / np.float32(edge @ edge + 1e-9)
        np.clip(t, 0, 1, out=t)
        squared = sum((o - t * e) ** 2 for o, e in zip(offset, edge))
        piece = np.sqrt(squared) - (np.float32(radii[n]) + t * np.float32(radii[n + 1] - radii[n]))
        here = distance[box]
        along[box] = np.where(piece < here, np.float32(starts[n]) + t * np.float32(lengths[n]), along[box])
        distance[box] = smooth_union(here, piece, blend) if blend else np.minimum(here, piece)
    return distance, along


def curve_region(region: Region, centres: np.ndarray, radii: np.ndarray, margin: float = 14.0) -> Region:
    """The part of `region` around a curve."""
    reach = np.max(radii) + margin
    return region.crop(tuple(centres.min(0) - reach), tuple(centres.max(0) + reach))

"""Where the slices of a DICOM series lie: order, regular grid, and what is wrong where they form none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medquant.errors import UserError

_SAME_POSITION = 1e-3
"""Millimetres within which two slices lie at the same place."""
_UNEVEN = 0.1
"""Part of the slice spacing by which a slice may lie off the regular grid: headers round positions."""
_TILT_DEGREES = 0.1


@dataclass(frozen=True)
class Slice:
    """The header of one DICOM image, without patient data."""

    path: Path
    instance_uid: str
    series_uid: str
    series_number: int | None
    description: str
    modality: str
    rows: int
    columns: int
    frames: int
    secondary_capture: bool
    position: tuple[float, ...] | None = None
    """LPS mm of the centre of the first voxel (ImagePositionPatient)."""
    orientation: tuple[float, ...] | None = None
    """Direction cosines along a row (i), then down a column (j) (ImageOrientationPatient)."""
    spacing: tuple[float, ...] | None = None
    """mm between rows (j), then between columns (i) (PixelSpacing)."""
    thickness: float = 1.0
    """mm between slices as the header says; used where there is only one."""
    order: tuple[int, int] = (0, 0)
    """Acquisition and instance number: the order of time points at one position."""

    @property
    def has_geometry(self) -> bool:
        """Whether the image says where it lies in the patient."""
        lengths = [len(each or ()) for each in (self.position, self.orientation, self.spacing)]
        return lengths == [3, 6, 2]


def arrange(slices: Sequence[Slice], frame: int | None = None) -> tuple[list[Slice], np.ndarray]:
    """Sort slices by position and give the 4x4 matrix from index (i, j, k, 1) to LPS millimetres.

    k runs along the normal of the slices (row x column), so the grid is right-handed. `frame` picks one of several
    images per position. Raises `UserError` naming what keeps the slices from forming one regular grid: no geometry,
    mixed sizes or orientations, duplicates, several time points, gantry tilt, missing slices, uneven spacing.
    """
    _check_alike(slices)
    first = slices[0]
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    slices, along = _one_per_position(slices, normal, frame)
    positions = np.array([each.position for each in slices])
    affine = np.eye(4)
    affine[:3, 0] = row * first.spacing[1]
    affine[:3, 1] = column * first.spacing[0]
    affine[:3, 3] = positions[0]
    if len(slices) == 1:
        affine[:3, 2] = normal * first.thickness
        return slices, affine
    _check_tilt(positions, normal)
    _check_regular(slices, along)
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(slices) - 1)
    sideways = np.abs(positions - positions[0] - np.outer(np.arange(len(slices)), affine[:3, 2])).max()
    if sideways > max(_UNEVEN * (along[-1] - along[0]) / (len(slices) - 1), min(first.spacing)):
        raise UserError(f"The slices are shifted sideways by up to {sideways:.1f} mm. Export one regular series.")
    return slices, affine


def _check_alike(slices: Sequence[Slice]) -> None:
    lost = [each for each in slices if each.secondary_capture or not each.has_geometry]
    if lost:
        raise UserError(
            f"{len(lost)} of {len(slices)} images do not say where they lie in the patient (secondary captures, "
            f"screenshots or radiographs), for example {lost[0].path.name}. Choose the original CT or MR series."
        )
    for what, values in (
        ("image sizes", Counter(f"{each.columns} x {each.rows}" for each in slices)),
        ("voxel sizes", Counter("{1:.4g} x {0:.4g} mm".format(*each.spacing) for each in slices)),
        ("orientations", _orientations(slices)),
    ):
        if len(values) > 1:
            found = ", ".join(f"{count} of {value}" for value, count in values.most_common(4))
            raise UserError(f"The series mixes {what}: {found} slices. Export one of them as a series of its own.")
    row, column = np.array(slices[0].orientation[:3]), np.array(slices[0].orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if abs(row @ column) > 1e-3 or max(abs(length - 1) for length in lengths) > 1e-2 or min(slices[0].spacing) <= 0:
        raise UserError(f"{slices[0].path.name} has an impossible orientation or voxel size. Export it again.")


def _orientations(slices: Sequence[Slice]) -> Counter[str]:
    """How many slices have each orientation, named by the plane it is nearest to and its direction cosines."""
    groups: list[tuple[np.ndarray, str]] = []
    counts: Counter[str] = Counter()
    for each in slices:
        cosines = np.array(each.orientation)
        name = next((name for known, name in groups if np.abs(known - cosines).max() < 1e-3), None)
        if name is None:
            normal = np.abs(np.cross(cosines[:3], cosines[3:]))
            plane = ("sagittal", "coronal", "axial")[int(normal.argmax())]
            name = f"{plane} ({', '.join(f'{value:.3g}' for value in cosines)})"
            groups.append((cosines, name))
        counts[name] += 1
    return counts


def _one_per_position(slices: Sequence[Slice], normal: np.ndarray, frame: int | None) -> tuple[list[Slice], np.ndarray]:
    """Slices by position along the normal, one at each, and their positions in mm."""
    names: dict[str, str] = {}
    for each in slices:
        if each.instance_uid in names:
            raise UserError(
                f"{names[each.instance_uid]} and {each.path.name} are the same image twice. Remove one of them."
            )
        names[each.instance_uid] = each.path.name
    ordered = sorted(slices, key=lambda each: float(normal @ each.position))
    groups: list[list[Slice]] = []
    for each in ordered:
        if groups and normal @ each.position - normal @ groups[-1][0].position < _SAME_POSITION:
            groups[-1].append(each)
        else:
            groups.append([each])
    counts = {len(group) for group in groups}
    if counts == {1} and frame not in (None, 0):
        raise UserError(f"The series has one image at each position, there is no frame {frame}. Leave frame out.")
    if counts != {1}:
        repeats = max(counts)
        if len(counts) > 1:
            group = next(group for group in groups if len(group) == repeats)
            raise UserError(
                f"{repeats} slices lie at the same position ({normal @ group[0].position:.2f} mm): "
                f"{', '.join(each.path.name for each in group[:4])}. Remove the duplicates."
            )
        if frame is None or not 0 <= frame < repeats:
            raise UserError(
                f"The series has {repeats} images at each of {len(groups)} positions (time points, echoes or "
                f"b-values). Pick one with frame=0 to frame={repeats - 1}."
            )
    chosen = [sorted(group, key=lambda each: each.order)[frame or 0] for group in groups]
    return chosen, np.array([float(normal @ each.position) for each in chosen])


def _check_tilt(positions: np.ndarray, normal: np.ndarray) -> None:
    along = positions[-1] - positions[0]
    cosine = float(along @ normal / np.linalg.norm(along))
    angle = float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))
    if angle > _TILT_DEGREES:
        raise UserError(
            f"The slices are tilted by {angle:.1f} degrees against the line they are stacked along (gantry tilt). "
            f"Correct the tilt first, for example by reformatting the series on the workstation or in 3D Slicer."
        )


def _check_regular(slices: Sequence[Slice], along: np.ndarray) -> None:
    steps = np.diff(along)
    typical = float(np.median(steps))
    gaps = np.flatnonzero(steps > 1.5 * typical)
    if len(gaps):
        missing = sum(round(steps[gap] / typical) - 1 for gap in gaps)
        where = "; ".join(
            f"between {along[gap]:.2f} mm ({slices[gap].path.name}) and {along[gap + 1]:.2f} mm "
            f"({slices[gap + 1].path.name})"
            for gap in gaps[:5]
        )
        raise UserError(
            f"{missing} {'slice is' if missing == 1 else 'slices are'} missing at a spacing of {typical:.2f} mm: "
            f"{where}. Export the whole series again."
        )
    even = np.linspace(along[0], along[-1], len(along))
    step = (along[-1] - along[0]) / (len(along) - 1)
    if np.abs(along - even).max() > _UNEVEN * step:
        raise UserError(
            f"The slices are unevenly spaced, {steps.min():.2f} to {steps.max():.2f} mm. "
            f"Export a series of even spacing, or resample it first."
        )

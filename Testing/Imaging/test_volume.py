"""Which patient axis an array axis runs along: one answer for all of medquant, however oblique the scan."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medquant.evaluation.display import view_of
from medquant.imaging.boxes import plane_of, slice_axis_of
from medquant.imaging.volume import Volume
from medquant.models.orientation import Reorientation
from medquant.models.slice_view import SliceView

PLANES = ("sagittal", "coronal", "axial")  # across x, y and z of LPS


def _oblique(angles: tuple[float, ...], order: tuple[int, ...], flips: tuple[float, ...]) -> Volume:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = turn @ np.eye(3)[:, list(order)] @ np.diag(flips) * (0.7, 0.8, 2.5)
    return Volume(np.zeros((3, 4, 5), np.int16), affine)


obliques = st.builds(
    _oblique,
    st.tuples(*[st.floats(-60, 60, allow_subnormal=False)] * 3),
    st.permutations(range(3)).map(tuple),
    st.tuples(*[st.sampled_from((-1.0, 1.0))] * 3),  # left-handed ones too
)


@settings(max_examples=300)
@given(obliques)
def test_everything_that_names_a_plane_means_the_same_slices(volume: Volume) -> None:
    assert sorted(volume.patient_axes) == [0, 1, 2]
    assert volume.slice_axis == slice_axis_of(volume, "axial")
    for axis in range(3):
        plane = PLANES[volume.patient_axes[axis]]
        assert slice_axis_of(volume, plane) == axis
        assert plane_of(volume, axis) == view_of(volume, axis).plane == plane
        assert view_of(volume, axis).slices == SliceView.of(volume, axis)
    turned = Reorientation.to(volume, "LPS")
    assert [volume.patient_axes[axis] for axis in turned.order] == [2, 1, 0]


def test_obliques_are_named_as_by_simpleitk(rng: np.random.Generator) -> None:
    for _ in range(1000):
        order, flips = tuple(rng.permutation(3)), tuple(rng.choice((-1.0, 1.0), 3))
        volume = _oblique(tuple(rng.uniform(-60, 60, 3)), order, flips)
        code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(volume.direction.ravel().tolist())
        named = [("R", "A", "I").index(c) if c in "RAI" else "LPS".index(c) for c in reversed(code)]
        senses = [-1 if c in "RAI" else 1 for c in reversed(code)]
        assert (list(volume.patient_axes), list(volume.senses)) == (named, senses)

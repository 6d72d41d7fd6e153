"""Axes in another order and sense, and back, against SimpleITK."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.models.orientation import Reorientation

CODES = [
    "".join(letters) for order in itertools.permutations(("RL", "AP", "IS")) for letters in itertools.product(*order)
]


def image_and_volume(stored: str, tilt: float) -> tuple[sitk.Image, Volume]:
    """A scan stored in the order `stored`, tilted by `tilt` radians."""
    image = sitk.GetImageFromArray(np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5))
    image.SetSpacing((0.7, 1.1, 3.0))
    image.SetOrigin((5.0, -8.0, 40.0))
    image = sitk.DICOMOrient(image, stored)
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    image.SetDirection((turn @ np.array(image.GetDirection()).reshape(3, 3)).ravel())
    matrix = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine = np.vstack([np.column_stack([matrix, image.GetOrigin()]), [0, 0, 0, 1]])
    return image, Volume(sitk.GetArrayFromImage(image), affine)


@settings(deadline=None)
@given(stored=st.sampled_from(CODES), wanted=st.sampled_from(CODES), tilt=st.sampled_from([0.0, 0.3]))
def test_every_orientation_equals_simpleitk_and_comes_back(stored: str, wanted: str, tilt: float) -> None:
    image, volume = image_and_volume(stored, tilt)
    turned = Reorientation.to(volume, wanted)
    result, expected = turned.volume(volume), sitk.DICOMOrient(image, wanted)
    np.testing.assert_array_equal(result.array, sitk.GetArrayFromImage(expected))
    np.testing.assert_allclose(result.origin, expected.GetOrigin(), atol=1e-9)
    np.testing.assert_allclose(result.spacing[::-1], expected.GetSpacing(), atol=1e-9)
    np.testing.assert_allclose(result.direction.ravel(), expected.GetDirection(), atol=1e-9)
    np.testing.assert_array_equal(turned.undo(result.array), volume.array)


@pytest.mark.parametrize("code", ["RA", "RAX", "RAL", "", "RASS"])
def test_what_is_no_orientation(code: str) -> None:
    _, volume = image_and_volume("LPS", 0.0)
    with pytest.raises(UserError, match="no orientation"):
        Reorientation.to(volume, code)

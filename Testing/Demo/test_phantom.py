"""The phantom is the scan that everyone sees first: it must be one anatomy per seed, the right way round, in HU."""

from __future__ import annotations

import numpy as np
import pytest

from medquant.embedded.phantom import LABEL_NAMES, make_phantom
from medquant.embedded.phantom.fields import SmoothField
from medquant.errors import Cancelled
from medquant.progress import ProgressEvent

SMALL = {"shape": (40, 128, 128), "spacing": (4.5, 3.0, 3.0)}
LABEL = {name: value for value, name in LABEL_NAMES.items()}

# Portal-venous means in HU that a reader would accept; the stomach holds gas and fluid and is left out.
EXPECTED_HU = {
    "spleen": (100, 135),
    "right kidney": (140, 205),
    "left kidney": (140, 205),
    "gallbladder": (-5, 45),
    "liver": (90, 125),
    "pancreas": (50, 115),
    "aorta": (115, 185),
    "inferior vena cava": (115, 175),
}
# Adults, in mL; kidneys may leave the field of view below.
EXPECTED_ML = {
    "spleen": (50, 450),
    "right kidney": (40, 280),
    "left kidney": (40, 280),
    "gallbladder": (5, 90),
    "liver": (800, 2600),
    "stomach": (150, 900),
    "pancreas": (20, 160),
    "aorta": (20, 120),
    "inferior vena cava": (20, 140),
}


@pytest.fixture(scope="module", params=[0, 1, 2])
def phantom(request):
    return make_phantom(request.param, **SMALL)


@pytest.fixture(scope="module")
def default_anatomy():
    return make_phantom(0, **SMALL, noise=0.0)


def centre_of(labels: np.ndarray, name: str, affine: np.ndarray) -> np.ndarray:
    """Centre of a structure in LPS world coordinates, mm."""
    index = np.argwhere(labels == LABEL[name]).mean(0)[::-1]
    return affine[:3, :3] @ index + affine[:3, 3]


def test_stop_is_heard_at_every_structure_and_slice():
    """Each stage of the phantom in use takes seconds; a piece of one takes a moment."""
    events: list[ProgressEvent] = []
    grid = {"shape": (6, 32, 32), "spacing": (30.0, 12.0, 12.0)}
    make_phantom(0, **grid, progress=events.append)
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    for message, pieces in (("Growing the anatomy", 14), ("Painting tissues", 6), ("Scanning", 6)):
        assert sum(event.message == message for event in events) >= pieces

    heard: list[ProgressEvent] = []
    with pytest.raises(Cancelled):
        make_phantom(0, **grid, progress=heard.append, cancelled=lambda: len(heard) == 10)
    assert len(heard) == 10


def test_types_shapes_and_names(phantom):
    image, labels, names, affine = phantom
    assert image.dtype == np.int16 and labels.dtype == np.uint8
    assert image.shape == labels.shape == SMALL["shape"]
    assert names == LABEL_NAMES and set(np.unique(labels)) == {0, *names}
    assert np.allclose(np.diag(affine), (3.0, 3.0, 4.5, 1.0))
    middle = affine @ [(127) / 2, (127) / 2, 39 / 2, 1]
    assert np.allclose(middle[:3], 0)


def test_one_seed_is_one_scan_to_the_voxel(default_anatomy):
    again = make_phantom(0, **SMALL, noise=0.0)
    assert np.array_equal(again[0], default_anatomy[0]) and np.array_equal(again[1], default_anatomy[1])


def test_noise_is_seeded_and_of_the_level_asked_for(default_anatomy):
    noisy, labels, _, _ = make_phantom(0, **SMALL, noise=10.0)
    assert np.array_equal(noisy, make_phantom(0, **SMALL, noise=10.0)[0])
    assert np.array_equal(labels, default_anatomy[1])
    difference = (noisy.astype(float) - default_anatomy[0])[labels == LABEL["liver"]]
    assert abs(difference.mean()) < 1
    assert 6 < difference.std() < 13


def test_other_seeds_are_other_patients(default_anatomy):
    other = make_phantom(1, **SMALL)[1]
    liver, other_liver = (labels == LABEL["liver"] for labels in (default_anatomy[1], other))
    overlap = 2 * (liver & other_liver).sum() / (liver.sum() + other_liver.sum())
    assert 0.4 < overlap < 0.97


def test_organs_have_their_hu(phantom):
    image, labels, _, _ = phantom
    for name, (low, high) in EXPECTED_HU.items():
        assert low < np.median(image[labels == LABEL[name]]) < high, name


def test_organs_have_their_size(phantom):
    _, labels, _, affine = phantom
    for name, (low, high) in EXPECTED_ML.items():
        assert low < (labels == LABEL[name]).sum() * np.linalg.det(affine) / 1000 < high, name


def test_left_and_right_front_and_back(phantom):
    _, labels, _, affine = phantom
    at = {name: centre_of(labels, name, affine) for name in LABEL}
    # x grows towards the patient's left, y towards the back, z towards the head.
    assert at["liver"][0] < -20 < 20 < at["spleen"][0]
    assert at["right kidney"][0] < -30 and at["left kidney"][0] > 30
    assert at["inferior vena cava"][0] < 0 < at["aorta"][0]
    assert at["gallbladder"][0] < 0 < at["stomach"][0]
    assert at["stomach"][1] < at["aorta"][1] < at["left kidney"][1]
    assert at["left kidney"][2] < at["liver"][2]


def test_gas_lies_above_fluid_in_the_stomach(phantom):
    image, labels, _, _ = phantom
    stomach = labels == LABEL["stomach"]
    gas, fluid = np.argwhere(stomach & (image < -800)), np.argwhere(stomach & (np.abs(image - 18) < 25))
    assert len(gas) > 50 and len(fluid) > 50
    assert gas[:, 1].mean() < fluid[:, 1].mean() - 4


def test_every_tissue_of_a_ct_is_there(phantom):
    image = phantom[0]
    body = image[:, 32:96, 24:104]
    shares = {
        "fat": np.mean((body > -130) & (body < -60)),
        "soft tissue": np.mean((body > 20) & (body < 220)),
        "bone": np.mean(body > 300),
    }
    assert shares["fat"] > 0.08 and shares["soft tissue"] > 0.3 and shares["bone"] > 0.004, shares
    upper = image[-6:, 32:96, 24:104]
    assert np.mean(upper < -700) > 0.1  # lung bases under the top slices
    assert np.mean(image[:, 0] < -900) == 1.0  # air in front of the patient


def test_anatomy_does_not_depend_on_the_grid():
    coarse = make_phantom(4, (20, 64, 64), (9.0, 6.0, 6.0), noise=0)[1]
    fine = make_phantom(4, (20, 128, 128), (9.0, 3.0, 3.0), centre=(0.0, 1.5, 1.5), noise=0)[1][:, ::2, ::2]
    # Grids are offset so that every second fine voxel lies on a coarse one.
    liver, same = coarse == LABEL["liver"], fine == LABEL["liver"]
    assert 2 * (liver & same).sum() / (liver.sum() + same.sum()) > 0.9


@pytest.mark.parametrize("grid", [((0, 8, 8), (3, 3, 3)), ((8, 8), (3, 3, 3)), ((8, 8, 8), (3, 0, 3))])
def test_impossible_grids_are_refused(grid):
    with pytest.raises(ValueError, match="at least 2 voxels"):
        make_phantom(0, *grid)


@pytest.mark.parametrize("pitch", [6.0, (20.0, 40.0, 60.0)])
def test_random_fields_have_unit_variance_and_agree_between_grids(pitch):
    field = SmoothField(np.random.default_rng(3), pitch)
    axes = [np.arange(-150.0, 150.0, 3.0)] * 3
    values = field.on(*axes)
    assert 0.75 < values.std() < 1.3
    assert np.allclose(field.on(axes[0][10:12], axes[1][5:9], axes[2][7:8]), values[10:12, 5:9, 7:8], atol=1e-5)
    assert field.on(axes[0][:0], axes[1][5:9], axes[2]).shape == (0, 4, 100), "a structure between two slices"

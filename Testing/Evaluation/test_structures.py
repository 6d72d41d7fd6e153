"""Which structure is which, in the spellings of models and data sets that are used together."""

from __future__ import annotations

import numpy as np
import pytest

from medquant.datasets.structures import ABDOMEN_ATLAS, ABDOMENCT_1K, BTCV
from medquant.evaluation.structures import common_structures, find_structure, joint_mask, matches
from medquant.imaging.volume import Volume
from medquant.segmentation import Segmentation, Structure


def named(*names: str) -> Segmentation:
    """Each structure is one voxel, in order."""
    labels = np.arange(1, len(names) + 1, dtype=np.uint8).reshape(1, 1, -1)
    volume = Volume(np.zeros(labels.shape, np.int16), np.eye(4))
    return Segmentation(labels, volume, tuple(Structure(number, name) for number, name in enumerate(names, start=1)))


def test_a_btcv_model_on_abdomen_atlas_loses_nothing() -> None:
    found = matches(named(*BTCV.values()), named(*ABDOMEN_ATLAS))
    pairs = {match.name: [structure.name for structure in match.reference] for match in found}
    assert all(len(names) == 1 for names in pairs.values()) and len(pairs) == len(BTCV)
    assert pairs["right kidney"] == ["kidney_right"] and pairs["left adrenal gland"] == ["adrenal_gland_left"]
    assert pairs["gallbladder"] == ["gall_bladder"] and pairs["inferior vena cava"] == ["postcava"]
    assert pairs["esophagus"] == ["esophagus"] and pairs["liver"] == ["liver"]


def test_both_kidneys_are_the_kidney_either_way() -> None:
    two, one = named(*BTCV.values()), named(*ABDOMENCT_1K.values())
    (kidney,) = (match for match in matches(two, one) if match.name == "kidney")
    assert np.flatnonzero(joint_mask(two, kidney.found)).tolist() == [1, 2]
    assert [structure.name for structure in kidney.reference] == ["kidney"]
    (kidney,) = (match for match in matches(one, two) if match.name == "kidney")
    assert np.flatnonzero(joint_mask(two, kidney.reference)).tolist() == [1, 2]


def test_one_kidney_is_not_both() -> None:
    (left,) = matches(named("left kidney"), named("kidney"))
    assert (left.name, left.reference) == ("left kidney", ())
    (both,) = matches(named("kidney"), named("right kidney"))
    assert both.reference == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("subcutaneous fat", "visceral fat"),
        ("rib_left_3", "rib_left_4"),
        ("left kidney", "right kidney"),
        ("portal vein", "portal vein and splenic vein"),
        ("superior vena cava", "inferior vena cava"),
        ("liver", "spleen"),
    ],
)
def test_what_is_not_the_same_stays_apart(one: str, other: str) -> None:
    assert find_structure(Structure(1, one), named(other)) is None
    assert len(common_structures([named(one), named(other)])) == 2


@pytest.mark.parametrize("name", ["kidney_right", "Right kidney", "RIGHT KIDNEY", "kidney-right", "KidneyRight"])
def test_a_side_may_stand_before_or_after(name: str) -> None:
    assert len(common_structures([named("right kidney"), named(name)])) == 1

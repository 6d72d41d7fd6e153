"""Boxes that a reference tells, and models that are prompted with them, one structure at a time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from medquant.bench.medquanbench.measure import _segmented, _taken
from medquant.bench.medquanbench.subjects import Subject
from medquant.bench.permutation_comq.material import scores
from medquant.bench.reference_boxes import SMALLEST_PART, boxes_of
from medquant.errors import UserError
from medquant.evaluation.metrics import dice
from medquant.imaging.volume import Volume
from medquant.models.base import Model
from medquant.models.registry import load_model
from medquant.progress import Progress
from medquant.prompts import BoxPrompt
from medquant.segment import segment
from medquant.segmentation import Segmentation, Structure


def _boxes(labels: np.ndarray, name: str) -> set[tuple[int, ...]]:
    """Of label 2: the slice, then the first and the last column and row of each box."""
    volume = Volume(np.zeros(labels.shape, dtype=np.int16), np.diag([1.0, 1.0, 4.0, 1.0]))
    found = boxes_of(Segmentation(labels, volume, (Structure(2, name),)), Structure(2, name)).boxes
    assert {box.label for box in found} == {2}
    return {(box.lower[2], box.lower[0], box.upper[0], box.lower[1], box.upper[1]) for box in found}


@pytest.fixture
def both_kidneys() -> np.ndarray:
    """On slices 1 to 4, with a crumb between them on slice 2."""
    labels = np.zeros((6, 30, 40), dtype=np.uint8)
    labels[1:5, 10:18, 4:11] = labels[1:5, 11:19, 28:36] = 2
    labels[2, 25, 20] = 2
    return labels


@pytest.mark.parametrize("name", ["kidney", "Kidneys"])
def test_both_kidneys_of_one_label_get_a_box_each(both_kidneys: np.ndarray, name: str) -> None:
    first, second = (4, 10, 10, 17), (28, 35, 11, 18)
    assert _boxes(both_kidneys, name) == {(k, *sides) for k in range(1, 5) for sides in (first, second)}


@pytest.mark.parametrize("name", ["liver", "left kidney", "kidney_right", "kidney tumor", "kidney cyst left"])
def test_any_other_structure_gets_a_box_of_all_its_pieces(both_kidneys: np.ndarray, name: str) -> None:
    assert _boxes(both_kidneys, name) == {(k, 4, 35, 10, 25 if k == 2 else 18) for k in range(1, 5)}


def test_a_piece_of_a_kidney_that_is_no_crumb_is_in_its_box(both_kidneys: np.ndarray) -> None:
    both_kidneys[1:5, 20:23, 5:9] = 2  # beside the left one of the picture
    first, second = (4, 10, 10, 22), (28, 35, 11, 18)
    assert _boxes(both_kidneys, "kidney") == {(k, *sides) for k in range(1, 5) for sides in (first, second)}


def test_crumbs_that_get_no_box_are_few_together(both_kidneys: np.ndarray) -> None:
    """Each is small; half of them are more than the share that may have none."""
    both_kidneys[1:5, 22:29:2, 5:10:2] = 2
    boxed = np.zeros(both_kidneys.shape, dtype=bool)
    for k, first, last, top, bottom in _boxes(both_kidneys, "kidney"):
        boxed[k, top : bottom + 1, first : last + 1] = True
    inside = both_kidneys == 2
    assert np.count_nonzero(inside & ~boxed) < SMALLEST_PART * np.count_nonzero(inside)


def test_no_kidney_has_no_box(both_kidneys: np.ndarray) -> None:
    with pytest.raises(UserError):
        _boxes(np.zeros_like(both_kidneys), "kidney")


def test_a_kidney_alone_is_one(both_kidneys: np.ndarray) -> None:
    both_kidneys[:, :, 28:] = 0
    assert _boxes(both_kidneys, "kidney") == {(k, 4, 10, 10, 17) for k in range(1, 5)}


@pytest.fixture(scope="module")
def prompted() -> Model:
    """The small promptable model."""
    return load_model("embedded")


@pytest.fixture(scope="module")
def nested() -> Segmentation:
    """A bright disc within a grey one: the box around the outer one shows both, and so does its mask."""
    _, j, i = np.indices((2, 64, 64))
    radius = np.hypot(i - 32, j - 32)
    array = np.select([radius < 9, radius < 20, radius < 26], [180.0, 60.0, -20.0], -100.0).astype(np.float32)
    labels = np.select([radius < 9, radius < 20], [2, 1]).astype(np.uint8)
    names = Structure(1, "liver"), Structure(2, "pancreas"), Structure(3, "spleen")
    return Segmentation(labels, Volume(array, np.diag([3.0, 3.0, 3.0, 1.0]), modality="CT"), names)


def test_overlapping_structures_are_scored_each_on_its_own_mask(prompted: Model, nested: Segmentation) -> None:
    outer, inner, _ = nested.structures
    boxes = {structure: boxes_of(nested, structure) for structure in (outer, inner)}
    alone = {
        structure.name: dice(segment(prompted, nested.volume, prompt=prompt).labels > 0, nested.mask(structure))
        for structure, prompt in boxes.items()
    }
    together = segment(prompted, nested.volume, prompt=BoxPrompt(tuple(b for p in boxes.values() for b in p.boxes)))
    assert abs(alone["liver"] - dice(together.mask(outer), nested.mask(outer))) > 0.05, "the masks overlap"
    found = _taken(_segmented(prompted, nested.volume, nested, Progress()), nested)
    assert {score["name"]: score["dsc"] for score in found.scores} == pytest.approx(alone)
    assert found.seconds > 0 and not found.not_in_reference
    case = SimpleNamespace(name="nested", reference=lambda: nested)
    assert {name: dsc for name, (dsc, _) in scores(prompted, case, Progress()).items()} == pytest.approx(alone)


def test_a_reference_that_shows_nothing_has_no_box(prompted: Model, nested: Segmentation) -> None:
    empty = Segmentation(np.zeros_like(nested.labels), nested.volume, nested.structures)
    with pytest.raises(UserError, match="nothing to draw a box around"):
        _taken(_segmented(prompted, nested.volume, empty, Progress()), empty)


def test_a_model_that_takes_no_boxes_segments_once(subject: Subject) -> None:
    case = subject.cases[0]
    (found,) = _segmented(subject.network.load("cpu"), case.volume(), case.reference(), Progress())
    assert len(found.structures) == 3

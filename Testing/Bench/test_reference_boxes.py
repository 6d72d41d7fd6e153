"""Boxes that a reference tells, and models that are prompted with them, one structure at a time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from medquant.bench.medquanbench.measure import _segmented, _taken
from medquant.bench.medquanbench.subjects import Subject
from medquant.bench.permutation_comq.material import scores
from medquant.bench.reference_boxes import boxes_of
from medquant.errors import UserError
from medquant.evaluation.metrics import dice
from medquant.imaging.volume import Volume
from medquant.models.base import Model
from medquant.models.registry import load_model
from medquant.progress import Progress
from medquant.prompts import BoxPrompt
from medquant.segment import segment
from medquant.segmentation import Segmentation, Structure


@pytest.mark.parametrize(("name", "boxes"), [("kidney", 2 * 4), ("liver", 4)])
def test_both_kidneys_of_one_label_get_a_box_each(name: str, boxes: int) -> None:
    labels = np.zeros((6, 30, 40), dtype=np.uint8)
    labels[1:5, 10:18, 4:11] = labels[1:5, 11:19, 28:36] = 2
    labels[2, 25, 20] = 2  # a crumb
    volume = Volume(np.zeros(labels.shape, dtype=np.int16), np.diag([1.0, 1.0, 4.0, 1.0]))
    found = boxes_of(Segmentation(labels, volume, (Structure(2, name),)), Structure(2, name)).boxes
    assert len(found) == boxes and {box.label for box in found} == {2}
    corners = {(box.lower[:2], box.upper[:2]) for box in found}
    if name == "kidney":
        assert corners == {((4, 10), (10, 17)), ((28, 11), (35, 18))}
    else:
        assert ((4, 10), (35, 18)) in corners and ((4, 10), (35, 25)) in corners


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

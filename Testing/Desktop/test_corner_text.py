"""Corners and edges of a view: right letters, right numbers, nothing about a patient."""

from __future__ import annotations

import pytest

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")

from medquant_desktop import corner_text as ct
from medquant_desktop.corner_text import Corners

AXIAL = [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
SAGITTAL = [[0, 0, 1, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]


def test_an_axial_plane_has_the_patients_right_at_its_left() -> None:
    assert ct.edge_letters(AXIAL) == ("R", "A", "L", "P")


def test_a_sagittal_plane_looks_from_the_left() -> None:
    assert ct.edge_letters(SAGITTAL) == ("A", "S", "P", "I")


@pytest.mark.parametrize(
    ("direction", "letters"),
    [((1, 0, 0), "R"), ((0, 0, -2), "I"), ((0.1, 1, 0), "A"), ((0.5, -1, 0), "PR"), ((-1, 0.8, 0.6), "LAS"),
     ((0, 0, 0), "")],
)  # fmt: skip
def test_oblique_directions_get_a_letter_for_each_axis_that_matters(direction: tuple, letters: str) -> None:
    assert ct.direction_letters(direction) == letters


def test_lines() -> None:
    corners = Corners("Axial", number=12, count=20, position_mm=-34.52, axis=2, level=40, width=400)
    assert ct.slice_line(corners) == "Axial  12 / 20"
    assert ct.position_line(corners) == "I 34.5 mm"
    assert ct.window_line(corners) == "W 400  L 40"
    assert ct.window_line(Corners(level=-600, width=1500)) == "W 1500  L \N{MINUS SIGN}600"
    assert ct.window_line(Corners(level=0.25, width=0.5)) == "W 0.50  L 0.25"
    assert ct.slice_line(Corners("Coronal")) == "Coronal"
    assert ct.window_line(Corners()) == ""


@pytest.mark.parametrize(("mm", "pixels", "length"), [(1.0, 120, 100), (0.5, 90, 20), (0.01, 90, 0.5), (0, 90, 0)])
def test_the_scale_bar_is_a_round_length_that_fits(mm: float, pixels: float, length: float) -> None:
    assert ct.bar_length(mm, pixels) == pytest.approx(length)


def test_nothing_that_names_a_patient_can_get_into_the_corners() -> None:
    """Numbers and fixed words only: no field takes a name, an id or a date."""
    assert set(Corners.__dataclass_fields__) == {
        "orientation", "number", "count", "position_mm", "axis", "level", "width", "edges", "mm_per_pixel",
    }  # fmt: skip

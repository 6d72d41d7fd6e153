"""Names to SNOMED CT codes and colours."""

from __future__ import annotations

import pytest
from pydicom.sr.codedict import codes

from medquant.imaging import terminology
from medquant.imaging.terminology import colors_of, describe
from medquant.segmentation import Structure


def _meanings(code: str) -> set[str]:
    """What pydicom's copy of the DICOM standard (PS3.16) calls a SNOMED CT code."""
    from pydicom.sr._concepts_dict import concepts

    return {entry[code][0].lower() for entry in concepts["SCT"].values() if code in entry}


@pytest.mark.parametrize("name", terminology._TERMS)
def test_every_code_is_the_standards(name: str) -> None:
    term = describe(name)
    for code in (term.category, term.type):
        assert code.meaning.lower() in _meanings(code.value)


def test_sides_are_the_standards() -> None:
    assert codes.SCT.Left.value == terminology.SIDES["left"].value
    assert codes.SCT.Right.value == terminology.SIDES["right"].value


@pytest.mark.parametrize("name", ["kidney_right", "Right kidney", "RIGHT KIDNEY", "kidney-right", "KidneyRight"])
def test_usual_spellings_of_a_sided_organ(name: str) -> None:
    term = describe(name)
    assert (term.type.value, term.modifier.meaning) == ("64033007", "Right")


def test_both_kidneys_have_their_own_colours() -> None:
    assert describe("left kidney").color != describe("right kidney").color


@pytest.mark.parametrize("name", ["", "structure", "label 5", "liverwort", "left right kidney", "肝", "left"])
def test_what_is_not_known_is_no_organ(name: str) -> None:
    assert describe(name) == terminology.Term(terminology.TISSUE, terminology.TISSUE)


def test_tumours_are_morphologically_abnormal() -> None:
    assert describe("tumour").category.value == "49755003"
    assert describe("tumour").type == describe("tumor").type


def test_colours_are_distinct_and_the_structures_own_win() -> None:
    own = (0.1, 0.2, 0.3)
    structures = [Structure(n, "unknown") for n in range(1, 118)]
    structures += [Structure(200, "liver"), Structure(201, "liver"), Structure(202, "liver", own)]
    colors = colors_of(structures)
    assert len(set(colors.values())) == len(structures)
    assert colors[200] == describe("liver").color
    assert colors[202] == own
    assert all(0 <= part <= 1 for color in colors.values() for part in color)
    first = [colors[n] for n in range(1, 9)]
    nearest = min(sum((a - b) ** 2 for a, b in zip(x, y)) ** 0.5 for x in first for y in first if x is not y)
    assert nearest > 0.2, "the first colours are easily told apart"

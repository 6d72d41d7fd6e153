"""What people type, and what it is read as."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medquant.commands import inputs
from medquant.commands.compare import model_labels
from medquant.commands.demo import parse_bits
from medquant.commands.recipes import build_recipe, build_selection, with_activations
from medquant.errors import UserError
from medquant.granularity import PerGroup
from medquant.imaging.volume import Volume
from medquant.recipe import Recipe
from medquant.segmentation import Segmentation, Structure

numbers = st.lists(st.integers(0, 500), min_size=6, max_size=6)


@given(numbers)
def test_any_two_opposite_corners_make_the_same_box(values: list[int]) -> None:
    one = inputs.parse_boxes([",".join(map(str, values))])
    swapped = [*values[3:], *values[:3]]
    other = inputs.parse_boxes([" ".join(map(str, swapped))])
    assert one == other
    assert all(low <= high for low, high in zip(one.boxes[0].lower, one.boxes[0].upper, strict=True))


def test_boxes_of_one_name_share_a_label() -> None:
    prompt = inputs.parse_boxes(["liver=0,0,0,9,9,9", "spleen=1,1,1,5,5,5", "liver=0,0,10,9,9,12"], plane="axial")
    assert [(box.name, box.label) for box in prompt.boxes] == [("liver", 1), ("spleen", 2), ("liver", 1)]
    assert {box.plane for box in prompt.boxes} == {"axial"}


def test_world_boxes_keep_their_corners_and_their_space() -> None:
    (box,) = inputs.parse_boxes(None, ["-10.5,20,30,5,-4,60"]).boxes
    assert (box.space, box.lower, box.upper) == ("world", (-10.5, 20.0, 30.0), (5.0, -4.0, 60.0))


def test_no_box_is_no_prompt() -> None:
    assert inputs.parse_boxes(None, []) is None


@pytest.mark.parametrize("text", ["", "1,2,3,4,5", "1,2,3,4,5,6,7", "a,b,c,d,e,f", "=1,2,3,4,5,6", "liver"])
def test_what_is_no_box_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="six numbers"):
        inputs.parse_boxes([text])


def test_an_unknown_plane_is_refused() -> None:
    with pytest.raises(UserError, match="axial, coronal or sagittal"):
        inputs.parse_boxes(["1,2,3,4,5,6"], plane="oblique")


def test_label_names() -> None:
    assert inputs.parse_names("1=spleen, 5 = right kidney,") == {1: "spleen", 5: "right kidney"}
    assert inputs.parse_names(None) == {}
    for wrong in ("spleen", "spleen=1", "1=", "-1=x"):
        with pytest.raises(UserError, match="label=name"):
            inputs.parse_names(wrong)


@pytest.mark.parametrize(
    ("text", "megabytes"),
    [("500", 500), ("500MB", 500), ("2GB", 2000), ("1.5 gb", 1500), ("250000KB", 250), ("2G", 2000)],
)
def test_memory(text: str, megabytes: float) -> None:
    assert inputs.parse_memory(text) == pytest.approx(megabytes)


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "1.2.3MB", "5TB", "GB"])
def test_what_is_no_memory_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="500MB or 2GB"):
        inputs.parse_memory(text)


def test_model_options_are_numbers_lists_and_words() -> None:
    assert inputs.parse_model_options(["folds=[0,1]", "window_level=40", "name=x=y", "mirror=true"]) == {
        "folds": [0, 1],
        "window_level": 40,
        "name": "x=y",
        "mirror": True,
    }
    for wrong in ("folds", "=1", "a b=1"):
        with pytest.raises(UserError, match="NAME=VALUE"):
            inputs.parse_model_options([wrong])


def test_structures_are_chosen_by_name_or_label() -> None:
    volume = Volume(np.zeros((2, 2, 2)), np.eye(4))
    labels = Segmentation(np.zeros((2, 2, 2), np.uint8), volume, (Structure(1, "Liver"), Structure(4, "spleen")))
    other = Segmentation(np.zeros((2, 2, 2), np.uint8), volume, (Structure(2, "kidney"),))

    def chosen(masks: list[Segmentation], wanted: str | None) -> list[list[int]]:
        return [[s.label for s in mask.structures] for mask in inputs.select_structures(masks, wanted)]

    assert inputs.select_structures([labels], None) == [labels]
    assert chosen([labels], "liver") == [[1]]
    assert chosen([labels], "4, LIVER") == [[1, 4]]
    assert chosen([labels, other], "spleen,kidney") == [[4], [2]]
    nameless = Segmentation(np.zeros((2, 2, 2), np.uint8), volume, (Structure(1, "label 1"), Structure(4, "label 4")))
    assert chosen([labels, nameless], "spleen") == [[4], [4]], "as they are compared: by label where there is no name"
    for wrong in ("liver,heart", "kidney", " , "):
        with pytest.raises(UserError, match="Liver, spleen"):
            inputs.select_structures([labels], wrong)


def test_file_words() -> None:
    assert inputs.file_word("Abdomen / 5mm (portal)") == "abdomen-5mm-portal"
    assert inputs.file_word("../..") == "scan"


def test_a_recipe_file_is_changed_by_the_options(tmp_path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(Recipe(method="gptq").to_json())
    recipe = build_recipe(str(file), 3, None, "per-group-32", True)
    assert (recipe.method, recipe.weights.bits, recipe.weights.granularity) == ("gptq", 3, PerGroup(32))
    assert recipe.weights.symmetric
    assert build_recipe(str(file), None, None, None, None) == Recipe(method="gptq")
    assert build_recipe(None, None, None, None, None) == Recipe()


@pytest.mark.parametrize(
    "arguments",
    [(None, 9, None, None, None), (None, 1, None, None, None), (None, None, "magic", None, None),
     (None, None, None, "per-voxel", None), ("no-such-file.json", None, None, None, None)],
)  # fmt: skip
def test_a_wrong_recipe_is_refused(arguments: tuple) -> None:
    with pytest.raises(UserError):
        build_recipe(*arguments)


def test_a_range_of_slices_is_meant_by_its_ends() -> None:
    assert build_selection(4, None, 3, 9).where == "range"
    assert build_selection(4, None, None, None).where == "body"
    assert build_selection(4, "even", None, None).where == "even"
    for wrong in [("range", None, None), ("even", 1, 2), (None, 9, 3), ("middle", None, None)]:
        with pytest.raises(UserError):
            build_selection(4, *wrong)


def test_bits() -> None:
    assert parse_bits("8, 4,4,2") == (8, 4, 2)
    for wrong in ("", "1", "16", "four", "8;4"):
        with pytest.raises(UserError, match="8,4,2"):
            parse_bits(wrong)


def test_masks_are_never_called_by_their_files() -> None:
    assert model_labels(None, 3) == ["FP32", "mask 2", "mask 3"]
    assert model_labels("FP32, W4", 2) == ["FP32", "W4"]
    for wrong in ("FP32", "a,,b", "a,b,c,d"):
        with pytest.raises(UserError, match="one label for each"):
            model_labels(wrong, 3)


def test_options_of_activations_change_the_recipe() -> None:
    from medquant.granularity import Adaptive

    assert with_activations(Recipe(), None, None, None) == Recipe()
    recipe = with_activations(Recipe(), 8, None, None)
    assert recipe.activations.bits == 8 and recipe.activations.mode == "static"
    adaptive = with_activations(recipe, None, "adaptive", "dynamic").activations
    assert (adaptive.bits, adaptive.granularity, adaptive.mode) == (8, Adaptive(), "dynamic")
    assert with_activations(recipe, None, None, None, True).activations.dithered
    assert not with_activations(recipe, 4, None, None, False).activations.dithered
    for wrong in ((None, "adaptive", None), (8, "per-group-64", None), (8, None, "sometimes"), (8, "per-voxel", None)):
        with pytest.raises(UserError):
            with_activations(Recipe(), *wrong)

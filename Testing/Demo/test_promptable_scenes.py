"""Procedural training images, their pool, and the batches drawn from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medquant.embedded.promptable.pool import ScenePool
from medquant.embedded.promptable.scenes import SCENE_SIZE, make_scene


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_scenes_are_grey_images_with_labels(seed: int) -> None:
    scene = make_scene(seed)
    for plane in (scene.image, scene.organs, scene.details):
        assert plane.shape == (SCENE_SIZE, SCENE_SIZE)
        assert plane.dtype == np.uint8
    assert (scene.organs[scene.details > 0] > 0).all(), "details lie upon organs"


def test_a_seed_is_one_scene() -> None:
    one, again, other = make_scene([3, 1, 4]), make_scene([3, 1, 4]), make_scene([3, 1, 5])
    assert np.array_equal(one.image, again.image)
    assert np.array_equal(one.organs, again.organs)
    assert np.array_equal(one.details, again.details)
    assert not np.array_equal(one.image, other.image)


def test_most_scenes_have_contrast_and_several_things_to_segment() -> None:
    scenes = [make_scene([0, 0, index]) for index in range(20)]
    contrast = np.array([scene.image.std() for scene in scenes])
    things = np.array([np.unique(scene.organs).size - 1 for scene in scenes])
    assert (contrast > 8).mean() > 0.8
    assert np.median(things) >= 5
    assert things.min() >= 1


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ScenePool:
    pool = ScenePool(tmp_path_factory.mktemp("pool") / "scenes.u8", capacity=12, seed=5, stream=0)
    pool.grow(6)
    return pool


@pytest.mark.parametrize("size", [128, 256])
def test_a_batch_holds_boxes_around_its_masks(pool: ScenePool, size: int) -> None:
    batch = pool.batch(np.random.default_rng(1), 3, size)
    assert batch.images.shape == (3, 1, size, size)
    assert batch.masks.shape == (3, 8, size // 2, size // 2)
    assert batch.edges.shape == (3, size // 2, size // 2)
    for values in (batch.images, batch.masks, batch.edges):
        assert 0 <= values.min() <= values.max() <= 1
    scale = SCENE_SIZE / (size // 2)
    for box, mask in zip(batch.boxes.reshape(-1, 4), batch.masks.reshape(-1, size // 2, size // 2), strict=True):
        rows, columns = np.nonzero(mask.numpy() > 0)
        tight = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * scale
        slack = 2 * scale + 0.13 * max(tight[2] - tight[0], tight[3] - tight[1])
        assert np.abs(box.numpy() - tight).max() <= slack


def test_a_pool_grows_and_is_found_again(tmp_path: Path) -> None:
    first = ScenePool(tmp_path / "scenes.u8", capacity=4, seed=2, stream=1)
    first.grow(2)
    again = ScenePool(tmp_path / "scenes.u8", capacity=4, seed=2, stream=1)
    assert again.made == 2
    again.grow(9)
    assert again.count == 4, "never more than its capacity"
    for index in range(4):
        assert np.array_equal(again.store[index, 0], make_scene([2, 1, index]).image)

"""The small SAM's configuration and its training: seeded, resumable, learning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from medquant.embedded.promptable.configuration import embedded_sam_config, initial_model, load_model
from medquant.embedded.promptable.objective import Trainee, loss_of, make_optimisers, set_rate
from medquant.embedded.promptable.pool import ScenePool
from medquant.embedded.promptable.training import train
from medquant.errors import Cancelled, UserError
from medquant.progress import ProgressEvent

TINY = {"images_small": 2, "images_full": 1, "first_scenes": 6, "scenes": 12, "new_scenes": 1, "small_part": 0.5}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ScenePool:
    pool = ScenePool(tmp_path_factory.mktemp("pool") / "scenes.u8", capacity=8, seed=0, stream=0)
    pool.grow(8)
    return pool


def test_the_model_is_small_and_its_masks_are_fine(pool: ScenePool) -> None:
    model = initial_model(np.asarray(pool.store[:, 0]), seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) * 2 <= 12e6
    config = embedded_sam_config()
    assert config.vision_config.image_size == 256
    pixels, boxes = torch.zeros(1, 3, 256, 256), torch.tensor([[[20.0, 20, 90, 80]]])
    with torch.inference_mode():
        output = model(pixel_values=pixels, input_boxes=boxes, multimask_output=False)
    assert output.pred_masks.shape == (1, 1, 1, 128, 128)


def test_the_first_embeddings_differ_between_places_and_images(pool: ScenePool) -> None:
    """The library's own start maps every patch to nearly the same vector; ours must not."""
    model = initial_model(np.asarray(pool.store[:, 0]), seed=0)
    pixels = pool.batch(np.random.default_rng(0), 4, 256).images.expand(-1, 3, -1, -1)
    with torch.inference_mode():
        embeddings = model.vision_encoder((pixels - 0.4) / 0.3).last_hidden_state
    assert embeddings.std(0).mean() > 0.2
    assert embeddings.flatten(2).std(2).mean() > 0.2


def test_images_of_nothing_but_air_give_finite_weights() -> None:
    model = initial_model(np.zeros((2, 256, 256), np.uint8), seed=0)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_trainee_runs_the_network_that_is_saved(pool: ScenePool) -> None:
    """Training's own forward pass at 256 pixels equals the library's."""
    model = initial_model(np.asarray(pool.store[:, 0]), seed=1).eval()
    batch = pool.batch(np.random.default_rng(0), 1, 256)
    with torch.inference_mode():
        logits, iou, _ = Trainee(model)(batch.images, batch.boxes)
        pixels = ((batch.images - 0.4) / 0.3).expand(-1, 3, -1, -1)
        expected = model(pixel_values=pixels, input_boxes=batch.boxes, multimask_output=False)
    torch.testing.assert_close(logits, expected.pred_masks[:, :, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(iou, expected.iou_scores[:, :, 0], rtol=1e-3, atol=1e-3)


def test_the_loss_falls_on_one_batch(pool: ScenePool) -> None:
    trainee = Trainee(initial_model(np.asarray(pool.store[:, 0]), seed=0))
    optimisers = make_optimisers(trainee)
    batch = pool.batch(np.random.default_rng(3), 1, 128)
    losses = []
    for _ in range(16):
        set_rate(optimisers, step=100, fraction=0.0)
        loss, _ = loss_of(trainee, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.9 * losses[0]


def test_an_interrupted_training_ends_bit_identical(tmp_path: Path) -> None:
    straight = train(tmp_path / "straight", steps=4, seed=7, workers=1, **TINY)

    steps: list[ProgressEvent] = []
    with pytest.raises(Cancelled):
        train(
            tmp_path / "broken",
            steps=4,
            seed=7,
            workers=1,
            progress=steps.append,
            cancelled=lambda: len(steps) == 2,
            **TINY,
        )
    stopped_at = torch.load(tmp_path / "broken" / "checkpoint.pt", weights_only=True)["step"]
    assert stopped_at == 2
    resumed = train(tmp_path / "broken", steps=4, seed=7, workers=1, **TINY)

    assert (straight / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    one, two = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("straight", "broken"))
    assert one["step"] == two["step"] == 4
    for name, value in one["model"].items():
        assert torch.equal(value, two["model"][name]), name
    assert load_model(resumed).dtype == torch.float32


def test_stop_is_heard_between_the_first_scenes(tmp_path: Path) -> None:
    asked: list[int] = []

    def in_the_third_scene() -> bool:
        asked.append(len(asked))
        return len(asked) == 3

    pool = ScenePool(tmp_path / "scenes.u8", capacity=8, seed=0, stream=0)
    assert not pool.grow(6, in_the_third_scene)
    assert (pool.made, len(asked)) == (2, 3)
    again = ScenePool(tmp_path / "scenes.u8", capacity=8, seed=0, stream=0)
    assert again.made == 2, "what was made is kept"
    assert again.grow(4)
    assert again.made == 4

    with pytest.raises(Cancelled):
        train(tmp_path / "out", steps=4, workers=1, cancelled=lambda: True, **TINY)
    assert not list((tmp_path / "out").glob("*.count")), "no scene was made"


def test_training_needs_one_end(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hours or the number of steps"):
        train(tmp_path, workers=1)
    with pytest.raises(UserError, match="not both"):
        train(tmp_path, hours=1, steps=5, workers=1)
    with pytest.raises(UserError, match="above 0"):
        train(tmp_path, hours=0.0, workers=1)
    with pytest.raises(UserError, match="workers"):
        train(tmp_path, steps=5, workers=0)


@pytest.mark.heavy
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    events = []
    folder = train(tmp_path / "two", steps=3, seed=1, workers=2, progress=events.append, **TINY)
    again = train(tmp_path / "again", steps=3, seed=1, workers=2, **TINY)
    assert (folder / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert events
    assert events[-1].fraction == 1.0

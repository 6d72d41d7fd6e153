"""nnU-Net's sliding window: nnunetv2's logits slab by slab, patches of air once, too little memory, runtimes."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medquant.deploy.accelerate import accelerate
from medquant.deploy.runtime import RUNTIMES, Session
from medquant.errors import Cancelled, UserError
from medquant.imaging.reading import read_volume
from medquant.models.nnunet import NnUNetModel
from medquant.models.nnunet_folder import quietly
from medquant.models.nnunet_window import SlidingWindow
from medquant.progress import Progress
from medquant.segment import segment

Make = Callable[..., Any]


def window_of(model: NnUNetModel, **changes: Any) -> SlidingWindow:
    settings = {
        "networks": model._folds(),
        "plans": model.plans,
        "step_size": model.step_size,
        "mirroring_axes": model.mirroring_axes,
        "device": torch.device("cpu"),
    }
    return SlidingWindow(**settings | changes)


def logits_of(window: SlidingWindow, data: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [slab.clone() for slab in window.slabs(data, Progress())]


def data_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(40, 30, 33), (16, 24, 16), (5, 50, 9), (61, 24, 16)])
@pytest.mark.parametrize("mirroring", [False, True])
def test_logits_are_nnunetv2s_to_the_last_bit(results: Path, shape: tuple[int, ...], mirroring: bool) -> None:
    with quietly(), contextlib.redirect_stdout(io.StringIO()):
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(results), (0,), "checkpoint_final.pth")
        expected = predictor.predict_sliding_window_return_logits(data_of(*shape))
    slabs = logits_of(window_of(NnUNetModel.load(results, mirroring=mirroring)), data_of(*shape))
    assert torch.equal(torch.cat(slabs, 1), expected)
    if shape[0] > 2 * 16:
        assert max(slab.shape[1] for slab in slabs) <= 16  # never more planes than a patch has


def test_patches_of_air_are_computed_once(results: Path) -> None:
    model = NnUNetModel.load(results)
    data = torch.full((1, 40, 48, 40), -1.5)
    data[:, :16, :24, :16] = data_of(16, 24, 16)[0]
    seen: list[torch.Tensor] = []

    def watched(patch: torch.Tensor) -> torch.Tensor:
        seen.append(patch.clone())
        return model.network(patch)

    found = torch.cat(logits_of(window_of(model, networks=(watched,)), data), 1)
    plain = [patch for patch in seen if patch.min() == patch.max()]
    assert len(plain) == 1 and len(seen) % 8 == 1 and len(seen) > 8
    patches = model.plans.patches(tuple(data.shape[1:]), 0.5)
    assert len(seen) < 8 * len(patches) / 2
    data += 1e-6 * data_of(*data.shape[1:], seed=3)  # no patch has one value only
    other = torch.cat(logits_of(window_of(model), data), 1)
    assert (found.argmax(0) == other.argmax(0)).float().mean() > 0.5


def test_air_changes_no_bit(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medquant.models import nnunet_window

    model = NnUNetModel.load(results)
    data = torch.full((1, 40, 48, 40), -1.5)
    data[:, :16, :24, :16] = data_of(16, 24, 16)[0]
    found = torch.cat(logits_of(window_of(model), data), 1)
    monkeypatch.setattr(nnunet_window, "only_value", lambda patch: None)
    assert torch.equal(torch.cat(logits_of(window_of(model), data), 1), found)


def test_a_session_computes_what_the_network_would(results: Path, scan: Path) -> None:
    model = NnUNetModel.load(results)
    calls: list[tuple[int, ...]] = []

    class Session:
        runtime, precision, simulated, device = "test", "fp32", False, "CPU"

        def __call__(self, patch: torch.Tensor) -> torch.Tensor:
            calls.append(tuple(patch.shape))
            return model.network(patch)

    twin = model.with_network(model.network)
    twin.sessions = {"network": Session()}
    volume = read_volume(scan)
    np.testing.assert_array_equal(twin.segment(volume).labels, model.segment(volume).labels)
    assert set(calls) == {(1, 1, *model.plans.patch_size)}
    part = model.parts()["network"]
    assert set(part.inputs) == {"patch"} and tuple(part.inputs["patch"].shape) == (1, 1, *model.plans.patch_size)


def test_the_wish_to_stop_is_heard_while_a_session_computes(results: Path, scan: Path) -> None:
    model = NnUNetModel.load(results, mirroring=False)
    began, may_end = threading.Event(), threading.Event()

    class Slow:
        runtime, precision, simulated, device = "test", "fp32", False, "CPU"

        def __call__(self, patch: torch.Tensor) -> torch.Tensor:
            began.set()
            assert may_end.wait(60)
            return model.network(patch)

    model.sessions = {"network": Slow()}
    try:
        with pytest.raises(Cancelled):
            model.segment(read_volume(scan), None, Progress(None, began.is_set))
    finally:
        may_end.set()


def test_several_folds_are_one_part(tmp_path: Path, scan: Path, plans_of: Make, write_results: Make) -> None:
    folder = write_results(tmp_path / "results", plans_of(), folds=(0, 1))
    model = NnUNetModel.load(folder, mirroring=False)
    part, patch = model.parts()["network"], data_of(16, 24, 16)[None]
    with torch.inference_mode():
        mean = sum(member(patch) for member in model.network.members) / 2
        torch.testing.assert_close(part.module(patch), mean)


class Hungry(torch.nn.Module):
    """A network that finds memory for patches up to some size only."""

    def __init__(self, network: torch.nn.Module, most: int, error: Exception) -> None:
        super().__init__()
        self.network, self.most, self.error, self.sizes = network, most, error, []

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(patch.shape[2:]))
        if patch.numel() > self.most:
            raise self.error
        return self.network(patch)


@pytest.mark.parametrize(
    "error",
    [MemoryError("running the model"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")],
)
def test_too_little_memory_leads_to_smaller_patches(results: Path, scan: Path, error: Exception) -> None:
    model = NnUNetModel.load(results, mirroring=False)
    hungry = model.with_network(Hungry(model.network, 16 * 12 * 16, error))
    said: list[str] = []
    found = segment(hungry, read_volume(scan), progress=lambda event: said.append(event.message))
    assert hungry.network.sizes[0] == (16, 24, 16) and hungry.network.sizes[-1] == (16, 8, 16)
    assert any("trying windows of 16 x 8 x 16" in message for message in said)
    whole = model.segment(read_volume(scan))
    assert (found.labels == whole.labels).mean() > 0.5 and set(found.stages) == set(whole.stages)


@pytest.mark.parametrize("kind", [AssertionError, ValueError])
def test_a_network_of_one_size_only_ends_in_a_message(results: Path, scan: Path, kind: type[Exception]) -> None:
    class OneSize(Hungry):
        def forward(self, patch: torch.Tensor) -> torch.Tensor:
            if patch.shape[2:] != (16, 24, 16):
                raise kind("the image size must be divisible by 24")
            return super().forward(patch)

    model = NnUNetModel.load(results, mirroring=False)
    with pytest.raises(UserError, match="not enough memory"):
        segment(model.with_network(OneSize(model.network, 0, MemoryError())), read_volume(scan))


@pytest.mark.skipif(RUNTIMES["openvino"].version() is None, reason="OpenVINO is not here")
def test_smaller_patches_are_computed_by_the_runtime(
    results: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path))
    model = accelerate(NnUNetModel.load(results, mirroring=False), "openvino")
    whole = segment(model, read_volume(scan))
    session = model.sessions["network"]
    monkeypatch.setattr(type(session), "__call__", short_of_memory(type(session).__call__, most=16 * 12 * 16))
    found = segment(model, read_volume(scan))
    assert found.execution.describe() == whole.execution.describe() and found.execution.runtime == "openvino"
    assert found.execution.reason.startswith("openvino fp32, in windows of 16 x 8 x 16 voxels")
    assert (found.labels == whole.labels).mean() > 0.5
    assert model.sessions["network"] is session, "the next scan begins with the usual patches"
    monkeypatch.undo()
    np.testing.assert_array_equal(segment(model, read_volume(scan)).labels, whole.labels)


def short_of_memory(compute: Callable[..., torch.Tensor], most: int) -> Callable[..., torch.Tensor]:
    """A session's pass that finds memory for patches of up to `most` voxels only."""

    def passed(session: Session, patch: torch.Tensor) -> torch.Tensor:
        if patch.numel() > most:
            raise MemoryError("running the model")
        return compute(session, patch)

    return passed


def test_too_little_memory_for_any_patch_is_told(results: Path, scan: Path) -> None:
    model = NnUNetModel.load(results, mirroring=False)
    with pytest.raises(UserError, match="not enough memory"):
        segment(model.with_network(Hungry(model.network, 0, MemoryError())), read_volume(scan))


def test_other_errors_are_not_taken_for_it(results: Path, scan: Path) -> None:
    model = NnUNetModel.load(results, mirroring=False)
    with pytest.raises(RuntimeError, match="shape"):
        model.with_network(Hungry(model.network, 0, RuntimeError("shape mismatch"))).segment(read_volume(scan))


@pytest.mark.parametrize("what", ["data", "probabilities"])
def test_other_splines_equal_nnunetv2(
    tmp_path: Path, scan: Path, what: str, plans_of: Make, write_results: Make, own_prediction: Make
) -> None:
    plans = plans_of()
    changed = {"is_seg": False, "order": 2, "order_z": 1, "force_separate_z": None}
    plans["configurations"]["3d_fullres"][f"resampling_fn_{what}_kwargs"] = changed
    folder = write_results(tmp_path / "results", plans)
    found = NnUNetModel.load(folder, mirroring=False).segment(read_volume(scan)).labels
    assert len(np.unique(found)) >= 3
    np.testing.assert_array_equal(found, own_prediction(folder, scan, mirroring=False))


def test_another_resampling_function_equals_nnunetv2(
    tmp_path: Path, scan: Path, plans_of: Make, write_results: Make, own_prediction: Make
) -> None:
    plans = plans_of()
    for what in ("data", "probabilities"):
        plans["configurations"]["3d_fullres"] |= {
            f"resampling_fn_{what}": "resample_torch_fornnunet",
            f"resampling_fn_{what}_kwargs": {
                "is_seg": False,
                "force_separate_z": False,
                "memefficient_seg_resampling": False,
            },
        }
    folder = write_results(tmp_path / "results", plans)
    found = NnUNetModel.load(folder, mirroring=False).segment(read_volume(scan)).labels
    assert len(np.unique(found)) >= 3
    np.testing.assert_array_equal(found, own_prediction(folder, scan, mirroring=False))


@pytest.mark.parametrize("spoiled", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_told(results: Path, scan: Path, spoiled: float) -> None:
    model = NnUNetModel.load(results, mirroring=False)
    with torch.no_grad():
        model.network.decoder.seg_layers[-1].bias[1] = spoiled
    with pytest.raises(UserError, match="not finite"):
        model.segment(read_volume(scan))


def test_every_stage_hears_the_wish_to_stop(results: Path, scan: Path) -> None:
    """Counted in calls of the check: preprocessing, between mirror images, and for every plane of the labels."""
    model = NnUNetModel.load(results, mirroring=False)
    volume = read_volume(scan)
    asked: list[int] = []

    def counting() -> bool:
        asked.append(1)
        return False

    model.segment(volume, None, Progress(None, counting))
    assert len(asked) > volume.shape[0]
    data, properties = model._preprocessed(volume)
    painter, _ = model.plans.painter(data.shape[1:], properties, Progress(None, lambda: True).check)
    with pytest.raises(Cancelled):
        painter.add(torch.zeros((4, *data.shape[1:])).half())
    with pytest.raises(Cancelled):
        model._preprocessed(volume, Progress(None, lambda: True).check)

"""Models run by every runtime that is installed: the same masks, clear errors, a fallback with its reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runtime_parts import INSTALLED

from medquant import segment
from medquant.deploy.accelerate import accelerate
from medquant.deploy.cache import CompiledCache
from medquant.deploy.compiling import compile_parts
from medquant.deploy.runtime import RUNTIMES, Check, Session
from medquant.embedded.phantom import make_phantom
from medquant.errors import Cancelled, UserError
from medquant.imaging.boxes import boxes_from_labels
from medquant.imaging.volume import Volume
from medquant.models.base import Part
from medquant.models.registry import load_model
from medquant.models.torch_program import TorchModel, from_module
from medquant.progress import Progress
from medquant.prompts import BoxPrompt
from medquant.quantized_model import QuantizedModel
from medquant.segment import execution_of
from medquant.segmentation import Structure

MISSING = [name for name in RUNTIMES if RUNTIMES[name].version() is None]
pytestmark = pytest.mark.usefixtures("own_cache")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a > 0, b > 0
    return 2 * (a & b).sum() / max(1, a.sum() + b.sum())


@pytest.fixture(scope="module")
def phantom() -> tuple[Volume, BoxPrompt]:
    """A coarse phantom with boxes around its liver and spleen."""
    array, labels, names, affine = make_phantom(0, (3, 96, 96), (16.0, 4.0, 4.0))
    volume = Volume(array, affine, name="ct", modality="CT")
    wanted = [Structure(label, name) for label, name in names.items() if name in ("liver", "spleen")]
    return volume, boxes_from_labels(labels, volume, wanted)


@pytest.mark.parametrize("runtime", INSTALLED)
def test_every_runtime_gives_the_masks_of_pytorch(runtime: str, patchwise: TorchModel, small_scan: Volume) -> None:
    expected = segment(patchwise, small_scan)
    twin = accelerate(patchwise, runtime, precision="fp32")
    found = segment(twin, small_scan)
    assert (found.labels != expected.labels).mean() < 1e-3, "ties may fall either way"
    assert (found.execution.runtime, found.execution.precision) == (runtime, "fp32")
    assert not patchwise.sessions and twin.network is patchwise.network


@pytest.fixture(scope="module")
def organs(phantom: tuple[Volume, BoxPrompt]) -> np.ndarray:
    """What the embedded model finds in it."""
    volume, boxes = phantom
    return segment(load_model("embedded", device="cpu"), volume, prompt=boxes).labels


@pytest.mark.parametrize("runtime", INSTALLED)
def test_the_embedded_model_finds_the_same_organs(
    runtime: str, phantom: tuple[Volume, BoxPrompt], organs: np.ndarray
) -> None:
    volume, boxes = phantom
    model, expected = load_model("embedded", device="cpu"), organs
    found = segment(accelerate(model, runtime, precision="fp32"), volume, prompt=boxes).labels
    assert expected.any() and dice(found, expected) > 0.999


@pytest.mark.parametrize("runtime", [name for name in INSTALLED if "int8" in RUNTIMES[name].precisions()])
def test_quantized_activations_are_computed_in_integers_or_said_to_be_simulated(
    runtime: str, integer_patchwise: QuantizedModel, small_scan: Volume
) -> None:
    expected = segment(integer_patchwise, small_scan)
    assert expected.execution.simulated
    twin = accelerate(integer_patchwise, runtime, precision="int8")
    found = segment(twin, small_scan)
    assert found.execution.precision == "int8"
    assert dice(found.labels, expected.labels) > 0.98
    assert twin.report.simulated == found.execution.simulated == twin.model.sessions["network"].simulated
    assert integer_patchwise.report.simulated and not integer_patchwise.model.sessions


@pytest.mark.parametrize("runtime", INSTALLED)
def test_light_weights_alone_are_no_integer_arithmetic(
    runtime: str, light_patchwise: QuantizedModel, small_scan: Volume
) -> None:
    twin = accelerate(light_patchwise, runtime)
    found = segment(twin, small_scan)
    assert (found.execution.precision, found.execution.simulated) == ("fp32", True)
    assert dice(found.labels, segment(light_patchwise, small_scan).labels) > 0.99
    with pytest.raises(UserError, match="no quantized activations"):
        accelerate(light_patchwise, runtime, precision="int8")


def test_automatic_choice_runs_and_gives_its_reason(patchwise: TorchModel, small_scan: Volume) -> None:
    seen = []
    twin = accelerate(patchwise, progress=seen.append)
    found = segment(twin, small_scan)
    assert found.execution.reason and found.execution.reason == twin.why
    assert dice(found.labels, segment(patchwise, small_scan).labels) > 0.999
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions)
    again = accelerate(patchwise)
    assert segment(again, small_scan).execution == found.execution


COMPILING = [name for name in ("openvino", "onnxruntime") if name in INSTALLED]


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runtimes that convert every network into one whose last bias has moved."""
    from medquant.deploy import onnx_program, openvino_program

    for module in (onnx_program, openvino_program):
        right = module.integer_program

        def moved(network: torch.nn.Module, right=right, **options: object) -> torch.nn.Module:
            return torch.nn.Sequential(right(network, **options), Moved())

        monkeypatch.setattr(module, "integer_program", moved)


class Moved(torch.nn.Module):
    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits + 10.0


@pytest.mark.usefixtures("wrong")
@pytest.mark.parametrize("runtime", COMPILING)
def test_a_runtime_that_was_asked_for_and_computes_something_else_is_refused(
    runtime: str, patchwise: TorchModel, own_cache: Path
) -> None:
    with pytest.raises(UserError, match=rf"What {runtime} fp32 makes of the network differs from PyTorch's by"):
        accelerate(patchwise, runtime)
    assert not CompiledCache(own_cache).count(), "what is wrong is not kept"


@pytest.mark.skipif("openvino" not in INSTALLED, reason="OpenVINO is not here")
def test_a_choice_made_with_another_model_of_the_same_shapes_is_checked(
    patchwise: TorchModel, small_scan: Volume, request: pytest.FixtureRequest
) -> None:
    from medquant.deploy.choose import Choice, _key, _remember

    _remember(_key(patchwise.parts(), "auto", None), Choice("openvino", "fp32", "it was fast"))
    assert accelerate(patchwise).sessions
    request.getfixturevalue("wrong")
    twin = from_module(
        torch.nn.Sequential(*patchwise.network[:-1], torch.nn.Conv3d(8, 3, 1)), name="p", roi_size=patchwise.roi_size
    )
    found = accelerate(twin)
    assert not found.sessions and "differs from PyTorch's" in found.why
    assert segment(found, small_scan).execution.runtime == "pytorch"


@pytest.mark.parametrize("runtime", COMPILING)
def test_where_memory_is_too_short_to_compare_nothing_is_kept(
    runtime: str, patchwise: TorchModel, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medquant.deploy.agreement import Reference

    def short(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Reference, "_expected", short)
    assert accelerate(patchwise, runtime).sessions and not CompiledCache(own_cache).count()
    monkeypatch.undo()
    monkeypatch.setenv("MEDQUANT_CACHE", str(own_cache))
    assert accelerate(patchwise, runtime).sessions and CompiledCache(own_cache).count() == 1
    monkeypatch.setattr(Reference, "check", lambda *_: pytest.fail("compared again"))
    assert accelerate(patchwise, runtime).sessions, "what is kept was compared"


@pytest.mark.parametrize("runtime", [name for name in ("openvino",) if name in INSTALLED])
def test_the_second_start_takes_the_compiled_model_from_the_cache(
    runtime: str, patchwise: TorchModel, small_scan: Volume, own_cache: Path
) -> None:
    first = segment(accelerate(patchwise, runtime), small_scan).labels
    kept = {path: path.stat().st_ino for path in own_cache.iterdir() if path.is_file()}
    assert len(kept) == CompiledCache(own_cache).count() == 1
    second = segment(accelerate(patchwise, runtime), small_scan).labels
    assert {path: path.stat().st_ino for path in own_cache.iterdir() if path.is_file()} == kept
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("runtime", MISSING)
def test_a_runtime_that_is_missing_is_told_with_what_to_do(runtime: str, patchwise: TorchModel) -> None:
    with pytest.raises(UserError, match=rf"{runtime} (is not installed|needs an NVIDIA GPU).*--runtime auto"):
        accelerate(patchwise, runtime)


def test_words_that_name_nothing(patchwise: TorchModel) -> None:
    with pytest.raises(UserError, match=r"no runtime 'abacus'.*openvino"):
        accelerate(patchwise, "abacus")
    with pytest.raises(UserError, match=r"no precision 'int3'.*int8"):
        accelerate(patchwise, precision="int3")


def test_inputs_of_any_size_stay_with_pytorch(patchwise: TorchModel, small_scan: Volume) -> None:
    whole = from_module(patchwise.network, name="whole")
    twin = accelerate(whole)
    assert not twin.sessions and "any size" in twin.why
    np.testing.assert_array_equal(segment(twin, small_scan).labels, segment(whole, small_scan).labels)
    with pytest.raises(UserError, match="roi_size"):
        accelerate(whole, "openvino")


class Lacking:
    """A runtime for which the mask decoder is too much; the rest is PyTorch's."""

    name = "openvino"

    def version(self) -> str:
        return "0.1"

    def devices(self) -> list[str]:
        return ["CPU"]

    def precisions(self, device: str | None = None) -> tuple[str, ...]:
        return ("fp32",)

    def compile(
        self,
        part: Part,
        *,
        precision: str,
        threads: int | None = None,
        cache: Path | None = None,
        check: Check | None = None,
    ) -> Session:
        if "boxes" in part.inputs:
            raise UserError("OpenVINO 0.1 has no LayerNorm. Use --runtime pytorch.")
        return replace_runtime(RUNTIMES["pytorch"].compile(part, precision=precision, threads=threads), self.name)


def replace_runtime(session: Session, name: str) -> Session:
    session.runtime = name
    return session


def test_a_part_that_the_runtime_lacks_stays_with_pytorch(
    phantom: tuple[Volume, BoxPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNTIMES, "openvino", Lacking())
    model = load_model("embedded", device="cpu")
    twin = accelerate(model, "openvino")
    assert "mask decoder stays with PyTorch" in twin.why and "no LayerNorm" in twin.why
    volume, boxes = phantom
    found = segment(twin, volume, prompt=BoxPrompt(boxes.boxes[:1]))
    assert found.execution.runtime == "openvino + pytorch"
    np.testing.assert_array_equal(found.labels, segment(model, volume, prompt=BoxPrompt(boxes.boxes[:1])).labels)


def test_layers_of_a_part_that_stays_with_pytorch_are_counted(
    integer_patchwise: QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Half:
        """Takes the first part only."""

        name, taken = "half", 0

        def compile(self, part: Part, *, precision: str, **_: object) -> Session:
            self.taken += 1
            if self.taken > 1:
                raise UserError("half has no more. Use --runtime pytorch.")
            session = RUNTIMES["pytorch"].compile(part, precision=precision)
            session.runtime, session.simulated, session.layers, session.integer_layers = "half", False, 4, 4
            return session

    (part,) = integer_patchwise.model.parts().values()
    sessions, lacking = compile_parts({"one": part, "two": part}, Half(), "int8", threads=None, progress=Progress())
    assert set(lacking) == {"two"}
    twin = replace(integer_patchwise, model=integer_patchwise.model.with_network(integer_patchwise.model.network))
    twin.model.sessions = sessions
    execution = execution_of(twin)
    assert (execution.layers, execution.floating_layers, execution.simulated) == (7, 3, False)


@pytest.mark.parametrize("runtime", [name for name in INSTALLED if name != "pytorch"])
def test_a_network_that_no_converter_takes_is_told(runtime: str, small_scan: Volume) -> None:
    class Odd(torch.nn.Module):
        def forward(self, patch: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(patch[0, 0, 0]).real.sum() + patch.repeat(1, 2, 1, 1, 1)

    odd = from_module(Odd(), name="odd", roi_size=(4, 16, 16))
    with pytest.raises(UserError, match="Use "):
        accelerate(odd, runtime)
    if runtime == INSTALLED[-1]:
        twin = accelerate(odd)  # the automatic choice works all the same
        assert segment(twin, small_scan).labels.shape == small_scan.shape


def test_the_wish_to_stop_is_heard(patchwise: TorchModel, own_cache: Path) -> None:
    with pytest.raises(Cancelled):
        accelerate(patchwise, cancelled=lambda: True)
    assert not own_cache.exists() or not list(own_cache.rglob("*.json"))


def test_a_memory_of_a_runtime_that_has_gone(
    patchwise: TorchModel, small_scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was chosen yesterday fails today: the model runs all the same, and says so."""
    from medquant.deploy import accelerate as module
    from medquant.deploy.choose import Choice

    gone = replace(Choice("openvino", "fp32", "it was fast"), runtime="tensorrt")
    monkeypatch.setattr(module, "choose", lambda *_args, **_options: (gone, None))
    if RUNTIMES["tensorrt"].version() is not None:
        pytest.skip("TensorRT is here")
    twin = accelerate(patchwise)
    assert not twin.sessions and "tensorrt was chosen and then failed" in twin.why
    assert segment(twin, small_scan).execution.runtime == "pytorch"

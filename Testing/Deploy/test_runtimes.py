"""Every runtime installed here: floating point, caches, threads, and what it cannot do said in a sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import torch
from runtime_parts import INSTALLED, ON_INTEGERS, compiled, part_of, relative
from torch import nn

from medquant.deploy.cache import CompiledCache
from medquant.deploy.openvino_runtime import OpenVino
from medquant.deploy.pytorch_runtime import PyTorch
from medquant.deploy.runtime import RUNTIMES, Session
from medquant.errors import UserError
from medquant.models.registry import load_model
from medquant.quantized_model import QuantizedModel


@pytest.fixture(scope="module")
def fp32(unet: QuantizedModel, image: torch.Tensor) -> Callable[[str], Session]:
    """The network in FP32 by each runtime, compiled once."""

    @cache
    def session(name: str) -> Session:
        return compiled(name, part_of(unet.model.network, image), "fp32")

    return session


@pytest.mark.parametrize("name", INSTALLED)
def test_floating_point_leaves_inputs_unrounded(name: str, fp32: Callable, image: torch.Tensor) -> None:
    session = fp32(name)
    assert relative(session(image), fp32("pytorch")(image)) < 1e-4
    assert not session.simulated


def test_compiled_pytorch_computes_the_same(unet: QuantizedModel, image: torch.Tensor) -> None:
    runtime = RUNTIMES["pytorch-compiled"]
    if runtime.version() is None:
        pytest.skip("this machine has no C++ compiler")
    part = part_of(unet.model.network, image)
    session = runtime.compile(part, precision="fp32", threads=1)
    assert (session.runtime, session.simulated) == ("pytorch-compiled", False)
    assert relative(session(image), PyTorch().compile(part, precision="fp32")(image)) < 1e-4


def test_without_a_compiler_pytorch_is_not_compiled(
    monkeypatch: pytest.MonkeyPatch, unet: QuantizedModel, image: torch.Tensor
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    runtime = RUNTIMES["pytorch-compiled"]
    assert runtime.version() is None
    with pytest.raises(UserError, match="C\\+\\+ compiler"):
        runtime.compile(part_of(unet.model.network, image), precision="fp32")


@pytest.mark.parametrize("name", ON_INTEGERS)
def test_the_number_of_boxes_may_vary(name: str) -> None:
    part = load_model("embedded", device="cpu").parts()["mask_decoder"]
    session = compiled(name, part, "fp32")
    embedding, boxes = part.inputs.values()
    for count in (1, 3):
        some = boxes[:, :1].repeat(1, count, 1) + torch.arange(count)[None, :, None]
        with torch.no_grad():
            assert relative(session(embedding, some), part.module(embedding, some)) < 1e-3


def test_a_second_start_reads_what_the_first_compiled(
    tmp_path: Path, unet: QuantizedModel, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, cache = part_of(unet.model.network, image), CompiledCache(tmp_path)
    first = OpenVino().compile(part, precision="int8", cache=tmp_path)(image)
    assert cache.count() == 1
    monkeypatch.setattr("medquant.deploy.openvino_program.openvino_model", None)  # compiling again would fail
    again = OpenVino().compile(part, precision="int8", cache=tmp_path)
    assert torch.equal(again(image), first)
    assert again.integer_layers == again.quantized_layers or again.simulated


def test_a_damaged_cache_is_rebuilt(tmp_path: Path, unet: QuantizedModel, image: torch.Tensor) -> None:
    part, cache = part_of(unet.model.network, image), CompiledCache(tmp_path)
    first = OpenVino().compile(part, precision="fp32", cache=tmp_path)(image)
    (entry,) = tmp_path.glob("*.compiled")
    entry.write_bytes(entry.read_bytes()[:1000])
    assert torch.equal(OpenVino().compile(part, precision="fp32", cache=tmp_path)(image), first)
    assert cache.read(entry.stem) is not None and cache.size_bytes() > 1000


@pytest.mark.parametrize("name", INSTALLED)
def test_no_permission_to_write_a_cache(tmp_path: Path, name: str, unet: QuantizedModel, image: torch.Tensor) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    assert compiled(name, part_of(unet.model.network, image), "fp32", cache=in_the_way)(image).shape[1] == 3


@pytest.mark.parametrize("name", INSTALLED)
def test_threads_take_turns(name: str, fp32: Callable, image: torch.Tensor) -> None:
    session = fp32(name)
    images = [image * factor for factor in (0.5, 1.0, 2.0)]
    expected, found = [session(one) for one in images], [None] * 3

    def run(number: int) -> None:
        found[number] = session(images[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", INSTALLED)
def test_an_output_stays_as_it_is(name: str, fp32: Callable, image: torch.Tensor) -> None:
    session = fp32(name)
    first = session(image)
    before = first.clone()
    second = session(image * 2 - 1)
    assert torch.equal(first, before), "the next run does not write into it"
    assert not torch.equal(first, second)
    with torch.inference_mode():
        first.zero_()
    assert torch.equal(session(image), before)


def test_pytorch_runs_where_the_model_lies(
    unet: QuantizedModel, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert RUNTIMES["pytorch"].devices()[0] == "cuda"
    part = part_of(unet.model.network, image)
    assert compiled("pytorch", part, "fp32").device == "cpu"
    with pytest.raises(UserError, match="on cpu"):
        compiled("pytorch", part, "fp16")


@pytest.mark.parametrize("name", INSTALLED)
def test_a_precision_that_is_not_there(name: str, unet: QuantizedModel, image: torch.Tensor) -> None:
    with pytest.raises(UserError, match="Choose one of"):
        RUNTIMES[name].compile(part_of(unet.model.network, image), precision="int3")


def test_runtimes_that_are_not_installed_say_how_to_get_them(
    unet: QuantizedModel, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, runtime in RUNTIMES.items():
        if name.startswith("pytorch"):
            continue
        assert (runtime.version(), runtime.devices(), runtime.precisions()) == (None, [], ())
        with pytest.raises(UserError, match="pip install"):
            runtime.compile(part_of(unet.model.network, image), precision="fp32")


def test_an_old_openvino_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2023.3.0")
    assert OpenVino().version() is None


class Unconvertible(nn.Module):
    """Uses something that no converter knows."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(image)


@pytest.mark.parametrize("name", ON_INTEGERS)
def test_an_operator_that_the_runtime_lacks(name: str, image: torch.Tensor) -> None:
    with pytest.raises(UserError, match=r"cannot convert|no form in ONNX|cannot read"):
        RUNTIMES[name].compile(part_of(Unconvertible(), image), precision="fp32")


@pytest.mark.parametrize("name", INSTALLED)
def test_bf16_is_close_where_the_processor_has_it(
    name: str, unet: QuantizedModel, fp32: Callable, image: torch.Tensor
) -> None:
    if "bf16" not in RUNTIMES[name].precisions():
        pytest.skip("no bf16 here")
    part = part_of(unet.model.network, image)
    found = RUNTIMES[name].compile(part, precision="bf16")(image)
    expected = fp32(name)(image)
    assert 0 < relative(found, expected) < 0.05

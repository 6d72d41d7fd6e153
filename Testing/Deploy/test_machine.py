"""What this machine is, told without guessing."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from medquant.deploy.int8_codes import largest_code_here
from medquant.deploy.machine import Machine


def test_this_machine() -> None:
    here = Machine.here()
    assert platform.system() in here.system and platform.machine() in here.system
    assert 1 <= here.cores <= here.threads <= os.cpu_count()
    assert here.memory_mb == psutil.virtual_memory().total / 1e6
    assert here.processor
    assert json.loads(json.dumps(here.to_dict()))["processor"] == here.processor


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="Linux tells its flags here")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86")
def test_instructions_are_those_that_linux_names() -> None:
    line = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    flags = set(line.split())
    names = {
        "AVX2": {"avx2"},
        "AVX-512": {"avx512f"},
        "VNNI": {"avx512_vnni", "avx_vnni"},
        "AMX int8": {"amx_int8"},
        "bf16": {"avx512_bf16", "amx_bf16"},
    }
    assert set(Machine.here().features) == {name for name, wanted in names.items() if wanted & flags}


@pytest.mark.parametrize("vnni", [True, False])
def test_an_older_pytorch_names_the_widest(vnni: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni, raising=False)
    assert Machine.here().features == (("AVX2", "VNNI") if vnni else ("AVX2",))


@pytest.mark.parametrize(
    ("machine", "capabilities", "largest"),
    [
        ("x86_64", ("avx2", "avx_vnni"), 127),
        ("AMD64", ("avx2", "avx512_f", "avx512_vnni"), 127),
        ("x86_64", ("avx2", "avx512_f"), 63),
        ("AMD64", ("avx2",), 63),
        ("arm64", (), 127),
    ],
)
def test_codes_of_weights_are_those_that_the_processor_adds_without_overflow(
    machine: str, capabilities: tuple[str, ...], largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VNNI comes with AVX-512 on servers, and without it on notebooks."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(capabilities, True), raising=False)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: "avx512_vnni" in capabilities, raising=False)
    assert largest_code_here() == largest
    assert Machine.here().has_fast_integers == (largest == 127 and machine != "arm64")


@pytest.mark.parametrize(
    ("features", "fast", "words"),
    [
        (("AVX2", "AVX-512", "VNNI"), True, "fast on this processor (VNNI)"),
        (("AVX2",), False, "gain little"),
        ((), False, "gain nothing"),
        (("NEON dot product",), True, "fast on this processor"),
    ],
)
def test_what_integers_gain_is_told(features: tuple[str, ...], fast: bool, words: str) -> None:
    machine = replace(Machine.here(), features=features)
    assert machine.has_fast_integers == fast
    assert words in machine.integers()

"""Models by the real worker: listed, sized, quantized and kept, exported, added."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from real_scan import Bench


def test_the_panel_knows_the_models_beforehand(bench: Bench) -> None:
    from MedQuantSlicerLib.known_models import KNOWN_MODELS
    from MedQuantSlicerLib.showing import model_line

    told = [model_line(one) for one in bench.loop.result(bench.engine, "models")["models"]]
    for known in KNOWN_MODELS:
        line = next(one for one in told if one.spec == known.spec)
        names = ("title", "task", "needs_box", "modality", "size", "licence", "is_demo")
        assert [getattr(line, name) for name in names] == [getattr(known, name) for name in names]


def test_the_machine_and_the_cache_in_words(bench: Bench) -> None:
    assert "core" in bench.loop.result(bench.engine, "machine")["text"]
    kept = bench.loop.result(bench.engine, "cache")
    assert kept["folder"] == os.environ["MEDQUANT_CACHE"]


def test_expected_sizes_are_those_of_the_files(bench: Bench, quantized: dict[str, Any]) -> None:
    from medquant.worker import measured

    choices = bench.loop.result(bench.engine, "sizes", {"model": "embedded"})["choices"]
    assert choices["4"]["measured"] and choices["4"]["bytes"] == quantized["bytes"]
    assert quantized["bytes"] == Path(quantized["handle"]).stat().st_size
    assert not choices["8"]["measured"]
    assert choices["8"]["bytes"] > choices["4"]["bytes"] > choices["2"]["bytes"]
    assert measured.recall("embedded", quantized["recipe"])["bytes"] == quantized["bytes"]


def test_what_was_quantized_once_is_found_by_a_new_process(bench: Bench, quantized: dict[str, Any]) -> None:
    """As long as scan, slices and settings are the same, and nobody asks to do it again."""
    asked = {"model": "embedded", "volume": bench.volume, "bits": 4, "slices": {"count": 1, "where": "body"}}
    other = bench.loop.engine(sys.executable, "-m", "medquant", "worker")
    scan = {**bench.volume, "array": "again.npy"}
    np.save(other.folder / "again.npy", bench.scan.array)
    answer = bench.loop.ask(other, "quantize", {**asked, "volume": scan})
    bench.loop.wait(lambda: answer.done)
    found = answer.result
    assert found["kept"] and not quantized["kept"]
    assert (found["handle"], found["text"]) == (quantized["handle"], quantized["text"])
    assert not any(told["text"].startswith("Quantizing") for told in answer.progress)
    assert Path(found["handle"]).is_relative_to(os.environ["MEDQUANT_CACHE"])
    np.save(other.folder / "other.npy", bench.scan.array + np.int16(1))
    quick = {**asked, "method": "rtn", "volume": {**scan, "array": "other.npy"}}
    first, second, again = (
        bench.loop.result(other, "quantize", {**quick, **more}) for more in ({}, {}, {"again": True})
    )
    assert [one["kept"] for one in (first, second, again)] == [False, True, False]
    assert first["handle"] == second["handle"] == again["handle"] != quantized["handle"]


def test_a_kept_model_that_is_damaged_is_made_again(quantized: dict[str, Any], tmp_path: Path) -> None:
    from medquant.deploy.quantized_models import is_kept
    from medquant.progress import Progress
    from medquant.worker.methods.quantizing import _found
    from medquant.worker.warm import Warm

    damaged = tmp_path / "w4-cut.mq.safetensors"
    damaged.write_bytes(Path(quantized["handle"]).read_bytes()[:-1000])
    assert is_kept(damaged), "its header is whole"
    assert _found(damaged, SimpleNamespace(warm=Warm()), Progress()) is None


def test_progress_tells_what_happens(bench: Bench) -> None:
    asked = {"model": "embedded", "volume": bench.volume, "bits": 8, "method": "rtn", "slices": 1}
    answer = bench.loop.ask(bench.engine, "quantize", asked)
    bench.loop.wait(lambda: answer.done)
    assert answer.error is None
    fractions = [told["fraction"] for told in answer.progress]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] <= 1
    assert any(told["text"].startswith("Quantizing layer ") for told in answer.progress)


def test_an_export_gets_a_folder_of_its_own(bench: Bench, quantized: dict, tmp_path: Path) -> None:
    asked = {"handle": quantized["handle"], "format": "artifact", "folder": str(tmp_path)}
    first = bench.loop.result(bench.engine, "export", asked)
    second = bench.loop.result(bench.engine, "export", asked)
    assert first["folder"] != second["folder"]
    assert {path.name for path in tmp_path.iterdir()} == {Path(one["folder"]).name for one in (first, second)}
    assert "2.5 MB" in first["text"]


def test_a_quantized_file_is_a_model_like_others(bench: Bench, quantized: dict, tmp_path: Path) -> None:
    path = tmp_path / "mine.mq.safetensors"
    path.write_bytes(Path(quantized["handle"]).read_bytes())
    told = bench.loop.result(bench.engine, "add_weights", {"path": str(path)})["model"]
    assert (told["is_quantized"], told["bits"], told["task"]) == (True, 4, "box")
    listed = bench.loop.result(bench.engine, "models")["models"]
    assert listed[-1]["spec"] == str(path)
    sizes = bench.loop.result(bench.engine, "sizes", {"model": str(path)})["choices"]
    assert list(sizes) == ["4"] and sizes["4"]["measured"]
    error = bench.loop.error(bench.engine, "quantize", {"model": str(path), "volume": bench.volume})
    assert error["kind"] == "user" and "already" in error["message"]
    path.unlink()
    assert str(path) not in [one["spec"] for one in bench.loop.result(bench.engine, "models")["models"]]


def test_cancelling_is_heard_within_a_second(bench: Bench) -> None:
    asked = {"model": "embedded", "volume": bench.volume, "bits": 2, "slices": 8}
    answer = bench.loop.ask(bench.engine, "quantize", asked)
    bench.loop.wait(lambda: any("layer" in told["text"] for told in answer.progress))
    answer.request.cancel()
    assert bench.loop.wait(lambda: answer.done) < 2.0
    assert answer.error["kind"] == "cancelled"
    began = time.monotonic()
    bench.loop.result(bench.engine, "sizes", {"model": "embedded"})  # in the same lane
    assert time.monotonic() - began < 20.0

"""`doctor`, `cache`, and `segment --runtime`: what is here, what computes, what is kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medquant import load_model
from medquant.deploy import choose as choosing
from medquant.deploy.runtime import RUNTIMES
from medquant.evaluation import wording

BOX = "liver=10,10,0,40,50,3"
INSTALLED = [name for name in RUNTIMES if RUNTIMES[name].version() is not None and name != "pytorch-compiled"]
ALL = choosing._ORDER
MISSING = [name for name in RUNTIMES if RUNTIMES[name].version() is None]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(choosing, "BUSY", 2.0)  # choices are remembered whatever else runs here
    return tmp_path / "kept"


def test_doctor_tells_of_this_machine_in_words_and_numbers(medquant, own_cache: Path) -> None:
    told = medquant("doctor")
    assert told.exit_code == 0, told.output
    for word in ("System", "Processor", "Memory", "8-bit integers", *RUNTIMES, str(own_cache)):
        assert word in told.stdout
    data = json.loads(medquant("doctor", "--json", "-").stdout)
    machine = data["machine"]
    assert 1 <= machine["cores"] <= machine["threads"] <= os.cpu_count()
    assert 0 < machine["free_mb"] <= machine["memory_mb"]
    versions = {runtime["name"]: runtime["version"] for runtime in data["runtimes"]}
    assert versions == {name: runtime.version() for name, runtime in RUNTIMES.items()}
    pytorch = next(runtime for runtime in data["runtimes"] if runtime["name"] == "pytorch")
    assert "fp32" in pytorch["precisions"] and pytorch["devices"]
    assert {cache["title"] for cache in data["caches"]} >= {"Compiled models", "Choices of a runtime"}


def test_doctor_measures_anew_and_shows_every_runtime_and_what_was_chosen(
    medquant, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads(medquant("doctor", "--json", "-").stdout)["choices"] == []
    parts = load_model("embedded", device="cpu").parts()
    old = choosing.Choice("pytorch", "auto", "Chosen long ago.", {"pytorch auto": 1e9}, model="embedded")
    choosing._remember(choosing._key(parts, "auto", None), old)
    assert "Chosen long ago" in medquant("doctor").stdout
    monkeypatch.setattr(choosing, "BUSY", 0.0)
    monkeypatch.setattr(choosing, "_ORDER", ALL)
    told = medquant("doctor", "--measure", "--json", "measured.json")
    assert told.exit_code == 0, told.output
    assert "Chosen long ago" not in told.stdout
    assert "Chosen here so far" in told.stdout and "for one pass here" in told.stdout
    assert "cache --clear" in told.stdout
    words = " ".join(told.stdout.split())
    assert "measured again in an hour" in words
    measured = json.loads(Path("measured.json").read_text())["measured"]
    table = told.stdout.partition("Measured now")[2]
    for label, seconds in measured["seconds"].items():
        line = next(line for line in table.splitlines() if line.split()[:1] == [label.partition(" ")[0]])
        assert wording.seconds(seconds) in line and 0 < seconds < 1e9
    assert [line.split()[0] for line in table.splitlines() if line.rstrip().endswith(" chosen")] == [
        measured["runtime"]
    ]
    (choice,) = json.loads(medquant("doctor", "--json", "-").stdout)["choices"]
    assert choice["runtime"] == measured["runtime"] and f"embedded: {choice['reason']}" in words


def test_doctor_outlives_a_broken_runtime(medquant, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        name = "openvino"

        def version(self) -> str:
            raise ImportError("libopenvino.so [2026]: cannot open shared object file\nat line 3")

    monkeypatch.setitem(RUNTIMES, "openvino", Broken())
    told = medquant("doctor")
    assert told.exit_code == 0, told.output
    assert "broken" in told.stdout and "libopenvino.so [2026]" in told.stdout and "Install it again" in told.stdout


def test_doctor_names_a_folder_that_cannot_be_written(medquant, own_cache: Path) -> None:
    own_cache.write_text("a file stands where the folder should be")
    advice = json.loads(medquant("doctor", "--json", "-").stdout)["advice"]
    assert any(str(own_cache) in line and "MEDQUANT_CACHE" in line for line in advice)


@pytest.mark.parametrize("runtime", INSTALLED)
def test_segment_says_what_computed(medquant, scan: Path, small_sam: Path, runtime: str) -> None:
    result = medquant("segment", scan / "ct.nii.gz", "--model", small_sam, "--box", BOX, "--output", "a.nii.gz",
                      "--runtime", runtime, "--precision", "fp32", "--json", "numbers.json")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"Computed by {runtime} fp32" in result.stdout
    data = json.loads(Path("numbers.json").read_text())
    assert (data["runtime"], data["precision"], data["simulated"]) == (runtime, "fp32", None)
    assert data["device"] and list(data["stages"]) == ["load", "preprocess", "encoder", "decoder", "write"]


def test_the_automatic_choice_is_shown_kept_and_cleared(medquant, scan: Path, small_sam: Path, own_cache: Path) -> None:
    command = ("segment", scan / "ct.nii.gz", "--model", small_sam, "--box", BOX, "--runtime", "auto", "--json", "-")
    first = json.loads(medquant(*command).stdout)
    assert first["runtime"].split(" + ")[0] in RUNTIMES and first["reason"]
    assert len(list((own_cache / "choices").glob("*.json"))) == 1
    again = json.loads(medquant(*command).stdout)
    assert (again["runtime"], again["reason"]) == (first["runtime"], first["reason"])

    shown = medquant("cache")
    assert "Choices of a runtime: 1" in shown.stdout
    cleared = json.loads(medquant("cache", "--clear", "--json", "-").stdout)
    assert cleared["freed_bytes"] > 0
    assert [entry["count"] for entry in cleared["kept"][:2]] == [0, 0]
    assert not [path for path in own_cache.rglob("*") if path.is_file()]
    assert json.loads(medquant("cache", "--clear", "--json", "-").stdout)["freed_bytes"] == 0


def test_clearing_leaves_what_is_not_ours(medquant, own_cache: Path) -> None:
    own_cache.mkdir()
    (own_cache / "notes.txt").write_text("mine")
    assert medquant("cache", "--clear").exit_code == 0
    assert (own_cache / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("runtime", MISSING)
def test_a_missing_runtime_is_told_and_nothing_written(medquant, scan: Path, small_sam: Path, runtime: str) -> None:
    result = medquant("segment", scan / "ct.nii.gz", "--model", small_sam, "--box", BOX, "--runtime", runtime)
    assert result.exit_code == 2
    no_gpu = runtime == "tensorrt" and not torch.cuda.is_available()
    assert ("needs an NVIDIA GPU" if no_gpu else f"{runtime} is not installed") in result.stderr
    hint = "C++ compiler" if runtime == "pytorch-compiled" else "pip install"
    assert (hint in result.stderr) != no_gpu
    assert not list(Path().glob("*.nrrd"))


@pytest.mark.parametrize(
    ("option", "word"), [("--runtime", "abacus"), ("--precision", "int3"), ("--precision", "int8")]
)
def test_what_cannot_be_is_told_with_what_can(medquant, scan: Path, small_sam: Path, option: str, word: str) -> None:
    result = medquant("segment", scan / "ct.nii.gz", "--model", small_sam, "--box", BOX, option, word)
    assert result.exit_code == 2
    known = "auto, pytorch, openvino, onnxruntime, tensorrt or pytorch-compiled"
    assert "fp32" in result.stderr or known in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_missing_box_is_told_before_anything_is_measured(
    medquant, scan: Path, small_sam: Path, own_cache: Path
) -> None:
    result = medquant("segment", scan / "ct.nii.gz", "--model", small_sam, "--runtime", "auto")
    assert result.exit_code == 2 and "needs a box" in result.stderr
    assert not own_cache.exists()


def test_damaged_compiled_models_are_made_again(medquant, scan: Path, small_sam: Path, own_cache: Path) -> None:
    """Each of the model's two parts has its own: each is damaged in its own way."""
    command = ("segment", scan / "ct.nii.gz", "--model", small_sam, "--box", BOX, "--runtime", "openvino")
    assert medquant(*command, "--output", "first.nii.gz").exit_code == 0
    entries = [path for path in own_cache.iterdir() if path.is_file()]
    for entry, damage in zip(entries, (b"MQCACHE1", b"\x00" * 4096), strict=True):
        entry.write_bytes(damage)
    result = medquant(*command, "--output", "second.nii.gz")
    assert result.exit_code == 0, result.output
    assert all(path.stat().st_size > 4096 for path in own_cache.iterdir() if path.is_file())
    shutil.rmtree(own_cache)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_without_permission_works(medquant, scan: Path, small_sam: Path, own_cache: Path) -> None:
    own_cache.mkdir(mode=0o500)
    command = ("segment", scan / "ct.nii.gz", "--model", small_sam, "--box", BOX, "--runtime", "auto")
    assert medquant(*command).exit_code == 0


@pytest.mark.parametrize("busy", [True, False])
def test_a_stopped_command_does_not_wait_for_a_library(busy: bool) -> None:
    """A converter is inside a call that nothing can interrupt: the process ends all the same, with its exit code."""
    code = (
        "import threading, sys\n"
        "from medquant import cli\n"
        "from medquant.background import stoppable_call\n"
        "from medquant.errors import Cancelled\n"
        "from medquant.progress import Progress\n"
        f"inside, endless = threading.Event(), {busy}\n"
        "def work():\n"
        "    inside.set()\n"
        "    if endless: threading.Event().wait()\n"
        "def app(**_):\n"
        "    try: stoppable_call(work, Progress(None, lambda: inside.is_set()))\n"
        "    except Cancelled: print('Stopped.')\n"
        "    sys.exit(130)\n"
        "cli.app = app\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 130, done.stderr
    assert "Stopped." in done.stdout or not busy

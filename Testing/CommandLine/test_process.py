"""The command as a process of its own: what it can write to, and how a person stops it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals for one process")


def _start(
    *arguments: str | Path, folder: Path, program: tuple[str, str] = ("-m", "medquant"), **environment: str
) -> subprocess.Popen[str]:
    """`medquant` in a process group of its own, as a terminal starts it."""
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="latin-1",
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment},
        start_new_session=True,
        preexec_fn=_hears_ctrl_c if os.name == "posix" else None,
    )


def _hears_ctrl_c() -> None:
    """A shell that runs the tests in the background has them ignore Ctrl-C, and all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_output_of_few_characters_keeps_the_numbers(tmp_path: Path) -> None:
    """Redirected on Windows, standard output is cp1252, which has no minus sign."""
    from medquant.imaging.volume import Volume
    from medquant.imaging.writing import save_segmentation
    from medquant.segmentation import Segmentation, Structure

    for name, end in (("large", 30), ("small", 25)):
        labels = np.zeros((6, 40, 40), np.uint8)
        labels[1:5, 5:30, 5:end] = 1
        mask = Segmentation(labels, Volume(labels, np.eye(4)), (Structure(1, "liver \N{GREEK SMALL LETTER ALPHA}"),))
        save_segmentation(mask, tmp_path / f"{name}.nii.gz")
    words = ("compare", "large.nii.gz", "small.nii.gz", "--names", "1=liver \N{GREEK SMALL LETTER ALPHA}")
    beside = [_start(*words, folder=tmp_path, PYTHONIOENCODING=encoding) for encoding in ("cp1252", "ascii")]
    for process in beside:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "-0.5" in output.split(), output
        assert "liver ?" in output


def _open_once_read(pipe: Path, process: subprocess.Popen[str]) -> int:
    """The descriptor of a pipe's writing end, as soon as the process has opened the other one."""
    while process.poll() is None:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"the command ended before it read the scan: {process.communicate()[1]}")


def _pressing_ctrl_c(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Output and errors. Pressed again after a while: a signal between opening a pipe and reading it is lost."""
    for _ in range(3):
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=20)
    return pytest.fail("the command goes on reading")


@needs_signals
def test_ctrl_c_ends_the_reading_of_a_scan_at_once(tmp_path: Path) -> None:
    """A scan on a slow disk: here a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "scan.nii.gz")
    process = _start("demo", "--volume", "scan.nii.gz", "--output", "out", folder=tmp_path)
    try:
        pipe = _open_once_read(tmp_path / "scan.nii.gz", process)
        output, errors = _pressing_ctrl_c(process)
        os.close(pipe)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Stopped" in errors
    assert "Traceback" not in output + errors
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


FEW_SCENES = """
import functools
from medquant.cli import main
from medquant.embedded.promptable import training
few = {"images_small": 1, "images_full": 1, "first_scenes": 2, "scenes": 4, "new_scenes": 0}
training.train = functools.partial(training.train, **few)
main()
"""


def _lines(file: Path) -> int:
    return file.read_text().count("\n") if file.exists() else 0


@needs_signals
@pytest.mark.parametrize("moment", ["while the workers import", "while they train"])
def test_ctrl_c_ends_a_training_with_its_checkpoint(tmp_path: Path, moment: str) -> None:
    """A terminal sends Ctrl-C to every process of the group, the training's workers too."""
    process = _start("train-demo", "--output", "out", "--steps", "100000", folder=tmp_path, program=("-c", FEW_SCENES))
    training = moment == "while they train"
    try:
        while process.poll() is None:
            children = psutil.Process(process.pid).children()
            if (_lines(tmp_path / "out" / "log.jsonl") > 0) if training else len(children) > 2:
                break
            time.sleep(0.02)
        time.sleep(1.0 if training else 0.0)  # the workers' reports are looked at five times a second
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "\nTraining stopped" in f"\n{errors}", errors
    assert "Traceback" not in output + errors
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert (tmp_path / "out" / "checkpoint.pt").exists() == training


def test_pytorch_is_loaded_when_it_is_needed() -> None:
    """The window is this process too: PyTorch would double its memory, and read the number of threads too early."""
    code = "import sys, medquant.cli, medquant.worker.process; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch comes with GNU OpenMP on Linux only")
@pytest.mark.parametrize(
    ("set_by_hand", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")]
)
def test_threads_that_wait_soon_give_up_their_core(set_by_hand: dict[str, str], expected: str) -> None:
    """As OpenMP itself tells when PyTorch loads it; what a person has set stays."""
    code = "import sys; from medquant.cli import main\ntry: main()\nexcept SystemExit: import torch"
    clean = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    told = subprocess.run(
        [sys.executable, "-c", code, "--version"],
        env={**clean, **set_by_hand, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{expected}'" in told.stderr

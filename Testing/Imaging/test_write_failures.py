"""Masks that cannot be written: a message, and no partial file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medquant.imaging import writing
from medquant.imaging.volume import Volume
from medquant.segmentation import Segmentation

FILES = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha")


def test_what_cannot_be_written_isrefused(tmp_path: Path, scan: Volume, draw_mask: Callable, refused: Callable) -> None:
    volume = scan
    assert ".seg.nrrd" in refused(tmp_path / "mask.png", draw_mask(scan))
    assert "whole numbers" in refused(tmp_path / "m.nrrd", Segmentation(np.full(volume.shape, 0.5), volume, ()))
    assert "whole numbers" in refused(tmp_path / "m.nrrd", Segmentation(np.full(volume.shape, -1), volume, ()))
    assert "empty" in refused(
        tmp_path / "m.dcm", Segmentation(np.zeros(volume.shape, np.uint8), volume, ()), source=tmp_path
    )
    sheared = volume.affine.copy()
    sheared[:3, 2] += sheared[:3, 1]
    assert "right angles" in refused(tmp_path / "m.nii", draw_mask(Volume(volume.array, sheared)))
    assert "source" in refused(tmp_path / "m.dcm", draw_mask(scan))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", FILES)
@pytest.mark.parametrize("old", [None, b"kept"])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    old: bytes | None,
    scan: Volume,
    draw_mask: Callable,
    refused: Callable,
) -> None:
    path = tmp_path / f"mask{suffix}"
    if old:
        path.write_bytes(old)

    def fill_up(image: sitk.Image, name: str, **options: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing.sitk, "WriteImage", fill_up)
    assert "disk is full" in refused(path, draw_mask(scan))
    assert [each.name for each in tmp_path.iterdir()] == ([path.name] if old else [])
    assert not old or path.read_bytes() == old


@pytest.mark.parametrize("suffix", FILES)
def test_a_writer_that_stops_early_without_a_word_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, scan: Volume, draw_mask: Callable, refused: Callable
) -> None:
    write = sitk.WriteImage

    def stop_early(image: sitk.Image, name: str, **options: object) -> None:
        write(image, name, **options)
        whole = Path(name).read_bytes()
        Path(name).write_bytes(whole[: len(whole) - 20])

    monkeypatch.setattr(writing.sitk, "WriteImage", stop_early)
    assert "could not be written whole" in refused(tmp_path / f"mask{suffix}", draw_mask(scan))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file size")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    "what", ["save_segmentation(Segmentation(labels, volume, ()), {path})", "write_volume(volume, {path})"]
)
def test_a_real_write_error_leaves_nothing_behind(tmp_path: Path, suffix: str, what: str) -> None:
    """The operating system itself refuses to write more than 4 KiB."""
    script = f"""
import resource, signal
import numpy as np
from pathlib import Path
from medquant.errors import UserError
from medquant.imaging.volume import Volume
from medquant.imaging.writing import save_segmentation, write_volume
from medquant.segmentation import Segmentation
labels = np.random.default_rng(0).integers(0, 250, (20, 40, 40)).astype(np.uint8)
volume = Volume(labels, np.eye(4))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    {what.format(path=f"Path({str(tmp_path / ('file' + suffix))!r})")}
except UserError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("refused:"), done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scan: Volume, draw_mask: Callable, refused: Callable
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "Cannot write" in refused(tmp_path / "file" / "mask.nrrd", draw_mask(scan))

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("medquant.files.tempfile.mkdtemp", refuse)
    assert "Permission denied" in refused(tmp_path / "mask.nrrd", draw_mask(scan))
    assert [each.name for each in tmp_path.iterdir()] == ["file"]

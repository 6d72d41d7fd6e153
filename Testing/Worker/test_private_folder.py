"""The folder that holds a scan: removed by its owner, or after it was killed by whoever comes next."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from MedQuantSlicerLib import private_folder
from MedQuantSlicerLib.private_folder import PrivateFolder

OWNER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from MedQuantSlicerLib.private_folder import PrivateFolder
folder = PrivateFolder("panel")
(folder.path / "volume-1.npy").write_bytes(b"a patient")
print(folder.path, flush=True)
time.sleep(600)
"""
MODULE = Path(private_folder.__file__).parents[1]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files, for this process and those that it starts."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def _grow_old(folder: Path) -> None:
    long_ago = time.time() - 2 * private_folder.SETTLED_SECONDS
    os.utime(folder / private_folder.OWNER, (long_ago, long_ago))


def test_what_a_killed_owner_left_is_removed_at_the_next_start(temporary: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(MODULE)], stdout=subprocess.PIPE, text=True)
    folder = Path(owner.stdout.readline().strip())
    assert folder.parent == temporary
    _grow_old(folder)
    private_folder.sweep()
    assert (folder / "volume-1.npy").exists(), "its owner lives"
    owner.kill()
    owner.wait(10)
    another = PrivateFolder("window")
    assert not folder.exists()
    assert another.path.exists()
    another.remove()
    assert list(temporary.iterdir()) == []


def test_it_is_private(temporary: Path) -> None:
    folder = PrivateFolder("panel")
    if os.name == "posix":
        assert folder.path.stat().st_mode & 0o077 == 0
    folder.remove()
    folder.remove()


def test_nothing_else_is_removed(temporary: Path) -> None:
    for name in ("medquant-panel-of-another-kind", "owner-elsewhere"):
        (temporary / name).mkdir()
    (temporary / "owner-elsewhere" / private_folder.OWNER).touch()
    (temporary / "medquant-file").touch()
    just_made = temporary / "medquant-panel-new"
    just_made.mkdir()
    (just_made / private_folder.OWNER).touch()  # and it is about to be locked
    _grow_old(temporary / "owner-elsewhere")
    private_folder.sweep()
    assert len(list(temporary.iterdir())) == 4


def test_what_is_still_open_on_windows_goes_with_a_later_sweep(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = PrivateFolder("panel")
    (folder.path / "volume-1.npy").write_bytes(b"a patient")
    with monkeypatch.context() as patch:
        patch.setattr(private_folder, "REMOVE_SECONDS", 0.1)
        patch.setattr(private_folder.shutil, "rmtree", lambda path, **_: (path / "owner").unlink(missing_ok=True))
        folder.remove()
    assert folder.path.exists()
    _grow_old(folder.path)
    private_folder.sweep()
    assert not folder.path.exists()

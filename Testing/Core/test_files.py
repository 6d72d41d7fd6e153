"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from pathlib import Path

import pytest

from medquant.errors import UserError
from medquant.files import atomic_path, sha256_of_file


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "mask.seg.nrrd"
    with atomic_path(target) as temporary:
        assert temporary.name.endswith(target.name), "writers choose the format by the suffix"
        assert temporary.parent.parent == target.parent, "on the same disk, so that replacing is one step"
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), MemoryError()])
def test_on_any_failure_the_old_file_stays(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_path(target) as temporary:
        temporary.write_bytes(b"half of the n")
        (temporary.parent / "beside.raw").write_bytes(b"what some writers put beside")
        raise error
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    with pytest.raises(UserError, match=r"disk is full.*Free some space"), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_a_disk_quota_that_is_used_up(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"quota is used up.*Delete files"),
        atomic_path(tmp_path / "a.bin") as temporary,
    ):
        temporary.write_bytes(b"half")
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert not list(tmp_path.iterdir())


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network folder accepts everything, and says only when it is flushed that there is no room."""
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    flushed = []

    def flush(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("medquant.files.os.fsync", flush)
    with pytest.raises(UserError, match="disk is full"), atomic_path(target) as temporary:
        temporary.write_bytes(b"whole")
    assert flushed == [5]
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_another_program_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def held(self: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, "Access is denied")

    monkeypatch.setattr(Path, "replace", held)
    with pytest.raises(UserError, match=r"open in another program.*Close it"), atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_writer_that_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Cannot write"), atomic_path(tmp_path / "a.bin"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"Cannot write.*Choose a folder"), atomic_path(tmp_path / "file" / "a.bin"):
        pytest.fail("nothing can be written there")


def test_a_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(UserError, match="Cannot write"), atomic_path(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="this user may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"Cannot write.*Choose a folder"), atomic_path(folder / "a.bin"):
        pytest.fail("nothing can be written there")


def test_a_refused_write_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(UserError, match=r"Permission denied.*Choose a folder"), atomic_path(tmp_path / "a.bin"):
        pytest.fail("nothing can be written there")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
def test_hash_of_a_file(tmp_path: Path, size: int) -> None:
    data = b"x" * size
    (tmp_path / "a").write_bytes(data)
    assert sha256_of_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()

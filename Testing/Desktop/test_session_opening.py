"""A session is unpacked: a broken one leaves what is open; nothing stays on the disk, and nothing is lost meanwhile."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from session_parts import all_volumes

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")


def test_a_broken_session_leaves_what_is_open(opened, hands, tmp_path: Path) -> None:
    volume, path = opened.views.volume, tmp_path / "broken.mrb"
    path.write_bytes(b"PK not really")
    opened.documents.open_path(path)
    hands.until(lambda: "not a session" in opened.notice.said)
    assert opened.views.volume is volume


def test_a_zip_without_a_scene_is_no_session(opened, hands, tmp_path: Path) -> None:
    volume, path = opened.views.volume, tmp_path / "other.mrb"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    opened.documents.open_path(path)
    hands.until(lambda: "not a session" in opened.notice.said)
    assert opened.views.volume is volume


@pytest.mark.parametrize("damage", ["cut", "torn scene", "no scan"])
def test_a_session_is_read_before_the_scene_goes(opened, hands, tmp_path: Path, damage: str) -> None:
    import slicer

    path, volume = tmp_path / "case.mrb", opened.views.volume
    opened.documents.save_session(path)
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    opened.notice.clear()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in content.items():
                if damage == "torn scene" and name.endswith(".mrml"):
                    archive.writestr(name, data[: len(data) // 2])
                elif not (damage == "no scan" and name.endswith(".nrrd")):
                    archive.writestr(name, data)
    opened.documents.open_path(path)
    hands.until(lambda: "not a session" in opened.notice.said)
    assert opened.views.volume is volume and slicer.mrmlScene.IsNodePresent(volume)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def _large_session(opened, hands, tmp_path: Path) -> Path:
    """A saved one with a member that takes a while to unpack."""
    path = tmp_path / "large.mrb"
    opened.documents.save_session(path)
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    opened.notice.clear()
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("large/Data/large.bin", bytes(400_000_000))
    return path


def test_a_window_that_closes_while_it_opens_leaves_no_scan_on_the_disk(
    opened, hands, tmp_path: Path, temporary: Path
) -> None:
    path = _large_session(opened, hands, tmp_path)
    assert list(temporary.iterdir()) == []
    opened.documents.open_path(path)
    hands.until(lambda: list(temporary.glob("*/*/*/*")))
    (folder,) = temporary.iterdir()
    assert (folder / "owner").is_file(), "it is removed at the next start where this process is killed"
    opened.close()
    assert not opened.isVisible()
    assert list(temporary.iterdir()) == []
    hands.wait(0.2)
    assert list(temporary.iterdir()) == []


def test_while_it_saves_too_what_is_on_the_disk_has_an_owner(opened, hands, tmp_path: Path, temporary: Path) -> None:
    opened.documents.save_session(tmp_path / "owner.mrb")
    (folder,) = temporary.iterdir()
    assert (folder / "owner").is_file()
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    assert list(temporary.iterdir()) == []
    opened.documents.open_path(tmp_path / "owner.mrb")
    hands.until(lambda: opened.windowTitle.startswith("small ct") and list(temporary.iterdir()) == [])


def test_a_session_that_would_write_elsewhere_is_none(opened, hands, tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "evil.mrb"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../../elsewhere.txt", "hello")
    opened.documents.open_path(path)
    hands.until(lambda: "not a session" in opened.notice.said)
    assert not list(tmp_path.rglob("elsewhere.txt"))


def test_what_is_opened_while_a_session_is_unpacked_takes_its_place(
    opened, hands, tmp_path: Path, temporary: Path, scan_file: Path
) -> None:
    path = _large_session(opened, hands, tmp_path)
    opened.documents.open_path(path)
    hands.until(lambda: list(temporary.glob("*/*/*/*")))
    volume = opened.views.volume
    opened.documents.open_path(scan_file)
    hands.until(lambda: opened.views.volume is not volume)
    assert len(all_volumes()) == 2
    hands.wait(1.0)
    assert len(all_volumes()) == 2, "the scene was not emptied under it"
    assert list(temporary.iterdir()) == []


def test_what_is_drawn_while_a_session_is_unpacked_goes_only_after_a_question(
    opened, hands, tmp_path: Path, temporary: Path
) -> None:
    from MedQuantSlicerLib import boxes

    path = _large_session(opened, hands, tmp_path)
    asked: list[int] = []
    opened.documents.may_lose = lambda: bool(asked.append(1))
    opened.documents.open_path(path)
    hands.until(lambda: list(temporary.glob("*/*/*/*")))
    volume = opened.views.volume
    boxes.fit_box(boxes.new_box(volume, "spot"), volume, (18, 20, 0), (25, 25, 1))
    hands.until(lambda: asked)
    hands.wait(0.2)
    assert [node.GetName() for node in boxes.boxes_of(volume)] == ["spot"]
    assert opened.views.volume is volume and opened.notice.said == ""
    assert list(temporary.iterdir()) == []

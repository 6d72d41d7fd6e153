"""run.py: its commands, the platforms and pins that it names, and how it runs the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def test_no_command_is_the_demonstration(run_py: ModuleType) -> None:
    assert run_py.parse([]).command == ["demo"]


def test_set_up_options_stand_before_the_command_only(run_py: ModuleType, tmp_path: Path) -> None:
    request = run_py.parse(["--reinstall", "--find-links", str(tmp_path), "segment", "--find-links", "x"])
    assert request.reinstall
    assert request.find_links == tmp_path.resolve()
    assert request.command == ["segment", "--find-links", "x"]
    assert run_py.parse([f"--find-links={tmp_path}"]).find_links == tmp_path.resolve()


@pytest.mark.parametrize("arguments", [["--find-links"], ["--find-links", "no-such-folder"], ["--find-links="]])
def test_a_missing_wheel_folder_is_named(run_py: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(run_py.SetupError, match="folder"):
        run_py.parse(arguments)


def _run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(folder / "run.py"), *arguments], capture_output=True, text=True, check=False
    )


def test_help_needs_no_environment(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_bytes((CHECKOUT / "run.py").read_bytes())
    done = _run("--help", folder=tmp_path)
    assert done.returncode == 0
    assert "python3 run.py test" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["run.py"]


def test_a_failed_set_up_ends_with_a_line_and_code_3(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_bytes((CHECKOUT / "run.py").read_bytes())
    done = _run("--find-links", "no-such-folder", "demo", folder=tmp_path)
    assert done.returncode == 3
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    done = _run("demo", folder=tmp_path)
    assert done.returncode == 3, "python_lib is missing"
    assert "requirements.txt" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_old_python_is_told_so() -> None:
    source = (CHECKOUT / "run.py").read_text(encoding="utf-8")
    check = source[: source.index("import hashlib")].replace("import sys\n", "", 1)

    class Old:
        version_info = (3, 8, 10)
        maxsize = sys.maxsize
        exit = staticmethod(sys.exit)

    with pytest.raises(SystemExit, match=r"this is Python 3\.8"):
        exec(compile(check, "run.py", "exec"), {"sys": Old})


def test_the_readme_names_the_same_platforms(run_py: ModuleType) -> None:
    readme = " ".join((CHECKOUT / "README.md").read_text(encoding="utf-8").split())
    project = (CHECKOUT / "python_lib" / "pyproject.toml").read_text(encoding="utf-8")
    assert run_py.PLATFORMS in readme
    assert run_py.PLATFORMS in run_py.explain("ERROR: No matching distribution found for torch==2.13.0")
    assert 'requires-python = ">=3.10,<3.14"' in project


def test_the_pins_are_exact_and_agree_with_the_package() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pinned: dict[str, set[str]] = {}
    for name in ("requirements.txt", "requirements-test.txt", "requirements-app.txt", "constraints.txt"):
        for line in (CHECKOUT / "python_lib" / name).read_text(encoding="utf-8").splitlines():
            if line.startswith("#"):
                continue
            requirement = Requirement(line)
            (clause,) = requirement.specifier
            assert clause.operator == "=="
            pinned.setdefault(canonicalize_name(requirement.name), set()).add(clause.version)
    for line in metadata.requires("medquant"):
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and "cluster" in str(requirement.marker):
            continue  # a cluster has the version of Ray that it has
        assert name in pinned, f"{name} is not pinned"
        for version in pinned[name]:
            assert requirement.specifier.contains(version), f"{requirement} does not allow {version}"


def test_all_tests_run_side_by_side_and_a_choice_as_asked(run_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_py.os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that it is put back
    monkeypatch.delenv("OMP_NUM_THREADS")
    for chosen in (["Testing/Core"], ["-m", "heavy"], ["-k", "box"], ["-n", "8"], ["--pdb"]):
        assert run_py.side_by_side(chosen) == chosen
    assert "OMP_NUM_THREADS" not in os.environ
    assert run_py.side_by_side(["-q"]) == ["-n", "4", "--dist", "loadfile", "-q"]
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setattr(run_py.os, "cpu_count", lambda: 1)
    assert run_py.side_by_side([]) == []


def test_no_window_is_downloaded_where_none_can_be_shown(
    run_py: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_py.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(run_py, "prepare", lambda request: pytest.fail("something was prepared"))
    assert run_py.main(["app"]) == 2
    assert "There is no display" in "".join(capsys.readouterr())
    monkeypatch.setenv("DISPLAY", ":0")
    assert run_py.has_display()


def test_rooms_with_windows_have_processes_of_their_own(run_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    codes = iter((0, 1, 0))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(run_py.subprocess, "call", lambda command, cwd: started.append(command) or next(codes))
    assert run_py.run_tests(Path("python"), ["-q"]) == 1
    whole, *rooms = started
    assert [command[-1] for command in rooms] == ["Testing/Panel", "Testing/Desktop"]
    assert {"Testing", "--ignore=Testing/Panel", "--ignore=Testing/Desktop"} < set(whole)
    assert all((run_py.ROOT / command[-1]).is_dir() and "-q" in command for command in rooms)

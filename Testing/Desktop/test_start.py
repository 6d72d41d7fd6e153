"""How the window starts: `run.py app` brings its pins, `medquant app` says what is missing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def test_run_py_installs_the_windows_pins_when_it_is_asked_for() -> None:
    spec = importlib.util.spec_from_file_location("run_for_the_window", CHECKOUT / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    assert module.requirements_of("app") == [
        module.LIBRARY / name for name in ("requirements.txt", "requirements-app.txt")
    ]
    assert module.LIBRARY / "requirements-app.txt" in module.requirements_of("test")
    assert module.requirements_of("demo") == [module.LIBRARY / "requirements.txt"]
    del sys.modules[spec.name]


def test_without_its_libraries_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from medquant.commands import app
    from medquant.errors import UserError

    monkeypatch.setattr(app, "find_spec", lambda name: None if name == "PySide6" else object())
    with pytest.raises(UserError, match=r"PySide6.*run\.py app"):
        app.app([])


def test_help_needs_none_of_them() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medquant", "app", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "python_lib")},
        check=False,
    )
    assert done.returncode == 0
    assert "side by side" in " ".join(done.stdout.split())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a display")
def test_without_a_display_it_says_so_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")
    displays = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    settings = {name: value for name, value in os.environ.items() if name not in displays}
    done = subprocess.run(
        [sys.executable, "-m", "medquant", "app"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**settings, "PYTHONPATH": str(CHECKOUT / "python_lib"), "HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 2
    assert "no display" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2, done.stderr
    assert done.stdout == ""


def test_it_starts_as_a_program_of_its_own_and_ends_by_a_signal(scan_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")
    code = (
        "import sys\n"
        "from medquant_desktop import app\n"
        "from PySide6.QtCore import QTimer\n"
        "made = app.make_window\n"
        "def make():\n"
        "    window = made()\n"
        "    timer = QTimer(window); timer.setInterval(50)\n"
        "    timer.timeout.connect(lambda: window.views.volume is not None and (print('open'), window.close()))\n"
        "    timer.start()\n"
        "    return window\n"
        "app.make_window = make\n"
        "sys.exit(app.main(sys.argv[1:]))\n"
    )
    settings = {"PYTHONPATH": str(CHECKOUT / "python_lib"), "QT_QPA_PLATFORM": "offscreen", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(scan_file)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **settings},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "open" in done.stdout
    assert "Traceback" not in done.stderr

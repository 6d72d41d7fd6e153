"""Packages in Slicer's Python: one question, one installation at a time, and Slicer's own stay as they are."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest


class FakePackaging(ModuleType):
    """As of `slicer.packaging`: processes that a test lets end, one at a time as in Slicer."""

    def __init__(self):
        super().__init__("slicer.packaging")
        self.asked, self.running, self.codes = [], None, {}

    def pip_check(self, requirement):
        return requirement.startswith("numpy")

    def isPipInstallInProgress(self):
        return self.running is not None

    def pip_install(self, arguments, *, blocking, show_progress, requester, logCallback, completedCallback):
        assert not blocking
        if self.running:
            raise RuntimeError("A non-blocking pip_install is already in progress.")
        self.begin("pip", arguments, logCallback, completedCallback)

    def begin(self, module, arguments, log, ended):
        self.asked.append((module, arguments))
        self.running = (arguments, log, ended)
        log("Collecting no-such-package-of-medquant>=2")

    def end(self, code=0, would_install=()):
        """The process that runs ends."""
        arguments, log, ended = self.running
        self.running = None
        if "--report" in arguments:
            entries = [{"metadata": {"name": name, "version": "2.0"}} for name in would_install]
            Path(arguments[arguments.index("--report") + 1]).write_text(json.dumps({"install": entries}))
        if code:
            log("ERROR: no network")
        ended(code)


@pytest.fixture
def packaging(slicer, monkeypatch):
    made = FakePackaging()
    monkeypatch.setitem(sys.modules, "slicer.packaging", made)
    monkeypatch.setattr(slicer, "packaging", made, raising=False)

    def execute(module, arguments, *, blocking, logCallback, completedCallback):
        assert not blocking
        made.begin(module, arguments, logCallback, completedCallback)

    monkeypatch.setattr(slicer.util, "executePythonModule", execute, raising=False)
    return made


@pytest.fixture
def torch_there(monkeypatch):
    _look_for_torch(monkeypatch, SimpleNamespace(origin="torch"))


@pytest.fixture
def torch_away(monkeypatch):
    _look_for_torch(monkeypatch, None)


def _look_for_torch(monkeypatch, found):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: found if name == "torch" else real(name, *a))


class Pressed:
    """What one press of a button was told."""

    def __init__(self, packages):
        self.words, self.done, self.problems = [], 0, []
        packages.install(self.words.append, self._finish, lambda *problem: self.problems.append(problem))

    def _finish(self):
        self.done += 1


@pytest.fixture
def packages(slicer, packaging, tmp_path):
    from MedQuantSlicerLib.slicer_packages import EnginePackages

    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# a comment\nnumpy>=1\nno-such-package-of-medquant>=2\n")
    return EnginePackages(str(requirements))


def test_what_is_missing_is_named_with_its_size_and_source(packages, torch_there):
    text = packages.missing().text
    assert "no-such-package-of-medquant" in text
    assert "numpy" not in text
    assert "PyTorch" not in text
    assert "400 MB" in text
    assert "Python Package Index" in text


def test_what_is_there_is_looked_for_once(packages, packaging, monkeypatch, torch_there):
    seen = []
    monkeypatch.setattr(packaging, "pip_check", lambda requirement: seen.append(requirement) or True)
    assert [packages.missing(), packages.missing()] == [None, None]
    assert len(seen) == 2, "two requirements, each once"


def test_before_slicer_has_imported_it_the_installer_is_found(slicer, packages, monkeypatch, torch_there):
    """`import slicer` does not bring `slicer.packaging`."""
    monkeypatch.delattr(slicer, "packaging")
    assert "numpy" not in packages.missing().text
    assert Pressed(packages).problems == []


def test_an_older_slicer_is_told_of(packages, monkeypatch, torch_there):
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    assert "no-such-package-of-medquant" in packages.missing().text
    assert "5.12" in Pressed(packages).problems[0][0]


def test_while_slicer_tests_nothing_is_installed(slicer, packages, packaging, monkeypatch, torch_there):
    monkeypatch.setattr(slicer.app, "testingEnabled", lambda: True)
    assert packages.missing() is not None, "what is missing is missing all the same"
    assert len(Pressed(packages).problems) == 1
    assert packaging.asked == []


def test_packages_are_resolved_then_installed_without_slicers_own(packages, packaging, torch_there):
    pressed = Pressed(packages)
    ((module, arguments),) = packaging.asked
    assert module == "pip"
    assert "--dry-run" in arguments, "the first step only asks"
    assert "no-such-package-of-medquant>=2" in arguments
    pinned = Path(arguments[arguments.index("-c") + 1]).read_text(encoding="utf-8")
    assert "numpy==" in pinned
    assert "simpleitk" not in pinned.lower(), "a build of Slicer's that nnU-Net's requirement refuses is no obstacle"
    packaging.end(would_install=["no-such-package-of-medquant", "simpleitk", "SimpleITK", "Torch", "some_dependency"])
    _, arguments = packaging.asked[-1]
    assert arguments == ["--no-deps", "no-such-package-of-medquant==2.0", "some_dependency==2.0"]
    assert pressed.done == 0
    packaging.end()
    assert (pressed.done, pressed.problems) == (1, [])
    assert pressed.words[0] == "Fetching no"


def test_nothing_but_slicers_own_is_nothing_to_install(packages, packaging, torch_there):
    pressed = Pressed(packages)
    packaging.end(would_install=["SimpleITK"])
    assert len(packaging.asked) == 1
    assert pressed.done == 1


def test_torch_comes_first_and_is_never_imported_here(packages, packaging, torch_away):
    code = "torch" in sys.modules
    pressed = Pressed(packages)
    assert "PyTorch" in packages.missing().text
    assert packaging.asked[0][1][0].startswith("light-the-torch")
    packaging.end()
    module, arguments = packaging.asked[1]
    assert (module, arguments[:2]) == ("light_the_torch", ["install", "torch"])
    packaging.end()
    assert "--dry-run" in packaging.asked[2][1]
    packaging.end(would_install=[])
    assert pressed.done == 1
    assert ("torch" in sys.modules) == code


def test_an_offline_folder_brings_torch_too(packages, packaging, torch_away, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    Pressed(packages)
    module, arguments = packaging.asked[0]
    assert (module, arguments[0]) == ("pip", "torch")


@pytest.mark.parametrize("step", [0, 1])
def test_a_failure_shows_the_log(packages, packaging, torch_there, step):
    pressed = Pressed(packages)
    if step:
        packaging.end(would_install=["some_dependency"])
    packaging.end(code=1)
    ((text, log),) = pressed.problems
    assert "network" in text
    assert "ERROR: no network" in Path(log).read_text(encoding="utf-8")
    assert Pressed(packages).problems == [], "pressed again, it begins again"


def test_a_cancelled_installation_ends_silently_and_goes_no_further(packages, packaging, torch_there):
    pressed = Pressed(packages)
    packages.cancel()
    packaging.end(would_install=["some_dependency"])
    assert len(packaging.asked) == 1
    assert (pressed.done, pressed.problems) == (0, [])


def test_pressed_again_after_cancel_says_what_is_under_way(packages, packaging, torch_there):
    first = Pressed(packages)
    packages.cancel()
    second = Pressed(packages)
    assert "still under way" in second.problems[0][0]
    packaging.end(would_install=["some_dependency"])
    assert (first.done, second.done) == (0, 0), "what was asked for at the first press is not begun now"
    third = Pressed(packages)
    packaging.end(would_install=[])
    assert (first.done, second.done, third.done) == (0, 0, 1)


def test_torch_under_way_counts_too(packages, packaging, torch_away, monkeypatch):
    Pressed(packages)
    packaging.end()
    monkeypatch.setattr(packaging, "isPipInstallInProgress", lambda: False)  # Slicer counts pip alone
    packages.cancel()
    assert "still under way" in Pressed(packages).problems[0][0]


def test_another_extension_that_installs_is_waited_for(packages, packaging, torch_there):
    packaging.running = ([], None, None)
    assert "still under way" in Pressed(packages).problems[0][0]
    assert packaging.asked == []


def _wheel(folder, name, version, requires=()):
    """A wheel of one empty module."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as made:
        made.writestr(f"{name}.py", "")
        made.writestr(f"{info}/METADATA", metadata)
        made.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        made.writestr(f"{info}/RECORD", "")


def test_pip_itself_leaves_simpleitk_alone(slicer, packaging, torch_there, tmp_path, monkeypatch):
    """With the real pip and a folder of wheels: what needs another SimpleITK comes, that SimpleITK does not."""
    from MedQuantSlicerLib.slicer_packages import EnginePackages

    wheels, target = tmp_path / "wheels", tmp_path / "target"
    wheels.mkdir()
    _wheel(wheels, "medquant_test_a", "1.0", ["SimpleITK>=99", "medquant-test-b"])
    _wheel(wheels, "medquant_test_b", "1.1")
    _wheel(wheels, "SimpleITK", "99.0")

    def pip_install(arguments, *, logCallback, completedCallback, **_how):
        command = [sys.executable, "-m", "pip", "install", *arguments, "--target", str(target), "--no-index"]
        done = subprocess.run([*command, "--find-links", str(wheels)], capture_output=True, text=True, check=False)
        for line in (done.stdout + done.stderr).splitlines():
            logCallback(line)
        completedCallback(done.returncode)

    monkeypatch.setattr(packaging, "pip_install", pip_install)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("medquant-test-a\n")
    pressed = Pressed(EnginePackages(str(requirements)))
    assert (pressed.done, pressed.problems) == (1, [])
    assert sorted(path.name for path in target.glob("*.py")) == ["medquant_test_a.py", "medquant_test_b.py"]

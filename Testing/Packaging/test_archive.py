"""The archives are unpacked as Slicer does it, and the module is imported from there by a bare Python."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REVISION = "34045"
# Slicer, Qt and VTK as far as importing goes: any name of them is a class that can be derived from, called, or asked.
STUBS = """
import sys, types

class Meta(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return make(name)

def make(name):
    return Meta(name, (), {"__init__": lambda self, *a, **k: None})

class Offered(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("tr", "_"):
            return lambda text: text
        if name == "parameterNodeWrapper":
            return lambda cls: cls
        return make(name)

names = ["slicer", "qt", "ctk", "vtk", "i18n", "ScriptedLoadableModule", "parameterNodeWrapper", "util"]
for name in names[:4] + ["slicer." + name for name in names[4:]]:
    sys.modules[name] = Offered(name)
"""


@pytest.fixture(scope="module")
def packer():
    path = ROOT / "Packaging" / "extension_archive.py"
    spec = importlib.util.spec_from_file_location("extension_archive", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def archives(packer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    return packer.write_archives(folder, "5.12", REVISION)


def _unpack(archive, folder):
    """What qSlicerExtensionsManagerModel does: one top folder, whose content becomes the extension's folder."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            names = opened.namelist()
            opened.extractall(folder)
    else:
        with tarfile.open(archive) as opened:
            names = opened.getnames()
            opened.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else opened.extractall(folder)
    assert not [name for name in names if name.startswith(("./", "/")) or ".." in name or "\\" in name]
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 1
    top = tops.pop()
    assert names[0].rstrip("/") == top
    described = [name for name in names if name.endswith(".s4ext")]
    assert len(described) == 1
    extension = Path(described[0]).stem
    content = folder / top
    if "macos" in archive.name:
        content = content / "Slicer.app" / "Contents" / f"Extensions-{REVISION}" / extension
    installed = folder / "installed" / extension
    shutil.copytree(content, installed)
    return installed


@pytest.mark.parametrize("kind", ["linux", "windows", "macos"])
def test_unpacked_by_slicers_rules(archives, kind, tmp_path):
    installed = _unpack(next(path for path in archives if kind in path.name), tmp_path)
    assert installed.name == "MedQuantSlicer"
    lines = (installed / "share" / "Slicer-5.12" / "MedQuantSlicer.s4ext").read_text().splitlines()
    told = dict(line.split(" ", 1) for line in lines)
    assert told["depends"] == "PyTorch"
    assert all(told.values())
    modules = installed / "lib" / "Slicer-5.12" / "qt-scripted-modules"
    assert sorted(path.name for path in modules.iterdir()) == [
        "MedQuantSlicer.py",
        "MedQuantSlicerLib",
        "Resources",
        "medquant",
    ]
    for part, source in (("MedQuantSlicerLib", ROOT / "MedQuantSlicer"), ("medquant", ROOT / "python_lib")):
        there = {path.relative_to(modules) for path in (modules / part).rglob("*.py")}
        assert there == {path.relative_to(source) for path in (source / part).rglob("*.py")}
    assert (modules / "Resources" / "UI" / "MedQuantSlicer.ui").is_file()
    assert list((modules / "medquant" / "embedded" / "weights").rglob("*.safetensors"))
    assert not list(installed.rglob("*.pyc"))


def test_imported_with_nothing_but_the_standard_library(archives, tmp_path):
    installed = _unpack(archives[0], tmp_path)
    modules = installed / "lib" / "Slicer-5.12" / "qt-scripted-modules"
    code = STUBS + (
        "import importlib, json, pathlib\n"
        f"sys.path.insert(0, {str(modules)!r})\n"
        "before = set(sys.modules)\n"
        "parts = sorted(pathlib.Path(sys.path[0], 'MedQuantSlicerLib').glob('*.py'))\n"
        "names = ['MedQuantSlicerLib.' + part.stem for part in parts]\n"
        "loaded = [importlib.import_module(name).__file__ for name in ['MedQuantSlicer', *names]]\n"
        "import medquant\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps([loaded, sorted(new - set(sys.stdlib_module_names))]))\n"
    )
    # -I and -S: neither the environment nor installed packages are seen.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded, foreign = json.loads(done.stdout)
    assert len(loaded) > 30
    assert all(Path(path).is_relative_to(modules) for path in loaded)
    assert foreign == ["MedQuantSlicer", "MedQuantSlicerLib", "medquant"]


def test_equal_sources_give_equal_archives(packer, archives, tmp_path):
    again = packer.write_archives(tmp_path, "5.12", REVISION)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in archives]


def test_the_index_entry_is_named_like_the_project():
    entry = json.loads((ROOT / "Resources" / "MedQuantSlicer.json").read_text(encoding="utf-8"))
    assert entry["build_dependencies"] == ["PyTorch"]
    assert f'set(EXTENSION_HOMEPAGE "{entry["scm_url"]}")' in (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert f'set(EXTENSION_CATEGORY "{entry["category"]}")' in (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")


def test_run_py_packs(tmp_path):
    command = [sys.executable, str(ROOT / "run.py"), "package", "--out", str(tmp_path), "--slicer", "5.13"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name.split("-")[-1] for path in tmp_path.iterdir()) == ["linux.tar.gz", "windows.zip"]
    wrong = subprocess.run([*command[:-1], "five"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "Give two numbers" in wrong.stderr

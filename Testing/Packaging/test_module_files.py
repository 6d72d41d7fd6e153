"""What Slicer's packager and loader ask of the module's files."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "MedQuantSlicer"
SCRIPTS = sorted([MODULE / "MedQuantSlicer.py", *(MODULE / "MedQuantSlicerLib").rglob("*.py")])
# What is there when Slicer loads modules.
OFFERED = {"slicer", "qt", "ctk", "vtk", "MedQuantSlicerLib"}


def _listed(variable):
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    block = re.search(rf"set\({variable}\s+(.*?)\)", text, re.DOTALL).group(1)
    return sorted(line.strip().replace("${MODULE_NAME}", "MedQuantSlicer") for line in block.split())


def test_every_script_is_listed():
    assert _listed("MODULE_PYTHON_SCRIPTS") == sorted(str(path.relative_to(MODULE).as_posix()) for path in SCRIPTS)


def test_every_resource_is_listed():
    resources = [path for path in (MODULE / "Resources").rglob("*") if path.is_file()]
    assert _listed("MODULE_PYTHON_RESOURCES") == sorted(path.relative_to(MODULE).as_posix() for path in resources)


def _imports_at_file_scope(tree):
    """Top-level names of the modules that importing a file imports: functions are left out, `if` and `try` are not."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))
            waiting.extend(h for child in getattr(node, "handlers", ()) for h in child.body)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_only_the_standard_library_at_file_scope(path):
    imported = set(_imports_at_file_scope(ast.parse(path.read_text(encoding="utf-8"))))
    assert imported <= OFFERED | set(sys.stdlib_module_names)


PLAIN = ("actions", "engine_process", "facts", "host", "presenter", "showing", "state", "works")


@pytest.mark.parametrize("name", PLAIN)
def test_the_presenter_knows_neither_qt_nor_mrml(name):
    imported = set(_imports_at_file_scope(ast.parse((MODULE / "MedQuantSlicerLib" / f"{name}.py").read_text("utf-8"))))
    assert not imported & {"qt", "ctk", "vtk", "slicer", "numpy"}


def _calls(tree):
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_manners_of_pythonqt(path):
    """No class of Qt in `isinstance`, no signals of our own, no `exec()`; all of these have broken in Slicer."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = _calls(tree)
    assert not {"qt.Signal", "Signal", "qt.Slot"} & calls
    assert not [call for call in calls if call.endswith(".exec")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            assert "qt." not in ast.unparse(node.args[1])


def test_engine_packages_are_those_of_the_engine():
    """What is installed in Slicer is what `medquant` depends on, but for what Slicer or its extension brings."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((ROOT / "python_lib" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    brought = {"torch", "numpy", "scipy", "simpleitk", "pydicom", "requests"}
    text = (MODULE / "Resources" / "requirements.txt").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert set(lines) == {line for line in project["dependencies"] if _name(line) not in brought}
    assert not [line for line in lines if "==" in line], "floors, so that extensions can live together"


def _name(requirement):
    return re.match(r"[\w.-]+", requirement).group().lower()


def test_cmake_says_what_the_extension_is():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "project(MedQuantSlicer)" in text
    told = dict(re.findall(r'set\((EXTENSION_\w+) "([^"]*)"\)', text))
    assert told["EXTENSION_DEPENDS"] == "PyTorch"
    wanted = {"HOMEPAGE", "CATEGORY", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"}
    assert {f"EXTENSION_{name}" for name in wanted} == set(told)
    assert not [value for value in told.values() if "$" in value or not value], "plain quoted literals"
    for name in ("LICENSE", "README.md"):
        assert (ROOT / name).is_file()
    for url in (told["EXTENSION_ICONURL"], told["EXTENSION_SCREENSHOTURLS"]):
        assert (ROOT / url.split("/main/")[1]).is_file()

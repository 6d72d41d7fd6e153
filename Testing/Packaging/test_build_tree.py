"""The extension is configured, built and installed by CMake itself, with stand-ins for Slicer's macros."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = "lib/Slicer-5.12/qt-scripted-modules"
SLICER = f"""
set(Slicer_USE_FILE "${{CMAKE_CURRENT_LIST_DIR}}/Use.cmake")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "{MODULES}")
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR "{MODULES}")
set(Slicer_EXTENSION_GENERATE_CONFIG "${{CMAKE_CURRENT_LIST_DIR}}/Nothing.cmake")
set(Slicer_EXTENSION_CPACK "${{CMAKE_CURRENT_LIST_DIR}}/Nothing.cmake")
"""
MACROS = """
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  foreach(file ${MY_SCRIPTS} ${MY_RESOURCES})
    configure_file(${file} ${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}/${file} COPYONLY)
  endforeach()
endmacro()
macro(slicer_add_python_unittest)
  file(WRITE ${CMAKE_BINARY_DIR}/tests.txt "${ARGN}")
endmacro()
"""


@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("c++")), reason="no CMake or no compiler here")
def test_the_engine_lies_beside_the_module_where_the_tests_run(tmp_path):
    slicer, build, installed = tmp_path / "slicer", tmp_path / "build", tmp_path / "installed"
    slicer.mkdir()
    (slicer / "SlicerConfig.cmake").write_text(SLICER)
    (slicer / "Use.cmake").write_text(MACROS)
    (slicer / "Nothing.cmake").touch()

    def cmake(*arguments):
        done = subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    cmake("-S", ROOT, "-B", build, f"-DSlicer_DIR={slicer}", "-DBUILD_TESTING=ON", "-DCMAKE_BUILD_TYPE=Release")
    cmake("--build", build)
    assert (build / MODULES / "MedQuantSlicer.py").is_file()
    assert (build / MODULES / "medquant" / "__init__.py").is_file(), "or CTest's tests cannot import the engine"
    assert list((build / MODULES / "medquant" / "embedded" / "weights").rglob("*.safetensors"))
    assert "MedQuantSlicer.py" in (build / "tests.txt").read_text(), "the self test is one of CTest's"
    cmake("--install", build, "--prefix", installed)
    assert (installed / MODULES / "medquant" / "__init__.py").is_file()
    assert not list(installed.rglob("*.pyc"))

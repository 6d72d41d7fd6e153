"""Packs the Slicer extension, engine included, into archives that Slicer's "Install from file" accepts.

`python3 run.py package --out FOLDER` for Linux and Windows; `--revision N` (of Slicer, as its About box says) adds the
one for macOS, whose folders are named after it. Standard library only. Equal sources give equal archives.
"""

from __future__ import annotations

import argparse
import gzip
import io
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
NAME = "MedQuantSlicer"
SLICERS = ("5.12", "5.13")
"""Versions of Slicer; an archive is for one of them, by the names of its folders."""
SKIPPED = {"__pycache__"}
WHEN = (2025, 1, 1, 0, 0, 0)
WHEN_SECONDS = 1735689600


def main(arguments: list[str]) -> int:
    """Write the archives; returns the exit code."""
    parser = argparse.ArgumentParser(prog="run.py package", description="Pack the extension for 3D Slicer.")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the archives")
    parser.add_argument("--slicer", action="append", metavar="M.m", help=f"version of Slicer ({' and '.join(SLICERS)})")
    parser.add_argument("--revision", metavar="N", help="Slicer's revision: packs for macOS too")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    for version in asked.slicer or SLICERS:
        if not re.fullmatch(r"\d+\.\d+", version):
            parser.error(f"{version} is no version of Slicer. Give two numbers, for example --slicer 5.12.")
        for path in write_archives(asked.out, version, asked.revision):
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def write_archives(folder: Path, version: str, revision: str | None = None) -> list[Path]:
    """The archives for one version of Slicer."""
    files = contents(version)
    stem = f"{NAME}-{engine_version()}-Slicer-{version}"
    written = [_write_tar(folder / f"{stem}-linux.tar.gz", stem, files)]
    written.append(_write_zip(folder / f"{stem}-windows.zip", stem, files))
    if revision:
        inside = PurePosixPath("Slicer.app/Contents") / f"Extensions-{revision}" / NAME
        moved = {f"{inside}/{name}": data for name, data in files.items()}
        written.append(_write_tar(folder / f"{stem}-macos.tar.gz", stem, moved))
    return written


def contents(version: str) -> dict[str, bytes]:
    """What is installed: bytes by the path inside the extension's folder."""
    modules = f"lib/Slicer-{version}/qt-scripted-modules"
    files = {f"share/Slicer-{version}/{NAME}.s4ext": description().encode()}
    module, engine = ROOT / NAME, ROOT / "python_lib"
    for base, parts in ((module, (f"{NAME}.py", f"{NAME}Lib", "Resources")), (engine, ("medquant",))):
        for path in _files(base, parts):
            files[f"{modules}/{path.relative_to(base).as_posix()}"] = path.read_bytes()
    files[f"share/Slicer-{version}/{NAME}-LICENSE.txt"] = (ROOT / "LICENSE").read_bytes()
    return files


def description() -> str:
    """The text of the `.s4ext` file, from what CMakeLists.txt says."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    told = {key.lower(): value for key, value in re.findall(r'set\(EXTENSION_(\w+) "([^"]*)"\)', text)}
    lines = {
        "scm": "git",
        "scmurl": told["homepage"],
        "depends": told["depends"],
        "build_subdirectory": ".",
        **{key: told[key] for key in ("homepage", "contributors", "category", "iconurl", "description")},
        "screenshoturls": told["screenshoturls"],
        "enabled": "1",
    }
    return "".join(f"{key} {value}\n" for key, value in lines.items())


def engine_version() -> str:
    """Of the engine, which is that of the extension."""
    text = (ROOT / "python_lib" / "medquant" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'__version__ = "([^"]+)"', text).group(1)


def _files(base: Path, parts: Iterable[str]) -> list[Path]:
    found: list[Path] = []
    for part in parts:
        path = base / part
        found += [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sorted(one for one in found if not SKIPPED & set(one.parts) and one.suffix not in (".pyc", ".pyo"))


def _write_tar(path: Path, top: str, files: Mapping[str, bytes]) -> Path:
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in _folders(top, files):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o755, WHEN_SECONDS
            archive.addfile(folder)
        for name, data in sorted(files.items()):
            file = tarfile.TarInfo(f"{top}/{name}")
            file.size, file.mode, file.mtime = len(data), 0o644, WHEN_SECONDS
            archive.addfile(file, io.BytesIO(data))
    return path


def _write_zip(path: Path, top: str, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _folders(top, files):
            archive.writestr(zipfile.ZipInfo(f"{name}/", WHEN), b"")
        for name, data in sorted(files.items()):
            file = zipfile.ZipInfo(f"{top}/{name}", WHEN)
            file.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(file, data)
    return path


def _folders(top: str, files: Iterable[str]) -> list[str]:
    """Every folder, those above first: Slicer takes the name of the first entry for that of the archive."""
    inside = {str(parent) for name in files for parent in PurePosixPath(name).parents if str(parent) != "."}
    return [top, *(f"{top}/{name}" for name in sorted(inside))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

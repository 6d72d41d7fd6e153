"""Writes the scene for a session: small nodes by MRML, one in each turn of the event loop; scans by whoever packs them.

A scan is most of a session. Its voxels are not copied to the disk first: a header of NRRD and an array that is already
in memory are all that packing needs.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

DATA = "Data"
NRRD_TYPES = {
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "uint16": "uint16",
    "int32": "int32",
    "uint32": "uint32",
    "float32": "float",
    "float64": "double",
}


@dataclass(frozen=True)
class Scan:
    """The file of a scan, as it is to be packed."""

    name: str
    """Relative to the session's folder."""
    header: bytes
    array: np.ndarray
    """The scene's own voxels, (k, j, i)."""


def writing(folder: Path) -> Generator[None, None, list[Scan]]:
    """Write the scene into an empty folder; returns the scans whose files are still to be written. Raises `OSError`."""
    (folder / DATA).mkdir()
    scans: list[Scan] = []
    files: list[tuple[Any, str]] = []
    for node in slicer.util.getNodesByClass("vtkMRMLStorableNode"):
        storage = _storage_of(node)
        if storage is None:
            continue
        name = _free_name(node, storage, {file for _storage, file in files})
        files.append((storage, name))
        scan = _scan(node, f"{DATA}/{name}")
        if scan is not None:
            # Else a left-handed scan would come back turned over, and the masks on it would not.
            storage.SetForceRightHandedIJKCoordinateSystem(False)
            scans.append(scan)
        else:
            storage.SetUseCompression(False)
            with _named(storage, str(folder / DATA / name)):
                if not storage.WriteData(node):
                    raise OSError(f"{node.GetName()} could not be written to {folder.parent}")
        yield
    _write_scene(folder, files)
    return scans


def _write_scene(folder: Path, files: list[tuple[Any, str]]) -> None:
    """The scene itself, in one turn: all nodes name their files in the folder meanwhile."""
    from MedQuantSlicerLib import mask_views

    scene, file = slicer.mrmlScene, folder / f"{folder.name}.mrml"
    before = scene.GetURL(), scene.GetRootDirectory()
    with ExitStack() as until_written:
        until_written.enter_context(mask_views.drawn_everywhere())
        scene.SetURL(str(file))
        scene.SetRootDirectory(str(folder))
        until_written.callback(scene.SetURL, before[0])
        until_written.callback(scene.SetRootDirectory, before[1])
        for storage, name in files:
            until_written.enter_context(_named(storage, str(folder / DATA / name)))
        if not scene.Commit(str(file)):
            raise OSError(f"The scene could not be written to {folder.parent}")


def _storage_of(node: Any) -> Any:
    """What writes a node's contents; None where they are not part of a session."""
    if not node.GetSaveWithScene():
        return None
    if node.GetStorageNode() is None:
        node.AddDefaultStorageNode()
    storage = node.GetStorageNode()
    return storage if storage is not None and storage.GetSaveWithScene() else None


def _free_name(node: Any, storage: Any, taken: set[str]) -> str:
    stem = re.sub(r"[^\w.-]+", "-", node.GetName() or node.GetID()).strip("-.") or "node"
    extension = storage.GetDefaultWriteFileExtension()
    candidates = (f"{stem}{'' if n == 1 else f'-{n}'}.{extension}" for n in range(1, len(taken) + 2))
    return next(name for name in candidates if name not in taken)


@contextmanager
def _named(storage: Any, file: str) -> Iterator[None]:
    """While its node is written to this file and no other."""
    before, members = storage.GetFileName(), [storage.GetNthFileName(n) for n in range(storage.GetNumberOfFileNames())]
    storage.ResetFileNameList()
    storage.SetFileName(file)
    try:
        yield
    finally:
        storage.SetFileName(before or "")
        storage.ResetFileNameList()
        for member in members:
            storage.AddFileName(member)


def _scan(node: Any, name: str) -> Scan | None:
    """A scan of one value for each voxel; None for everything else, which MRML writes."""
    if node.GetClassName() != "vtkMRMLScalarVolumeNode" or node.GetImageData() is None or not name.endswith(".nrrd"):
        return None
    array = slicer.util.arrayFromVolume(node)
    if array.ndim != 3 or array.dtype.name not in NRRD_TYPES or not array.dtype.isnative or not array.size:
        return None
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    signs = (-1.0, -1.0, 1.0)  # from RAS to LPS
    columns = [[signs[row] * matrix.GetElement(row, column) + 0.0 for row in range(3)] for column in range(4)]
    *directions, origin = (f"({','.join(map(repr, column))})" for column in columns)
    lines = (
        "NRRD0004",
        f"type: {NRRD_TYPES[array.dtype.name]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(size) for size in reversed(array.shape))}",
        f"space directions: {' '.join(directions)}",
        "kinds: domain domain domain",
        f"endian: {'little' if np.little_endian else 'big'}",
        "encoding: raw",
        f"space origin: {origin}",
        "",
        "",
    )
    return Scan(name, "\n".join(lines).encode("ascii"), array)

"""What decides a measurement, as a key: weights, recipe, scans, code, libraries; what changes is measured anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import medquant

_NOT_DECIDING = ("bench", "commands", "worker")
_LIBRARIES = ("torch", "monai", "nnunetv2", "transformers", "openvino")
"""Those that hold networks or compute them, and that every installation has."""


def key_of(parts: object) -> str:
    """A key of plain data."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


@cache
def code_version(*deciding: str) -> str:
    """A hash of the engine's code, of the files of the benchmark (below `medquant`) that decide its numbers, and of the
    versions of the libraries that compute."""
    root = Path(medquant.__file__).parent
    engine = [file for file in root.rglob("*.py") if file.relative_to(root).parts[0] not in _NOT_DECIDING]
    digest = hashlib.sha256()
    for file in sorted([*engine, *(root / name for name in deciding)]):
        digest.update(f"{file.relative_to(root).as_posix()}\n".encode())
        digest.update(file.read_bytes())
    digest.update(json.dumps([_version(name) for name in _LIBRARIES]).encode())
    return digest.hexdigest()[:12]


def _version(library: str) -> str | None:
    """Without the build's own word ("+cpu"): a cluster and a laptop may differ in that."""
    try:
        return metadata.version(library).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def fingerprint(case: Any) -> str:
    """What tells a case or a path from another: its fields, and for files their names, sizes and times.

    A case that is neither a dataclass nor a path is known by its voxels.
    """
    digest = hashlib.sha256(case.name.encode())
    if is_dataclass(case) or isinstance(case, Path):
        for part in _parts_of(case):
            digest.update(f"{part}\n".encode())
    else:
        digest.update(case.volume().content_hash().encode())
    return digest.hexdigest()


def _parts_of(value: Any) -> Iterator[str]:
    """The plain values in a case in a fixed order; of a folder all files inside."""
    if isinstance(value, Path):
        for file in sorted(value.rglob("*")) if value.is_dir() else [value]:
            if file.is_file():
                facts = file.stat()
                yield f"{file.name} {facts.st_size} {facts.st_mtime_ns}"
    elif isinstance(value, dict):
        yield from _parts_of(tuple(value.items()))
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _parts_of(entry)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _parts_of(getattr(value, field.name))
    else:
        yield repr(value)

"""What this package keeps on disk for a user: compiled models, choices of a runtime, quantized models, downloads."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medquant.cache_place import benchmark_folder
from medquant.deploy.cache import CompiledCache, cache_folder
from medquant.deploy.choose import choices_folder
from medquant.deploy.quantized_models import quantized_folder
from medquant.models import hub


@dataclass(frozen=True)
class Kept:
    """Files of one kind."""

    title: str
    folder: Path
    count: int
    bytes: int
    writable: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "folder": str(self.folder)}


def kept() -> tuple[Kept, ...]:
    """Compiled models, choices of a runtime, quantized models (the panel's, and a cluster's for benchmarks), and
    downloaded weights, with the folder of each."""
    compiled = CompiledCache(cache_folder())
    choices, quantized, weights = choices_folder(), quantized_folder(), hub.cache_folder()
    bench = benchmark_folder()
    return (
        Kept("Compiled models", compiled.folder, compiled.count(), compiled.size_bytes(), _writable(compiled.folder)),
        Kept("Choices of a runtime", choices, *_total(choices), _writable(choices)),
        Kept("Quantized models", quantized, *_total(quantized), _writable(quantized)),
        Kept("Models of benchmarks on a cluster", bench, *_total(bench), _writable(bench)),
        Kept("Downloaded weights", weights, *_total(weights), _writable(weights)),
    )


def clear_kept() -> int:
    """Remove compiled models, choices, and quantized models; returns the bytes that were freed."""
    freed = CompiledCache(cache_folder()).clear()
    for path in [*_files(choices_folder()), *_files(quantized_folder()), *_files(benchmark_folder())]:
        with suppress(OSError):
            size = path.stat().st_size
            path.unlink()
            freed += size
    return freed


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []


def _total(folder: Path) -> tuple[int, int]:
    sizes = []
    for path in _files(folder):
        with suppress(OSError):
            sizes.append(path.stat().st_size)
    return len(sizes), sum(sizes)


def _writable(folder: Path) -> bool:
    """Whether files can be put into a folder, which may still have to be made."""
    there = next((parent for parent in (folder, *folder.parents) if parent.exists()), None)
    return there is not None and there.is_dir() and os.access(there, os.W_OK)

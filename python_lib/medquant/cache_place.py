"""Where what can be made again is kept. Imports next to nothing: a panel asks too."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of this user's compiled models (MEDQUANT_CACHE, else the platform's place for caches)."""
    given = os.environ.get("MEDQUANT_CACHE")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("medquant", False)) / "compiled"


def benchmark_folder() -> Path:
    """The folder of quantized models that a cluster's machine made for a benchmark."""
    return cache_folder() / "benchmarks"

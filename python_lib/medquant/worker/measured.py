"""What was measured on this machine, remembered: seconds, size and loss of each model at each bit-width."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from medquant.deploy.cache import cache_folder
from medquant.errors import UserError
from medquant.files import atomic_path

FP32 = 32


def recall(model: str, bits: int) -> dict[str, Any]:
    """What is known of a model (by name or path) at a bit-width: "seconds", "per", "bytes", "accuracy" as far as it is.

    `seconds` are `per` "slice" or "scan", with the runtime that is fastest here; `accuracy` is the engine's verdict on
    the scan that was compared last.
    """
    return _read(_file()).get(model, {}).get(str(bits), {})


def remember(model: str, bits: int, **facts: Any) -> None:
    """Add facts. They are of use, not needed: a folder that cannot be written is no error."""
    with suppress(UserError):
        known = _read(_file())
        known.setdefault(model, {}).setdefault(str(bits), {}).update(facts)
        _write(_file(), known)


def added() -> list[dict[str, Any]]:
    """The models that the user added by path and that are still there, as `models` tells of them."""
    told = _read(_added_file()).get("models", [])
    return [one for one in told if Path(one["spec"]).exists()]


def add(told: dict[str, Any]) -> None:
    """Remember a model that the user added; one of the same path is replaced."""
    others = [one for one in _read(_added_file()).get("models", []) if one["spec"] != told["spec"]]
    with suppress(UserError):
        _write(_added_file(), {"models": [*others, told]})


def _file() -> Path:
    return cache_folder() / "measured.json"


def _added_file() -> Path:
    return cache_folder() / "added.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _write(path: Path, data: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")

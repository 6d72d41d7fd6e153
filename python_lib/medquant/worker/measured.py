"""What was measured on this machine, remembered: seconds, size and loss of each model by each recipe."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from medquant.deploy.cache import cache_folder
from medquant.errors import UserError
from medquant.files import atomic_path

FP32 = "FP32"
_OWN = "override"
"""What a recipe says of itself where the user decided about single layers: what it gives is no expectation."""


def recall(model: str, recipe: str) -> dict[str, Any]:
    """What is known of a model (by name or path) and a recipe (as it describes itself, or "FP32").

    As far as it is known: "seconds" `per` "slice" or "scan", with the runtime that was chosen last, "bytes" of the
    file, and "verdicts", what masks had lost, by the scan that was compared.
    """
    return {} if _OWN in recipe else _read(_file()).get(model, {}).get(recipe, {})


def remember(model: str, recipe: str, **facts: Any) -> None:
    """Add facts, to those by scan where they are so. They are of use, not needed: a folder that cannot be written is no
    error."""
    if _OWN in recipe:
        return
    with suppress(UserError):
        known = _read(_file())
        before = known.setdefault(model, {}).setdefault(recipe, {})
        for name, fact in facts.items():
            before[name] = {**before.get(name, {}), **fact} if isinstance(fact, dict) else fact
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

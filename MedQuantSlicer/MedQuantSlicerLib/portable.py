"""Paths in what is saved with a scene: the user's own folders by a word, so that nobody's name travels with a patient's
scan, and so that they are found on another machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

CACHE, HOME = "<cache>", "<home>"


def portable(value: Any) -> Any:
    """The same, at every depth, with the folders' words in place of their paths."""
    return _with_texts(value, _named)


def local(value: Any) -> Any:
    """The same with the folders as they are here."""
    return _with_texts(value, _found)


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_with_texts(key, change): _with_texts(one, change) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_with_texts(one, change) for one in value]
    return value


def _named(text: str) -> str:
    if not Path(text).is_absolute():
        return text
    for word, folder in _folders().items():
        if Path(text).is_relative_to(folder):
            return f"{word}/{Path(text).relative_to(folder).as_posix()}"
    return text


def _found(text: str) -> str:
    word, _slash, rest = text.partition("/")
    folder = _folders().get(word) if word in (CACHE, HOME) else None
    return str(folder / rest) if folder is not None else text


def _folders() -> dict[str, Path]:
    try:
        from medquant.cache_place import cache_folder

        return {CACHE: cache_folder(), HOME: Path.home()}
    except (ImportError, RuntimeError):  # nothing is installed yet; nobody has a home
        return {}

"""The errors that a user can act on, and how choices are spelled in them."""

from __future__ import annotations

from collections.abc import Iterable


def one_of(names: Iterable[object]) -> str:
    """Names to choose from, in words: "fp32, bf16 or int8"."""
    *first, last = map(str, names)
    return f"{', '.join(first)} or {last}" if first else last


class MedQuantError(Exception):
    """Base of every error raised on purpose by this package."""


class UserError(MedQuantError):
    """Something the user asked for cannot be done.

    The message is one sentence on what is wrong and one on what to do. Front ends show it as it stands,
    without a traceback.
    """


class Cancelled(MedQuantError):
    """The user stopped the work. Nothing was written."""

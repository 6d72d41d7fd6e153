"""The errors that a user can act on, and how choices are spelled in them."""

from __future__ import annotations

from collections.abc import Iterable


def one_of(names: Iterable[object]) -> str:
    """Names to choose from, in words: "fp32, bf16 or int8"."""
    *first, last = map(str, names)
    return f"{', '.join(first)} or {last}" if first else last


def first_line(error: BaseException) -> str:
    """The first line of what an error says, where most libraries put the reason; its class where it says nothing."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """The last line of what an error says, where OpenVINO puts the reason; its class where it says nothing."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]


class MedQuantError(Exception):
    """Base of every error raised on purpose by this package."""


class UserError(MedQuantError):
    """Something the user asked for cannot be done.

    The message is one sentence on what is wrong and one on what to do. Front ends show it as it stands,
    without a traceback.
    """


class Cancelled(MedQuantError):
    """The user stopped the work. Nothing was written."""


class Notice(UserWarning):
    """Something that was done otherwise than asked and that a user should know; nothing need be done about it.

    Given with `warnings.warn`. Commands and the window show it as it stands.
    """

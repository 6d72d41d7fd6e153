"""The errors that a user can act on."""

from __future__ import annotations


class MedQuantError(Exception):
    """Base of every error raised on purpose by this package."""


class UserError(MedQuantError):
    """Something the user asked for cannot be done.

    The message is one sentence on what is wrong and one on what to do. Front ends show it as it stands,
    without a traceback.
    """


class Cancelled(MedQuantError):
    """The user stopped the work. Nothing was written."""

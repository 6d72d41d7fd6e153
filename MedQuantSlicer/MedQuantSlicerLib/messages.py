"""The words of the presenter, in one place to be translated."""

from __future__ import annotations

try:
    from slicer.i18n import tr as _  # there in Slicer only
except ImportError:

    def _(text: str) -> str:
        return text


CANCEL = _("Cancel")

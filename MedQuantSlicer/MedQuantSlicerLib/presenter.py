"""What happens when the user does something: plain Python, without Qt and without MRML.

The panel calls a verb for every button and is told what to show after every change. Nothing here waits: the engine
answers by callbacks that arrive in the same thread.
"""

from __future__ import annotations

from collections.abc import Callable

from MedQuantSlicerLib.host import Host
from MedQuantSlicerLib.state import Shown


class Presenter:
    """The panel's mind.

    `engine` is an `EngineProcess` (or what behaves like one), `host` the application, `changed(shown)` is called after
    every change with all that is to be shown, and once by `start`.
    """

    ACTIONS = (
        "add_weights",
        "download",
        "clear_cache",
        "open_cache",
        "quantize",
        "place_box",
        "box_from_segment",
        "segment",
        "compare",
        "jump_to_worst",
        "difference",
        "save_report",
        "find_sensitivity",
        "keep_precise",
        "forget_wishes",
        "export",
        "open_exported",
        "open_log",
        "cancel",
    )
    """Keys of `Shown.actions`, each a verb below."""

    def __init__(self, engine: object, host: Host, changed: Callable[[Shown], None]) -> None:
        raise NotImplementedError

    @property
    def shown(self) -> Shown:
        """What `changed` was called with last."""
        raise NotImplementedError

    # -- life

    def start(self) -> None:
        """The panel is there: show what is known. Asks the engine nothing that would need an installation."""

    def tick(self, now: float | None = None) -> None:
        """To be called about twice a second: counts the time left down and notices an engine that has hung."""

    def close(self) -> None:
        """The panel goes: end the engine, give the layout back."""

    def scene_closed(self) -> None:
        """The scene was emptied: forget all that was about it."""

    # -- scan and model

    def volume_chosen(self, volume: object = None) -> None:
        """Another scan is chosen, or it has changed; the host is asked which. Masks of the old one stay in the scene."""

    def model_chosen(self, spec: str) -> None:
        """Another model of the list."""

    def add_weights(self, path: str) -> None:
        """A file or folder of the user's: MedSAM, nnU-Net results, a quantized model. It joins the list and is chosen."""

    def download(self) -> None:
        """Fetch the chosen model, after a question that says how much and from where."""

    def clear_cache(self) -> None:
        """Remove what was compiled (downloads stay), after a question."""

    def open_cache(self) -> None:
        """Show the cache's folder."""

    # -- quantize

    def bits_chosen(self, bits: int) -> None:
        """8, 4 or 2."""

    def set_option(self, name: str, value: object) -> None:
        """Change one of `Options`. A value that is not allowed is ignored."""

    def quantize(self) -> None:
        """Quantize the chosen model with slices of the scan; while that runs: cancel."""

    # -- segment

    def place_box(self) -> None:
        """Let the user draw a box."""

    def box_from_segment(self) -> None:
        """Put a box around the selected segment."""

    def boxes_changed(self) -> None:
        """The host's boxes have changed."""

    def segment(self) -> None:
        """Segment with FP32, quantized or both, then compare where both are there; while that runs: cancel."""

    # -- compare

    def compare(self) -> None:
        """Compare the masks that are there once more, with the reference that is chosen now."""

    def reference_chosen(self, name: str = "") -> None:
        """Another reference segmentation is chosen in the panel; empty: none."""

    def jump_to_worst(self) -> None:
        """Show the slice in which the masks differ most."""

    def difference(self) -> None:
        """Show the difference as a segmentation of its own, or take it away."""

    def save_report(self, path: str = "") -> None:
        """Write the comparison as a page."""

    # -- layers

    def find_sensitivity(self) -> None:
        """Quantize one layer at a time and measure what that does to the output; while that runs: cancel."""

    def layer_chosen(self, name: str) -> None:
        """A row of the heatmap was clicked; empty: none."""

    def keep_precise(self, layer: str = "", bits: int = 8) -> None:
        """Keep a layer (empty: the chosen one) at `bits` (32: floating point), or where it is kept so, no longer."""

    def forget_wishes(self) -> None:
        """No layer is kept precise any longer."""

    # -- export and the rest

    def export(self, format: str = "", folder: str = "") -> None:
        """Write the quantized model to a new folder inside `folder`; while that runs: cancel."""

    def open_exported(self) -> None:
        """Show the folder that was written last."""

    def open_log(self) -> None:
        """Show the folder of the log of the problem that is shown."""

    def dismiss(self) -> None:
        """The problem has been read."""

    def cancel(self) -> None:
        """Stop what runs; what was there before stays."""

"""What only the application around the panel can do: its scene, its views, its dialogs.

Implemented once for Slicer and once for the stand-alone window. Coordinates are LPS millimetres and arrays are
(k, j, i) on the scan's own grid; whoever implements this turns them into the scene's RAS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

Point = tuple[float, float, float]
"""x, y, z in LPS millimetres."""
Matrix = tuple[tuple[float, float, float, float], ...]
"""Four rows of four numbers."""

Stop = Callable[[], None]
"""Stops what was begun."""

FP32, QUANTIZED, DIFFERENCE = "fp32", "quantized", "difference"
"""The kinds of masks. A difference has the labels `FP32_ONLY` and `QUANTIZED_ONLY`."""
FP32_ONLY, QUANTIZED_ONLY = 1, 2
COMPARISON, CHOICES = "comparison", "choices"
"""What text is kept for in the scene, beside the masks of a kind."""


@dataclass(frozen=True)
class VolumeInfo:
    """A scan of the scene, without its voxels."""

    key: str
    """Changes with the voxels and the geometry, transforms included: what was written or segmented under an old key is
    not used under a new one."""
    name: str
    modality: str
    """"CT", "MR" or "" where the scene does not tell."""
    shape: tuple[int, int, int]
    """Voxels along (k, j, i)."""
    spacing: tuple[float, float, float]
    """Millimetres along (i, j, k)."""
    ijk_to_lps: Matrix
    """From voxel indices (i, j, k, 1) to the world, with the linear transforms that the volume stands under."""
    digest: str = ""
    """Of its voxels: the same wherever the scan lies and in whatever session it is open; "" where it is not known."""
    problem: str = ""
    """Why it cannot be used, in two sentences (a colour picture, a non-linear transform); empty: it can."""


@dataclass(frozen=True)
class BoxInfo:
    """A box that the user drew."""

    name: str
    corners: tuple[Point, ...]
    """Its eight corners in the world (two opposite ones will do for a box along the scan's axes)."""
    label: int = 1


@dataclass(frozen=True)
class Masks:
    """Labels on the scan's grid, in a file of numpy's."""

    file: str
    """`.npy`, unsigned integers (k, j, i), 0 for background. It stays until the next result of this kind."""
    labels: dict[int, str]
    """Name of each label value."""
    offset: tuple[int, int, int] = (0, 0, 0)
    """The voxel (k, j, i) of the scan at which this block begins. A partial result is a block of slices that have just
    become known; a whole one has all that is not background."""
    shown_as: str = ""
    """What computed it, for the title of the view and of the segmentation: "FP32", "4-bit"."""


@dataclass(frozen=True)
class Missing:
    """What has to be installed before the engine can run."""

    text: str
    """What, how large and where from, for the one question that is asked."""


class Host(Protocol):
    """The application. Everything is called from its GUI thread and returns at once, unless it says otherwise."""

    # -- what the scene holds

    def volume(self) -> VolumeInfo | None:
        """The scan that is chosen in the panel; None where there is none."""

    def write_volume(self, path: str, on_done: Callable[[], None], on_error: Callable[[Exception], None]) -> Stop:
        """Write the chosen scan's voxels, (k, j, i), to the `.npy` file `path`. The scene is not changed.

        Large arrays take their time: this returns at once, and calls `on_done()` or `on_error(error)` at the end.
        What it returns stops it, and nothing is called then.
        """

    def boxes(self) -> Sequence[BoxInfo]:
        """The boxes on the chosen scan, in the order in which they were drawn."""

    def is_placing(self) -> bool:
        """Whether the next clicks in a view draw a box."""

    def write_reference(
        self, path: str, on_done: Callable[[dict[int, str]], None], on_error: Callable[[Exception], None]
    ) -> Stop:
        """Write the chosen reference segmentation as labels on the scan's grid to `path`; `on_done` gets their names.

        In the manner of `write_volume`; the error is a `ValueError`, with a sentence for the user, where the
        reference cannot be put on that grid.
        """

    def masks_state(self, kind: str) -> str:
        """Changes with the voxels and names of the masks of a kind, also by another hand; "" where there are none.

        Masks that were saved and loaded again are in the state in which they were.
        """

    def reference_state(self) -> str:
        """The same for the chosen reference."""

    def write_masks(
        self, kind: str, path: str, on_done: Callable[[dict[int, str]], None], on_error: Callable[[Exception], None]
    ) -> Stop:
        """Write the masks of a kind as they are in the scene now, in the manner of `write_reference`."""

    # -- what is saved with the scene

    def keep(self, what: str, text: str) -> None:
        """Keep a text with the masks of a kind, with their `COMPARISON` or with the user's `CHOICES`; "": none."""

    def kept(self, what: str) -> str:
        """What was kept there, also by another run of another application; "" where there is nothing."""

    # -- what the scene is given

    def start_box(self, from_segment: bool = False) -> None:
        """Let the user draw a box, or put one around the selected segment. `Presenter.boxes_changed` is called when
        that has begun to wait for the user, and when it has ended."""

    def show_masks(self, kind: str, masks: Masks, partial: bool) -> None:
        """Put masks of a kind into its segmentation (in place of earlier ones) and into its view.

        `partial`: only the block that `masks` covers is new; the rest of the segmentation stays.
        """

    def set_aside(self, kind: str) -> Callable[[], None]:
        """Before masks of a kind are replaced: what this returns puts them back as they are now, with what is kept with
        them, or takes away what came where there were none.
        """

    def remove_masks(self, kind: str) -> None:
        """Take the segmentation of a kind away where there is one."""

    def show_pair(self) -> None:
        """Show the two linked views."""

    def show_results(self, left_title: str, right_title: str, difference: bool) -> None:
        """What stands over the two views, empty where nothing was computed of the chosen scan, and whether there is a
        difference to be shown beside them. Called whenever any of it is another."""

    def restore_layout(self) -> None:
        """The layout that the user had before `show_pair`."""

    def jump_to(self, position: Point) -> None:
        """Show the slices through a place in both views."""

    # -- what the application asks and opens

    def confirm(self, text: str) -> bool:
        """Ask a question of yes and no, and wait for the answer."""

    def open_folder(self, path: str) -> None:
        """Show a folder in the system's file browser."""

    # -- the engine's packages

    def missing(self) -> Missing | None:
        """What the engine lacks to run in this application; None where it can start."""

    def install(self, on_progress: Callable[[str], None], on_done: Callable[[], None], on_error: Callable) -> None:
        """Install it in the background. `on_progress(text)`; at the end `on_done()` or `on_error(text, log_path)`."""

    def cancel_install(self) -> None:
        """Stop installing; `on_error` is not called."""

    def restarted(self) -> None:
        """The engine was restarted after it ended by itself; the application may note it in its log."""

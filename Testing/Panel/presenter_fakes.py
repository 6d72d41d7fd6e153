"""An engine that answers when the test says so, and an application that notes what it is asked to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from MedQuantSlicerLib.host import CHOICES, BoxInfo, Masks, Missing, Point, VolumeInfo
from MedQuantSlicerLib.presenter import Presenter
from MedQuantSlicerLib.state import Action, Shown

IDENTITY = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
CT = VolumeInfo("ct-1", "ct", "CT", (20, 512, 512), (0.9766, 0.9766, 2.0), IDENTITY, "1f")
LIVER = BoxInfo("liver", ((0.0, 0.0, 0.0), (50.0, 50.0, 10.0)))
SIZES = {
    "choices": {
        "8": {"size": "4.3 MB", "seconds": "", "verdicts": {}, "measured": False},
        "4": {"size": "2.5 MB", "seconds": "0.1 s a slice", "verdicts": {"1f": "small loss"}, "measured": True},
        "2": {"size": "1.6 MB", "seconds": "", "verdicts": {}, "measured": False},
    }
}
MODELS = {
    "models": [
        {"spec": "embedded", "title": "Small promptable model", "task": "box", "size": "7.7 MB", "is_demo": True},
        {"spec": "embedded-nnunet", "title": "nnU-Net", "task": "automatic"},
        {"spec": "medsam", "title": "MedSAM", "task": "box", "present": False, "can_download": True, "size": "375 MB"},
        {"spec": "/w4.mq", "title": "mine W4", "task": "box", "is_quantized": True, "bits": 4, "size": "2.5 MB"},
    ]
}
WORST = {"axis": 0, "index": 13, "voxels": 141, "position": [1.0, 2.0, 3.0], "text": "Slice 14 of 20 differs most"}


class FakeRequest:
    """A request that waits for the test."""

    def __init__(self, method: str, params: Mapping[str, Any], callbacks: Mapping[str, Callable | None]) -> None:
        self.method, self.params, self._callbacks = method, dict(params), callbacks
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def tell(self, name: str, content: dict[str, Any]) -> None:
        """Call one of the callbacks."""
        if self._callbacks.get(f"on_{name}") is not None:
            self._callbacks[f"on_{name}"](content)


class FakeEngine:
    """Keeps the requests; quick questions are answered at once."""

    def __init__(self) -> None:
        self.asked: list[FakeRequest] = []
        self.discarded: list[str] = []
        self.closed = False
        self.ticks = 0
        self.restarted: Callable[[], None] = lambda: None
        self.quick: dict[str, dict[str, Any] | None] = {
            "models": MODELS,
            "cache": {"text": "compiled models: none", "folder": "/cache"},
            "machine": {"text": "2 cores"},
            "sizes": SIZES,
        }

    def request(
        self, method: str, params: Mapping[str, Any] | None = None, **callbacks: Callable | None
    ) -> FakeRequest:
        request = FakeRequest(method, params or {}, callbacks)
        answer = self.quick.get(method)
        if answer is not None:
            request.tell("result", answer)
        else:
            self.asked.append(request)
        return request

    @property
    def last(self) -> FakeRequest:
        """The request that was asked last."""
        return self.asked[-1]

    def path(self, name: str) -> str:
        return f"/exchange/{name}"

    def discard(self, name: str) -> None:
        self.discarded.append(name)

    def tick(self) -> None:
        self.ticks += 1

    def close(self) -> None:
        self.closed = True


class FakeHost:
    """Notes what it is asked to do."""

    def __init__(self) -> None:
        self.chosen: VolumeInfo | None = None
        self.drawn: list[BoxInfo] = []
        self.placing = False
        self.calls: list[tuple] = []
        self.over_views = ("", "", False)
        """Titles and whether there is a difference, as shown."""
        self.says_yes = True
        self.lacks: Missing | None = None
        self.disk_is_slow = False
        self.fault: Exception | None = None
        """What writing fails with."""
        self.writing: tuple[Callable, Callable] | None = None
        self.reference: dict[int, str] | str = {1: "liver"}
        self.installing: tuple[Callable, Callable, Callable] | None = None
        self.states = {"fp32": "1", "quantized": "1", "reference": "1"}
        """Of the masks in the scene, and of the reference."""
        self.keeps: dict[tuple[str, str], str] = {}
        """What is saved with the scene: of a scan, and of what."""

    def masks_state(self, kind: str) -> str:
        return self.states.get(kind, "")

    def reference_state(self) -> str:
        return self.states["reference"]

    def write_masks(self, kind: str, path: str, on_done: Callable, on_error: Callable) -> Callable:
        self.calls.append(("write_masks", kind, Path(path).name))
        return self._write(path, lambda: on_done({1: "liver", 2: "mine"}), on_error)

    def keep(self, what: str, text: str) -> None:
        self.keeps[self._place(what)] = text

    def kept(self, what: str) -> str:
        return self.keeps.get(self._place(what), "")

    def _place(self, what: str) -> tuple[str, str]:
        return ("" if what == CHOICES or self.chosen is None else self.chosen.key, what)

    def set_aside(self, kind: str) -> Callable[[], None]:
        kept = dict(self.keeps)
        return lambda: (self.calls.append(("put_back", kind)), self.keeps.update(kept))

    def volume(self) -> VolumeInfo | None:
        return self.chosen

    def write_volume(self, path: str, on_done: Callable, on_error: Callable) -> Callable:
        self.calls.append(("write_volume", path))
        return self._write(path, lambda: on_done(), on_error)

    def boxes(self) -> Sequence[BoxInfo]:
        return self.drawn

    def write_reference(self, path: str, on_done: Callable, on_error: Callable) -> Callable:
        if isinstance(self.reference, str):
            raise ValueError(self.reference)
        self.calls.append(("write_reference", path))
        return self._write(path, lambda: on_done(self.reference), on_error)

    def _write(self, path: str, done: Callable, failed: Callable) -> Callable:
        """At once, or where the disk is slow when the test says so: `writing[0]()`, and `writing[1](error)`."""
        if self.fault is not None:
            failed(self.fault)
        elif self.disk_is_slow:
            self.writing = (done, failed)
        else:
            done()
        return lambda: self.calls.append(("stop_writing", path))

    def start_box(self, from_segment: bool = False) -> None:
        self.calls.append(("start_box", from_segment))
        self.placing = not from_segment

    def is_placing(self) -> bool:
        return self.placing

    def show_masks(self, kind: str, masks: Masks, partial: bool) -> None:
        self.calls.append(("show_masks", kind, Path(masks.file).name, partial))

    def remove_masks(self, kind: str) -> None:
        self.calls.append(("remove_masks", kind))

    def show_pair(self) -> None:
        self.calls.append(("show_pair",))

    def show_results(self, left_title: str, right_title: str, difference: bool) -> None:
        self.over_views = (left_title, right_title, difference)

    def restore_layout(self) -> None:
        self.calls.append(("restore_layout",))

    def jump_to(self, position: Point) -> None:
        self.calls.append(("jump_to", position))

    def confirm(self, text: str) -> bool:
        self.calls.append(("confirm", text))
        return self.says_yes

    def open_folder(self, path: str) -> None:
        self.calls.append(("open_folder", path))

    def missing(self) -> Missing | None:
        return self.lacks

    def install(self, on_progress: Callable, on_done: Callable, on_error: Callable) -> None:
        self.installing = (on_progress, on_done, on_error)

    def cancel_install(self) -> None:
        self.calls.append(("cancel_install",))

    def restarted(self) -> None:
        self.calls.append(("restarted",))

    def did(self, name: str) -> list[tuple]:
        """The calls of one name."""
        return [call for call in self.calls if call[0] == name]


class Panel:
    """A presenter with both, and what it showed."""

    def __init__(self) -> None:
        self.engine, self.host = FakeEngine(), FakeHost()
        self.seen: list[Shown] = []
        self.now = 100.0
        self.presenter = Presenter(self.engine, self.host, self.seen.append, clock=lambda: self.now)
        self.presenter.start()

    @property
    def shown(self) -> Shown:
        """What is shown now."""
        assert self.seen[-1] is self.presenter.shown
        return self.seen[-1]

    def action(self, name: str) -> Action:
        """A button."""
        return self.shown.actions[name]

    def primary(self) -> list[str]:
        """The filled buttons."""
        return [name for name, action in self.shown.actions.items() if action.primary]

    def open_scan(self, volume: VolumeInfo | None = CT) -> Panel:
        """The user opens a scan."""
        self.host.chosen = volume
        self.presenter.volume_chosen()
        return self

    def draw(self, *boxes: BoxInfo) -> Panel:
        """The user draws boxes."""
        self.host.drawn = list(boxes)
        self.presenter.boxes_changed()
        return self

    def quantize(self, handle: str = "/exchange/w4.mq.safetensors") -> Panel:
        """The user quantizes, and it works."""
        self.presenter.quantize()
        bits = self.engine.last.params["bits"]
        self.engine.last.tell("result", {"handle": handle, "bits": bits, "text": "2.5 MB", "pieces": 8})
        return self

    def masks(self, array: str) -> Panel:
        """The segmentation that runs ends."""
        assert self.engine.last.method == "segment"
        mask = {"array": array, "labels": {"1": "liver"}, "bits": 4}
        self.engine.last.tell("result", {"mask": mask, "seconds_text": "1.02 s", "size_text": "2.5 MB"})
        return self

    def compared(self, worst: dict[str, Any] | None = WORST) -> Panel:
        """The comparison that runs ends."""
        assert self.engine.last.method == "compare"
        row = {"title": "4-bit", "cells": [{"text": ".994", "strong": True}], "of_all": True, "badges": ["simulated"]}
        table = {"columns": ["Dice"], "tooltips": ["overlap"], "rows": [row], "headline": "Dice .994", "notes": ["n"]}
        difference = {"array": "difference.npy", "labels": {"1": "FP32 only", "2": "4-bit only"}}
        self.engine.last.tell(
            "result", {"table": table, "verdict": "masks as FP32", "worst": worst, "difference": difference}
        )
        return self

    def compare_all(self) -> Panel:
        """From the scan to the table."""
        self.open_scan().quantize().draw(LIVER)
        self.presenter.segment()
        return self.masks("fp32.npy").masks("w4.npy").compared()

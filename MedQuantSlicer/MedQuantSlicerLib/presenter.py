"""What happens when the user does something: plain Python, without Qt and without MRML.

The panel calls a verb for every button and is told what to show after every change. Nothing here waits: the engine
answers by callbacks that arrive in the same thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from MedQuantSlicerLib.engine_process import EngineProcess
from MedQuantSlicerLib.facts import Facts
from MedQuantSlicerLib.host import DIFFERENCE, Host
from MedQuantSlicerLib.keeping import Keeping
from MedQuantSlicerLib.known_models import KNOWN_MODELS
from MedQuantSlicerLib.layer_work import LayerWork
from MedQuantSlicerLib.mask_work import MaskWork
from MedQuantSlicerLib.model_work import ModelWork
from MedQuantSlicerLib.quantize_work import QuantizeWork
from MedQuantSlicerLib.questions import Questions
from MedQuantSlicerLib.showing import shown_of
from MedQuantSlicerLib.state import BITS, OPTION_VALUES, Shown, State
from MedQuantSlicerLib.works import Works

WITH_SCAN = frozenset({State.QUANTIZING, State.SEGMENTING, State.COMPARING, State.MEASURING, State.SEARCHING})
"""What is about the chosen scan, and stops when another one is chosen."""


class Presenter:
    """The panel's mind.

    `engine` is an `EngineProcess` (or what behaves like one), `host` the application, `changed(shown)` is called after
    every change with all that is to be shown, and once by `start`.
    """

    def __init__(
        self,
        engine: EngineProcess,
        host: Host,
        changed: Callable[[Shown], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.facts = Facts(models=list(KNOWN_MODELS))
        self._engine, self._host = engine, host
        self._changed, self._clock = changed, clock
        self._shown = shown_of(self.facts, clock())
        self._over_views = ("", "", False)
        self._works = Works(self.facts, engine, host, self.update, clock)
        self._questions = Questions(self._works)
        self._keeping = Keeping(self._works)
        self._models = ModelWork(self._works, self._keeping, self._questions)
        self._masks = MaskWork(self._works, self._keeping, self._questions.measured)
        self._layers = LayerWork(self._works, self._keeping)
        self._quantizing = QuantizeWork(self._works, self._keeping, self._questions.measured)
        self._works.installed = self._questions.look_around
        engine.restarted = host.restarted

    @property
    def shown(self) -> Shown:
        """What `changed` was called with last."""
        return self._shown

    # -- life

    def start(self) -> None:
        """The panel is there: show what is known. Asks the engine nothing that would need an installation."""
        self.volume_chosen()
        self.update()

    def tick(self) -> None:
        """To be called about twice a second: counts the time left down and notices an engine that has hung."""
        self._engine.tick()
        if self.facts.running is not None and self.facts.running.ends is not None:
            self.update()

    def close(self) -> None:
        """The panel goes: end the engine, give the layout back."""
        if self.facts.state is State.INSTALLING:
            self._host.cancel_install()
        self._works.files.forget()
        self._works.rest()
        self._engine.close()
        self._host.restore_layout()

    def scene_closed(self) -> None:
        """The scene was emptied: forget all that was about it."""
        self.cancel()
        self.facts.boxes, self.facts.reference, self.facts.overrides = (), "", {}
        self.facts.forget_results()
        self.facts.sensitivities, self.facts.layer = [], ""
        self._works.files.forget()
        self.volume_chosen()

    def update(self) -> None:
        """Show what is known now, in the panel and over the views."""
        self._shown = shown = shown_of(self.facts, self._clock())
        over_views = (shown.left_title, shown.right_title, shown.difference_shown)
        if over_views != self._over_views:
            self._over_views = over_views
            self._host.show_results(*over_views)
        self._changed(self._shown)

    # -- scan and model

    def volume_chosen(self, volume: object = None) -> None:
        """Another scan is chosen, or it has changed; the host is asked which."""
        facts, before, chosen = self.facts, self.facts.volume, self._host.volume()
        if chosen != before:
            is_other = (chosen.key if chosen else "") != facts.volume_key
            if is_other and facts.state in WITH_SCAN:
                self.cancel()  # what is tidied up belongs to the former scan
            facts.volume = chosen
            if is_other:
                facts.forget_results()
                facts.layer = ""
                self._take_results()
            if facts.rests:
                self._works.dismiss()
                self._works.rest()
            if facts.usable_volume is not None:
                self._questions.look_around()
        facts.boxes = tuple(self._host.boxes()) if facts.volume is not None else ()
        self.update()

    def _take_results(self) -> None:
        """Show what was kept of the chosen scan in the scene."""
        if self.facts.usable_volume is None:
            return
        self._keeping.take_results()
        self._masks.look_at_states()
        self.facts.difference_shown = bool(self._host.masks_state(DIFFERENCE))

    def choices_loaded(self) -> None:
        """The choices of another scene are the host's now."""
        self._keeping.take_choices()
        self.facts.forget_results()
        self.facts.layer = ""
        self._take_results()
        self._questions.sizes()
        self.update()

    def masks_changed(self) -> None:
        """Segmentations have changed in the scene, perhaps by another hand."""
        if self.facts.rests and self.facts.usable_volume is not None and self._masks.look_at_states():
            self.update()

    def model_chosen(self, spec: str) -> None:
        """Another model of the list."""
        if spec != self.facts.model and any(one.spec == spec for one in self.facts.models):
            self.facts.model = spec
            self.facts.layer = ""
            self.facts.safe = self.facts.safe and self.facts.safe_model is not None
            self._works.dismiss()
            self._questions.sizes()
        self.update()

    def add_weights(self, path: str = "") -> None:
        """A file or folder of the user's: MedSAM, nnU-Net results, a quantized model. It is listed and chosen."""
        if path:
            self._models.add_weights(path)

    def download(self) -> None:
        """Fetch the chosen model, after a question that says how much and from where; while that runs: cancel."""
        if not self._works.cancels("download"):
            self._models.download()

    def clear_cache(self) -> None:
        """Remove what was compiled and quantized (downloads and exports stay), after a question."""
        self._models.clear_cache()

    def open_cache(self) -> None:
        """Show the cache's folder."""
        if self.facts.cache_folder:
            self._host.open_folder(self.facts.cache_folder)

    # -- quantize

    def bits_chosen(self, bits: int) -> None:
        """8, 4 or 2."""
        if bits in BITS:
            self.facts.bits, self.facts.safe = bits, False
            self._works.dismiss()
        self.update()

    def safe_chosen(self, safe: bool) -> None:
        """Whether the smallest safe model is chosen, as it is kept with the scene."""
        self.facts.safe = bool(safe)
        self.update()

    def set_option(self, name: str, value: object) -> None:
        """Change one of `Options`. A value that is not allowed is ignored."""
        options = self.facts.options
        kind = type(getattr(options, name, None))
        allowed = OPTION_VALUES.get(name)
        if isinstance(value, kind) and (value in allowed if allowed else value >= (1 if name == "slices" else 0)):
            before = self.facts.choice_key()
            self.facts.options = replace(options, **{name: value})
            self._works.dismiss()
            if self.facts.choice_key() != before:
                self._questions.sizes()
        self.update()

    def quantize(self) -> None:
        """Quantize the chosen model with slices of the scan; while that runs: cancel."""
        if not self._works.cancels("quantize"):
            self._quantizing.quantize()

    def find_safe(self) -> None:
        """Find the smallest model whose masks stay within the tolerance, or take the one that was found; while it is
        looked for: cancel."""
        if not self._works.cancels("find_safe"):
            self._quantizing.find_safe()

    # -- segment and compare

    def place_box(self) -> None:
        """Let the user draw a box."""
        if self._works.can("place_box"):
            self._works.dismiss()
            self._host.start_box()
            self.facts.placing = self._host.is_placing()
            self.update()

    def box_from_segment(self) -> None:
        """Put a box around the selected segment."""
        if self._works.can("box_from_segment"):
            self._works.dismiss()
            self._host.start_box(from_segment=True)
            self.update()

    def boxes_changed(self) -> None:
        """The host's boxes have changed."""
        facts = self.facts
        before = facts.boxes, facts.placing
        facts.boxes = tuple(self._host.boxes()) if facts.volume is not None else ()
        facts.placing = self._host.is_placing()
        if (facts.boxes, facts.placing) != before:
            self.update()

    def segment(self) -> None:
        """Segment with FP32, quantized or both, then compare where both are there; while that runs: cancel."""
        if not self._works.cancels("segment"):
            self._masks.segment()

    def compare(self) -> None:
        """Compare the masks that are there once more, with the reference that is chosen now."""
        if not self._works.cancels("compare"):
            self._masks.compare()

    def reference_chosen(self, name: str = "") -> None:
        """Another reference segmentation is chosen in the panel; empty: none."""
        self.facts.reference = name
        self._masks.look_at_states()
        if self.facts.table is not None and not self.facts.is_compared and self._works.can("compare"):
            self._masks.compare()
        self.update()

    def jump_to_worst(self) -> None:
        """Show the slice in which the masks differ most."""
        if self.facts.worst:
            self._host.jump_to(tuple(self.facts.worst["position"]))
            self.facts.looked = self.facts.compared
            self.update()

    def difference(self) -> None:
        """Show the difference as a segmentation of its own, or take it away."""
        self._masks.turn_difference()

    def difference_per_slice(self) -> tuple[tuple[int, ...], ...]:
        """In how many voxels the masks differ, along the scan's axes (k, j, i); empty before a comparison."""
        told = self.facts.difference
        return tuple(map(tuple, told["per_slice"])) if told and "per_slice" in told else ()

    def save_report(self, path: str = "") -> None:
        """Write the comparison as a page."""
        if path and self._works.can("save_report"):
            self._masks.report(path, self._layers.for_report())

    # -- layers

    def find_sensitivity(self) -> None:
        """Round the layers as the options say and measure what that does; while that runs: cancel."""
        if not self._works.cancels("find_sensitivity"):
            self._layers.measure()

    def layer_chosen(self, name: str = "") -> None:
        """A row of the heatmap was clicked; empty: none."""
        self.facts.layer = name if name in self.facts.sensitivity.layers else ""
        self.update()

    def keep_precise(self, layer: str = "", bits: int = 8) -> None:
        """Keep a layer (empty: the chosen one) at `bits` (32: floating point), or where it is kept so, no longer."""
        if layer := layer or self.facts.layer:
            self._layers.keep(layer, bits)
            self._wishes_changed()

    def forget_wishes(self) -> None:
        """No layer is kept precise any longer."""
        self.facts.overrides[self.facts.model] = {}
        self._wishes_changed()

    def _wishes_changed(self) -> None:
        self._keeping.keep_choices()
        self._works.dismiss()
        self._questions.sizes()
        self.update()

    def measured_layers(self) -> frozenset[tuple]:
        """The cells of all maps with their values, by model, scan and kind of map."""
        return self._layers.measured()

    # -- export and the rest

    def not_exported(self) -> frozenset[str]:
        """The quantized models that were made here and not exported, by what names them."""
        return frozenset(one.handle for one in self.facts.made.values()) - self.facts.exported_models

    def export(self, format: str = "", folder: str = "") -> None:
        """Write the quantized model to a new folder inside `folder`; while that runs: cancel."""
        if not self._works.cancels("export") and folder:
            self._models.export(format, folder)

    def open_exported(self) -> None:
        """Show the folder that was written last."""
        if self.facts.exported:
            self._host.open_folder(self.facts.exported)

    def open_log(self) -> None:
        """Show the folder of the log of the problem that is shown."""
        if self.facts.problem is not None and self.facts.problem.log:
            self._host.open_folder(str(Path(self.facts.problem.log).parent))

    def dismiss(self) -> None:
        """The problem has been read."""
        self._works.dismiss()
        self.update()

    def cancel(self) -> None:
        """Stop what runs; what was there before stays."""
        self._works.cancel()

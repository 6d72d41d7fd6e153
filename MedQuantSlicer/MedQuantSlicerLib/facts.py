"""What the presenter knows, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from MedQuantSlicerLib.host import FP32, QUANTIZED, BoxInfo, VolumeInfo
from MedQuantSlicerLib.layer_facts import MapKind, Sensitivity
from MedQuantSlicerLib.likeness import same, turned
from MedQuantSlicerLib.results import Computed, Quantized
from MedQuantSlicerLib.state import RESTING, ModelLine, Options, Problem, State, Table

REFERENCE = "reference"
FLOAT = 32
"""Bits of a layer that stays in floating point."""
Settings = tuple
"""What a quantized model is made with: model, recipe, and the digest of the scan; equal ones make the same model."""


@dataclass(frozen=True)
class Part:
    """One request of several that are one piece of work to the user."""

    title: str
    """What it is about: "FP32"."""
    number: int
    """From 0."""
    count: int


@dataclass
class Running:
    """Work that is under way."""

    section: str
    text: str
    fraction: float | None = None
    ends: float | None = None
    """When it is expected to end, on the presenter's clock."""
    cancelling: bool = False
    part: Part | None = None


@dataclass
class Facts:
    """Everything that is known. `Shown` follows from it."""

    state: State = State.NO_VOLUME
    running: Running | None = None
    problem: Problem | None = None
    notice: tuple[str, str] = ("", "")
    """Section and text."""

    volume: VolumeInfo | None = None
    models: list[ModelLine] = field(default_factory=list)
    model: str = "embedded"
    bits: int = 4
    safe: bool = False
    """Whether the smallest safe model is chosen, not one of so many bits everywhere."""
    options: Options = field(default_factory=Options)
    choices: dict[tuple, dict[str, Any]] = field(default_factory=dict)
    """The engine's `sizes` by model and recipe."""
    overrides: dict[str, dict[str, int]] = field(default_factory=dict)
    """Layers that the user wants precise, by model."""

    made: dict[Settings, Quantized] = field(default_factory=dict)
    boxes: tuple[BoxInfo, ...] = ()
    placing: bool = False
    """Whether the next clicks in a view draw a box."""
    masks: dict[str, Computed] = field(default_factory=dict)
    """By kind: FP32, QUANTIZED."""
    states: dict[str, str] = field(default_factory=dict)
    """In what state the masks of each kind and the reference are in the scene now."""
    compared: tuple | None = None
    """The sources and states of the masks and the reference that `table` compares."""
    table: Table | None = None
    worst: Mapping[str, Any] | None = None
    difference: Mapping[str, Any] | None = None
    difference_shown: bool = False
    coming: tuple[str, str] = ("", "")
    """Kind and title of masks that are being drawn slice by slice."""
    looked: tuple | None = None
    """What `compared` was when the user jumped to the slice that differs most."""
    reference: str = ""

    sensitivities: list[Sensitivity] = field(default_factory=list)
    measuring: MapKind | None = None
    """The map that is being measured, whatever is chosen meanwhile."""
    layer: str = ""

    exported: str = ""
    exported_models: set[str] = field(default_factory=set)
    """Handles of those that were written somewhere."""
    machine: str = ""
    cache: str = ""
    cache_folder: str = ""

    # -- what follows

    @property
    def rests(self) -> bool:
        """Whether nothing runs."""
        return self.state in RESTING

    @property
    def usable_volume(self) -> VolumeInfo | None:
        """The scan, if it can be worked on."""
        return self.volume if self.volume is not None and not self.volume.problem else None

    @property
    def line(self) -> ModelLine | None:
        """The chosen model."""
        return self.line_of(self.model)

    def line_of(self, spec: str) -> ModelLine | None:
        """The model of that name, where it is in the list."""
        return next((one for one in self.models if one.spec == spec), None)

    @property
    def needs_box(self) -> bool:
        """Whether the chosen model takes boxes."""
        return self.line is None or self.line.needs_box

    @property
    def wishes(self) -> dict[str, int]:
        """Layers of the chosen model that the user wants precise, with their bits."""
        return self.overrides.get(self.model, {})

    @property
    def recipe(self) -> dict[str, Any]:
        """The choices that decide a quantized model, as the engine takes them."""
        return self.safe_recipe if self.safe else self.uniform_recipe

    @property
    def safe_recipe(self) -> dict[str, Any]:
        """Those of the smallest safe model: bits and activations are not chosen."""
        chosen = {name: value for name, value in self.uniform_recipe.items() if name not in ("bits", "activations")}
        floating = {layer: bits for layer, bits in self.wishes.items() if bits == FLOAT}
        return {**chosen, "overrides": floating, "tolerance": self.options.tolerance}

    @property
    def uniform_recipe(self) -> dict[str, Any]:
        """Those of so many bits everywhere."""
        options = self.options
        slices: dict[str, Any] = {"count": options.slices, "where": options.where}
        if options.where == "range":
            slices |= {"first": options.first, "last": options.last}
        return {
            "bits": self.bits,
            "method": options.method,
            "granularity": options.granularity,
            "activations": options.activations,
            "slices": slices,
            "overrides": self.wishes,
        }

    @property
    def settings(self) -> Settings:
        """Of the present choices."""
        return self.settings_of(self.recipe)

    def settings_of(self, recipe: Mapping[str, Any]) -> Settings:
        """Of a recipe for the chosen model, on the chosen scan."""
        return (self.model, repr(recipe), self.volume.digest if self.volume else "")

    def choice_key(self) -> tuple:
        """What the sizes of the chosen model depend on."""
        recipe = {name: value for name, value in self.uniform_recipe.items() if name not in ("bits", "slices")}
        return (self.model, repr(recipe))

    @property
    def safe_model(self) -> Quantized | None:
        """The smallest safe model of the present choices and the chosen scan, where it was found."""
        made = self.made_by(self.safe_recipe)
        return made if self.fits(made) else None

    @property
    def quantized(self) -> Quantized | None:
        """The quantized model of the present choices."""
        if self.line is not None and self.line.is_quantized:
            return Quantized(self.model, self.line.bits, self.line.size)
        return self.made_by(self.recipe)

    def made_by(self, recipe: Mapping[str, Any]) -> Quantized | None:
        """The chosen model quantized by a recipe: with this scan or, where there is none, with another one."""
        wanted = self.settings_of(recipe)
        made = [one for settings, one in self.made.items() if settings[:2] == wanted[:2]]
        return next((one for one in made if self.fits(one)), made[-1] if made else None)

    def calibrated_here(self, made: Quantized | None) -> bool | None:
        """Whether a quantized model was calibrated on the chosen scan; None where that is not known."""
        here = self.volume.digest if self.volume else ""
        return made.scan == here if made is not None and made.scan and here else None

    @property
    def quantized_fits(self) -> bool:
        """Whether there is a quantized model of the present choices that was not calibrated on another scan."""
        return self.fits(self.quantized)

    def fits(self, made: Quantized | None) -> bool:
        """Whether there is a quantized model and it was not calibrated on another scan."""
        return made is not None and self.calibrated_here(made) is not False

    @property
    def latest(self) -> Quantized | None:
        """That one, or else, where bits are chosen, the one of this model that was made by bits last: what the section
        "Quantize" tells of."""
        if self.safe:
            return self.quantized if self.quantized_fits else None
        by_bits = [one for settings, one in self.made.items() if settings[0] == self.model and not one.found]
        return self.quantized or (by_bits[-1] if by_bits else None)

    def wanted_masks(self) -> tuple[str, ...]:
        """The kinds that Segment computes, in order."""
        if self.line is not None and self.line.is_quantized:
            return (QUANTIZED,)
        return {"both": (FP32, QUANTIZED), "fp32": (FP32,), "quantized": (QUANTIZED,)}[self.options.run]

    def source(self, kind: str) -> tuple:
        """What masks of a kind would be computed from now."""
        spec = self.model if kind == FP32 else (self.quantized.handle if self.quantized else "")
        options = self.options
        how = (options.extent, options.plane) if self.needs_box else ()
        key = self.volume.key if self.volume else ""
        boxes = tuple((box.name, box.label, box.corners) for box in self.boxes) if self.needs_box else ()
        return (key, self.model, spec, boxes, how, options.runtime)

    def is_current(self, kind: str) -> bool:
        """Whether masks of a kind are there as they would be computed now."""
        return kind in self.masks and same(self.masks[kind].source, self.source(kind))

    def edited(self, kind: str) -> bool:
        """Whether masks of a kind were changed by hand after they were computed."""
        return kind in self.masks and bool(self.states.get(kind)) and self.states[kind] != self.masks[kind].state

    @property
    def comparable(self) -> bool:
        """Whether there are masks of both kinds that belong together."""
        if FP32 not in self.masks or QUANTIZED not in self.masks:
            return False
        first, second = (self.masks[kind].source for kind in (FP32, QUANTIZED))
        return first[:2] == second[:2] and same(first[3:5], second[3:5]) and self.volume_key == first[0]

    @property
    def volume_key(self) -> str:
        """Of the chosen scan."""
        return self.volume.key if self.volume else ""

    @property
    def scan(self) -> tuple:
        """What tells the chosen scan from others, in every session: its voxels, their size and how they are turned.
        Where the scan lies does not matter: it may stand under another transform."""
        volume = self.volume
        return (volume.digest, volume.shape, turned(volume.ijk_to_lps)) if volume is not None else ()

    @property
    def sensitivity(self) -> Sensitivity:
        """What was measured of the chosen model on the chosen scan, perhaps nothing."""
        return self.sensitivity_of(self.model, self.scan)

    def sensitivity_of(self, model: str, scan: tuple) -> Sensitivity:
        """What was measured of a model on a scan; where that is nothing yet, an empty one that is not among
        `sensitivities`."""
        known = (one for one in self.sensitivities if one.model == model and same(one.scan, scan))
        return next(known, Sensitivity(model, scan))

    @property
    def comparison_of(self) -> tuple:
        """What a comparison of the masks that are there would be about."""
        states = tuple(self.states.get(one, "") for one in (FP32, QUANTIZED, REFERENCE))
        return self.comparison_about(self.reference, states)

    def comparison_about(self, reference: str, states: tuple[str, ...]) -> tuple:
        """What a comparison of these masks with a reference of that name is about, all of them in these states."""
        sources = [self.masks[kind].source for kind in (FP32, QUANTIZED) if kind in self.masks]
        return (*sources, reference, states)

    @property
    def is_compared(self) -> bool:
        """Whether the table is about the masks and the reference as they are."""
        return self.table is not None and self.compared is not None and same(self.compared, self.comparison_of)

    @property
    def compared_model(self) -> str:
        """The model that `table` is of, which need not be the one that is chosen now; "" where there is none."""
        return self.compared[0][1] if self.table is not None and self.compared else ""

    def forget_results(self) -> None:
        """The masks and all that follows from them belong to something else now."""
        self.masks, self.table, self.worst, self.difference = {}, None, None, None
        self.compared, self.difference_shown, self.states = None, False, {}
        self.coming = ("", "")

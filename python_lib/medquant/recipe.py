"""What to quantize how: plain data that is saved with every quantized model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

from medquant.activation_settings import IntActivations
from medquant.allocation import spread_bits
from medquant.errors import UserError
from medquant.granularity import (
    FOR_WEIGHTS,
    PerChannel,
    PerGroup,
    WeightGranularity,
    granularity_name,
    granularity_of_kind,
)
from medquant.rewrites.settings import Redesign, Rewrites, plain_name

Method = Literal["rtn", "comq", "permutation-comq", "gptq"]
METHODS: tuple[Method, ...] = ("rtn", "comq", "permutation-comq", "gptq")
ZeroPoint = Literal["real", "integer", "half"]
T = TypeVar("T")


@dataclass(frozen=True)
class IntWeights:
    """The integer grid of a layer's weights.

    `zero_point` says where an asymmetric grid lies: "real" (a stored floating-point offset), "integer" (an integer
    code represents zero exactly, the paper's grid), "half" (levels at odd multiples of half a scale, without zero,
    symmetric: of use at 2 bits). A symmetric grid has no zero point unless it is "half".
    """

    bits: int = 4
    granularity: WeightGranularity = field(default_factory=PerChannel)
    symmetric: bool = False
    zero_point: ZeroPoint = "real"

    @property
    def granularity_name(self) -> str:
        """ "per-tensor", "per-channel" or "per-group-64", as `granularity_from_name` reads it."""
        size = f"-{self.granularity.size}" if isinstance(self.granularity, PerGroup) else ""
        return granularity_name(self.granularity) + size

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 2 <= self.bits <= 8:
            raise UserError(f"Weights can have 2 to 8 bits, not {self.bits}. Choose a whole number from 2 to 8.")
        if isinstance(self.granularity, PerGroup) and self.granularity.size < 2:
            raise UserError(f"A group needs at least 2 inputs, not {self.granularity.size}. Choose 32, 64 or 128.")
        name = granularity_name(self.granularity)
        if name not in FOR_WEIGHTS:
            raise UserError(f"Weights cannot have the granularity {name}. Choose per-channel.")
        if self.zero_point not in ("real", "integer", "half"):
            raise UserError(f"Unknown zero point {self.zero_point!r}. Choose real, integer or half.")


@dataclass(frozen=True)
class CalibrationSettings:
    """How the calibration set is turned into Gram matrices."""

    sequential: bool = True
    """Later layers see the output of the quantized earlier ones, and are fitted to the FP32 targets."""
    foreground_share: float = 0.5
    """Part of the positions drawn where the FP32 network sees a structure; 0 draws evenly."""
    centred: bool = True
    """Fit the output's variation; the mean is absorbed exactly in the bias."""
    ridge: float | None = None
    """How strongly the target of a layer that sees quantized inputs is held to the FP32 weight; None: chosen for each
    layer on calibration inputs that it was not fitted to."""
    shrink: bool = True
    """Trust correlations between inputs only as far as two halves of the calibration set agree on them."""
    positions_per_input: int = 4
    """Positions drawn for each unknown of a layer at least; small layers see more (`calibrate.GRAM_OPERATIONS`)."""
    seed: int = 0

    def share_for(self, activations: IntActivations | None) -> float:
        """Part of a layer's positions to draw in the foreground: all, as far as there are, for integer activations.

        Their range is cut to what is segmented. What lies outside is clipped, and weights fitted to clipped inputs, or
        a bias made to absorb what the clipping takes from the mean, would be wrong inside.
        """
        return 1.0 if activations is not None and self.foreground_share > 0 else self.foreground_share

    def __post_init__(self) -> None:
        if not 0 <= self.foreground_share <= 1:
            raise UserError(f"The foreground share lies between 0 and 1, not {self.foreground_share}. Choose 0.5.")
        if self.positions_per_input < 1 or (self.ridge is not None and not self.ridge > 0):
            raise UserError("Positions per input and ridge must be positive. Leave them at their defaults.")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the codes of a quantized model, given the calibration inputs.

    `overrides` maps layer name patterns (fnmatch) to another `IntWeights`, or to None to leave the layer in floating
    point; the last pattern that fits wins. `ends_bits` keeps the first and the last quantized layer at that many bits
    at least (None: no exception); `extra_bits` per weight, on average, go to them and to the smallest layers
    (`medquant.allocation`): a few hundredths of a bit that are worth more than any solver. `drop_dead_channels` leaves
    out the weights of channels that training has switched off (`medquant.channels`). `activations`: None computes in
    floating point; otherwise the inputs of the layers are integers as well, but for those of layers that a pattern of
    `float_inputs` fits (`medquant.mixed.float_inputs` chooses them). `rewrites` maps layer name patterns to what
    is rewritten before the layer is quantized, or to None for nothing; the last pattern that fits wins. `redesign`
    exchanges layers and trains the network a little before all else: what is quantized then is a different model.
    `scope="layer"` is the paper as read: all weights of a layer sorted by value, each with an index of its own (costly;
    kept to reproduce it).
    """

    weights: IntWeights = field(default_factory=IntWeights)
    method: Method = "permutation-comq"
    scope: Literal["rows", "layer"] = "rows"
    sweeps: int = 3
    ends_bits: int | None = 8
    extra_bits: float = 0.06
    drop_dead_channels: bool = True
    fold_batch_norm: bool = True
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    activations: IntActivations | None = None
    float_inputs: tuple[str, ...] = ()
    overrides: dict[str, IntWeights | None] = field(default_factory=dict)
    rewrites: dict[str, Rewrites | None] = field(default_factory=dict)
    redesign: Redesign | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"Unknown method {self.method!r}. Choose one of {', '.join(METHODS)}.")
        if self.scope not in ("rows", "layer"):
            raise UserError(f"Unknown scope {self.scope!r}. Choose rows or layer.")
        if self.ends_bits is not None and not 2 <= self.ends_bits <= 8:
            raise UserError(f"The first and last layer can have 2 to 8 bits, not {self.ends_bits}. Choose 8.")
        if not 0 <= self.extra_bits <= 6:
            raise UserError(f"Extra bits lie between 0 and 6, not {self.extra_bits}. Choose 0.06.")
        if self.scope == "layer" and self.method != "permutation-comq":
            raise UserError("scope='layer' belongs to permutation-comq. Leave the scope at 'rows'.")
        if not isinstance(self.float_inputs, tuple) or not all(isinstance(one, str) for one in self.float_inputs):
            raise UserError("Layers whose inputs stay in floating point are given by name patterns. Give text.")
        if self.float_inputs and self.activations is None:
            raise UserError("All inputs are in floating point. Give bits of activations, or no layers to leave out.")
        if self.sweeps < 1:
            raise UserError(f"At least one sweep is needed, not {self.sweeps}. Choose 3.")

    @property
    def label(self) -> str:
        """The bits of weights and of activations, where those are integers too: "W4", "W4A8", "mixed", "mixed A8"."""
        weights = "mixed " if self.nominal_bits is None else f"W{self.nominal_bits}"
        return (weights + (f"A{self.activations.bits}" if self.activations is not None else "")).strip()

    @property
    def nominal_bits(self) -> int | None:
        """Of a weight; None where layers were given several numbers of bits by name."""
        usual = self.overrides.get("*") or self.weights
        return None if len(self._named_bits()) > 1 else usual.bits

    def _named_bits(self) -> set[int]:
        return {grid.bits for grid in self.overrides.values() if grid is not None}

    @property
    def needs_moments(self) -> bool:
        """Whether second moments of the inputs decide anything: not where weights are rounded as they are."""
        return self.method != "rtn" or self.calibration.sequential

    def require_layers(self, layers: Iterable[str]) -> None:
        """Raise `UserError` where a pattern fits none of `layers`: a slip that would change nothing, in silence."""
        known = list(layers)
        for pattern in (*self.overrides, *self.rewrites, *self.float_inputs):
            if pattern != "*" and not any(_fits(pattern, layer) for layer in known):
                near = get_close_matches(pattern, known, 3, 0.3) or known[:3]
                raise UserError(
                    f"No layer is called {pattern}, which the recipe names. Correct it: there are {', '.join(near)}."
                )

    def weights_for(self, sizes: dict[str, int], live: dict[str, float] | None = None) -> dict[str, IntWeights | None]:
        """The grid of each layer, None where it stays in floating point.

        `sizes` has the layers in the order of the network with the number of weights of each, `live` the part of them
        that is stored.
        """
        bits = spread_bits(sizes, self.weights.bits, self.extra_bits, self.ends_bits, live)
        chosen: dict[str, IntWeights | None] = {}
        for layer in sizes:
            chosen[layer] = self.grid(bits[layer])
            chosen[layer] = _last_that_fits(self.overrides, layer, chosen[layer])
        return chosen

    def rewrites_for(self, layers: Sequence[str]) -> dict[str, Rewrites]:
        """What is rewritten, of the layers in which something is."""
        chosen = {layer: _last_that_fits(self.rewrites, layer, None) for layer in layers}
        return {layer: wanted for layer, wanted in chosen.items() if wanted not in (None, Rewrites())}

    def activations_for(self, layers: Sequence[str]) -> dict[str, IntActivations | None]:
        """The grid of each layer's input, for `layers` in the order of the network; the ends have `ends_bits`.

        None where it stays in floating point.
        """
        chosen = dict.fromkeys(layers, self.activations)
        if self.activations is not None and self.ends_bits is not None and chosen:
            ends = replace(self.activations, bits=max(self.activations.bits, self.ends_bits))
            chosen |= dict.fromkeys((layers[0], layers[-1]), ends)
        floating = dict.fromkeys(self.float_inputs, True)
        return {name: None if _last_that_fits(floating, name, False) else one for name, one in chosen.items()}

    def grid(self, bits: int) -> IntWeights:
        """The grid of a layer of so many bits.

        Integer kernels take symmetric weights: at 8 bits the grid is theirs; fewer bits fit into it as they are.
        """
        kernel = {"symmetric": True} if self.activations is not None and bits == 8 else {}
        return replace(self.weights, bits=bits, **kernel)

    def describe(self) -> str:
        """The recipe in one line, for tables and reports."""
        w = self.weights
        grain = granularity_name(w.granularity)
        if isinstance(w.granularity, PerGroup):
            grain += f" of {w.granularity.size}"
        named = self._named_bits()
        bits = (
            f"W{min(named)} to W{max(named)} layer by layer" if self.nominal_bits is None else f"W{self.nominal_bits}"
        )
        parts = [bits, grain, "symmetric" if w.symmetric else "asymmetric", self.method]
        if self.scope == "layer":
            parts.append("sorted over the layer")
        if self.ends_bits and self.ends_bits > w.bits:
            parts.append(f"first and last layer at {self.ends_bits} bits")
        if self.activations is not None:
            parts.append(self.activations.describe())
        if self.float_inputs:
            parts.append(f"{len(self.float_inputs)} input{'s' if len(self.float_inputs) > 1 else ''} in floating point")
        if self.overrides:
            parts.append(f"{len(self.overrides)} override{'s' if len(self.overrides) > 1 else ''}")
        for pattern, wanted in self.rewrites.items():
            where = "" if pattern == "*" else f" of {pattern}"
            parts.append(f"{'no rewriting' if wanted is None else wanted.describe()}{where}")
        if self.redesign is not None:
            parts.append(self.redesign.describe())
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = asdict(self)
        data["weights"] = _weights_to_dict(self.weights)
        data["overrides"] = {k: v and _weights_to_dict(v) for k, v in self.overrides.items()}
        data["activations"] = self.activations and self.activations.to_dict()
        data["float_inputs"] = list(self.float_inputs)
        data["rewrites"] = {k: v and v.to_dict() for k, v in self.rewrites.items()}
        data["redesign"] = self.redesign and self.redesign.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """The inverse of `to_dict`. Raises `UserError` on unknown or wrong entries."""
        try:
            data = dict(data)
            _refuse_unknown(cls, data)
            if "weights" in data:
                data["weights"] = _weights_from_dict(data["weights"])
            if "calibration" in data:
                _refuse_unknown(CalibrationSettings, data["calibration"])
                data["calibration"] = CalibrationSettings(**data["calibration"])
            if data.get("activations") is not None:
                _refuse_unknown(IntActivations, data["activations"])
                data["activations"] = IntActivations.from_dict(data["activations"])
            if isinstance(data.get("float_inputs"), list):
                data["float_inputs"] = tuple(data["float_inputs"])
            overrides = data.get("overrides") or {}
            data["overrides"] = {k: None if v is None else _weights_from_dict(v) for k, v in overrides.items()}
            rewrites = data.get("rewrites") or {}
            data["rewrites"] = {k: None if v is None else Rewrites.from_dict(v) for k, v in rewrites.items()}
            if data.get("redesign") is not None:
                data["redesign"] = Redesign.from_dict(data["redesign"])
            return cls(**data)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise UserError(f"The recipe cannot be read ({error}). Compare it with one that medquant wrote.") from error

    def to_json(self) -> str:
        """JSON text; `from_json` gives the same recipe back."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read a recipe from JSON text. Raises `UserError` when it is not one."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(
                f"The recipe is not valid JSON ({error}). Compare it with one that medquant wrote."
            ) from error
        if not isinstance(data, dict):
            raise UserError("The recipe must be a JSON object. Compare it with one that medquant wrote.")
        return cls.from_dict(data)


def _last_that_fits(patterns: dict[str, T], layer: str, otherwise: T) -> T:
    """What the last pattern says that fits the layer's name, as it was before it was rewritten or as it is."""
    for pattern, value in patterns.items():
        if _fits(pattern, layer):
            otherwise = value
    return otherwise


def _fits(pattern: str, layer: str) -> bool:
    return fnmatchcase(layer, pattern) or fnmatchcase(plain_name(layer), pattern)


def _weights_to_dict(weights: IntWeights) -> dict[str, Any]:
    data = asdict(weights)
    data["granularity"] = {"kind": granularity_name(weights.granularity), **asdict(weights.granularity)}
    return data


def _weights_from_dict(data: dict[str, Any]) -> IntWeights:
    data = dict(data)
    _refuse_unknown(IntWeights, data)
    if "granularity" in data:
        granularity = dict(data["granularity"])
        data["granularity"] = granularity_of_kind(granularity.pop("kind"), **granularity)
    return IntWeights(**data)


def _refuse_unknown(kind: type, data: dict[str, Any]) -> None:
    unknown = set(data) - {f.name for f in fields(kind)}
    if unknown:
        raise UserError(f"The recipe has unknown entries: {', '.join(sorted(unknown))}. Remove or correct them.")

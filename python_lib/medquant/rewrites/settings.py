"""What to rewrite before a layer is quantized: plain data, part of a recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from medquant.errors import UserError

RANK, ORDER = 4, 32
INNER = "rewritten"
"""What a layer is called within the module that takes its place."""


@dataclass(frozen=True)
class Smoothing:
    """Channels of a layer's input are divided by factors that its weights take over (`rewrites.smoothing`)."""

    alpha: float | None = 0.5
    """How much of the reach of the channels moves into the weights; None: searched for each layer."""

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise UserError(f"Alpha of smoothing lies between 0 and 1, not {self.alpha}. Choose 0.5.")

    def describe(self) -> str:
        """In a few words."""
        return "smoothing" if self.alpha is None else f"smoothing {self.alpha:g}"


@dataclass(frozen=True)
class LowRank:
    """The largest singular components of the weight are computed in floating point beside it (`rewrites.low_rank`)."""

    rank: int = RANK

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise UserError(f"A low-rank branch has a rank of at least 1, not {self.rank}. Choose {RANK}.")

    def describe(self) -> str:
        """In a few words."""
        return f"rank {self.rank}"


@dataclass(frozen=True)
class Rotation:
    """Channels of a layer's input are mixed by a Hadamard matrix, which its weights undo (`rewrites.rotation`)."""

    order: int = ORDER
    """Of the matrix, at most: the largest power of two that divides the channels is taken."""

    def __post_init__(self) -> None:
        if not isinstance(self.order, int) or self.order < 2 or self.order & (self.order - 1):
            raise UserError(f"The order of a rotation is a power of two from 2, not {self.order}. Choose {ORDER}.")

    def describe(self) -> str:
        """In a few words."""
        return f"rotation {self.order}"


@dataclass(frozen=True)
class Rewrites:
    """What is done to one layer, in this order; none of it changes what the network computes in floating point.

    `equalization` balances the layer with the one before it, where nothing but a function f(a x) = a f(x) lies between
    them (`rewrites.equalization`).
    """

    equalization: bool = False
    smoothing: Smoothing | None = None
    rotation: Rotation | None = None
    low_rank: LowRank | None = None

    @property
    def alone(self) -> bool:
        """Whether anything is done to the layer by itself."""
        return any((self.smoothing, self.rotation, self.low_rank))

    def describe(self) -> str:
        """In a few words."""
        parts = [part.describe() for part in (self.smoothing, self.rotation, self.low_rank) if part is not None]
        return " and ".join(["equalization"] * self.equalization + parts) or "nothing"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Rewrites:
        """The inverse of `to_dict`. Raises `UserError` on unknown entries."""
        kinds: dict[str, type] = {"smoothing": Smoothing, "rotation": Rotation, "low_rank": LowRank}
        given = dict(data)
        _refuse_unknown(cls, given)
        for name, kind in kinds.items():
            if given.get(name) is not None:
                _refuse_unknown(kind, given[name])
                given[name] = kind(**given[name])
        return cls(**given)


@dataclass(frozen=True)
class Redesign:
    """Convolutions that read one plane only become pointwise, and the network is trained a little: another model.

    See `rewrites.redesign`. MedQuanBench (section 4.3) exchanges one 1x3x3 convolution, the most sensitive, and does
    not tell how it trains; the numbers here are this project's.
    """

    layers: tuple[str, ...] = ("*",)
    """Name patterns (fnmatch) of the convolutions to exchange, of those that can be."""
    steps: int = 60
    """Of training, one calibration input each; 0: fitted only."""
    learning_rate: float = 3e-4
    """Of the first step; it falls evenly to nothing."""
    seed: int = 0
    """Of the order of the inputs."""

    def __post_init__(self) -> None:
        if not self.layers or not all(isinstance(pattern, str) and pattern for pattern in self.layers):
            raise UserError("A redesign needs the names of layers. Give * for all that can be exchanged.")
        if type(self.steps) is not int or self.steps < 0:
            raise UserError(f"The steps of training are a whole number from 0, not {self.steps}. Choose 60.")
        if not 0 < self.learning_rate < 1:
            raise UserError(f"A learning rate lies between 0 and 1, not {self.learning_rate}. Choose 0.0003.")

    def describe(self) -> str:
        """In a few words."""
        where = "" if self.layers == ("*",) else f" of {', '.join(self.layers)}"
        return f"redesigned{where}, {self.steps} steps of training: a different model"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "layers": list(self.layers)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Redesign:
        """The inverse of `to_dict`. Raises `UserError` on unknown entries."""
        _refuse_unknown(cls, data)
        return cls(**{**data, **({"layers": tuple(data["layers"])} if "layers" in data else {})})


def plain_name(name: str) -> str:
    """What a layer was called before it was rewritten: patterns of recipes and models are about that."""
    return name.removesuffix(f".{INNER}")


def rewrites_from_names(names: list[str]) -> Rewrites:
    """From words such as "smoothing", "smoothing=search", "smoothing=0.7", "rotation=16", "low-rank", "equalization".

    Raises `UserError` for other words.
    """
    chosen: dict[str, Any] = {}
    for name in names:
        kind, _, value = name.partition("=")
        try:
            match kind:
                case "equalization" if not value:
                    chosen["equalization"] = True
                case "smoothing":
                    chosen["smoothing"] = Smoothing(None if value == "search" else float(value or 0.5))
                case "rotation":
                    chosen["rotation"] = Rotation(int(value or ORDER))
                case "low-rank":
                    chosen["low_rank"] = LowRank(int(value or RANK))
                case _:
                    raise ValueError(name)
        except ValueError as error:
            raise UserError(
                f"Unknown rewrite {name!r}. Choose smoothing, low-rank, rotation or equalization, with a number after "
                "= where it has one: smoothing=0.5 (or =search), low-rank=4, rotation=32."
            ) from error
    return Rewrites(**chosen)


def _refuse_unknown(kind: type, data: dict[str, Any]) -> None:
    unknown = set(data) - {field.name for field in fields(kind)}
    if unknown:
        raise UserError(f"The recipe has unknown entries: {', '.join(sorted(unknown))}. Remove or correct them.")

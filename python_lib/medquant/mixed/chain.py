"""From what each layer's bits cost and what they are worth to the best allocation at every size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Option:
    """One number of bits for one layer."""

    bits: int
    stored_bits: int
    """Of everything that stands for the weight."""
    effect: float
    """What rounding the layer so costs; of several layers the effects add up."""


@dataclass(frozen=True)
class Allocation:
    """Bits for every layer."""

    bits: tuple[tuple[str, int], ...]
    stored_bits: int
    effect: float
    """The sum of the layers' effects: a prediction, good for putting allocations in order."""
    nominal: int | None = None
    """Bits of the model as a whole, whose noise decides which channels are left out; None: the most frequent."""

    def of(self) -> dict[str, int]:
        """By layer."""
        return dict(self.bits)

    @property
    def key(self) -> tuple[tuple[tuple[str, int], ...], int | None]:
        """What decides the model."""
        return self.bits, self.nominal

    @property
    def spread(self) -> int:
        """How far the layers' bits lie apart, summed over them; 0: the same everywhere."""
        least = min(bits for _, bits in self.bits)
        return sum(bits - least for _, bits in self.bits)


def hull(options: Sequence[Option]) -> list[Option]:
    """The options worth considering: each larger one worth more for its bits than the one after it.

    These are the corners of the lower convex hull of effect over size, the smallest first.
    """
    kept: list[Option] = []
    for option in sorted(options, key=lambda one: (one.stored_bits, one.effect)):
        if kept and option.effect >= kept[-1].effect:
            continue
        while len(kept) > 1 and _worth(kept[-2], kept[-1]) <= _worth(kept[-1], option):
            kept.pop()
        kept.append(option)
    return kept


def chain(layers: Mapping[str, Sequence[Option]]) -> list[Allocation]:
    """Allocations from the smallest to the most precise, each the best of its size as far as effects add up.

    Every step gives bits to the layer where they are worth most: on convex hulls that is the optimum of Lagrange's
    condition (Shoham and Gersho 1988), as in reverse water-filling.
    """
    hulls = {name: hull(options) for name, options in layers.items()}
    chosen = {name: corners[0] for name, corners in hulls.items()}
    found = [_allocation(chosen)]
    for name, option in _steps(hulls):
        chosen[name] = option
        found.append(_allocation(chosen))
    return found


def within(layers: Mapping[str, Sequence[Option]], stored_bits: int) -> Allocation | None:
    """The allocation that spends at most `stored_bits`; None where not even the fewest bits are that small.

    The steps are those of `chain`; one that is too large is left out, and what is left goes to later ones that fit.
    """
    hulls = {name: hull(options) for name, options in layers.items()}
    chosen = {name: corners[0] for name, corners in hulls.items()}
    left = stored_bits - sum(option.stored_bits for option in chosen.values())
    if left < 0:
        return None
    for name, option in _steps(hulls):
        cost = option.stored_bits - chosen[name].stored_bits
        if cost <= left:
            chosen[name], left = option, left - cost
    return _allocation(chosen)


def _steps(hulls: Mapping[str, Sequence[Option]]) -> Iterator[tuple[str, Option]]:
    """What each layer may get next, that which is worth most first."""
    steps = ((-_worth(a, b), name, b) for name, corners in hulls.items() for a, b in pairwise(corners))
    for _, name, option in sorted(steps, key=lambda step: (step[0], step[1], step[2].bits)):
        yield name, option


def _worth(a: Option, b: Option) -> float:
    """By how much the effect falls for each bit that is spent."""
    return (a.effect - b.effect) / max(b.stored_bits - a.stored_bits, 1)


def _allocation(chosen: Mapping[str, Option]) -> Allocation:
    bits = tuple((name, option.bits) for name, option in chosen.items())
    size, effect = sum(o.stored_bits for o in chosen.values()), sum(o.effect for o in chosen.values())
    return Allocation(bits, size, effect)

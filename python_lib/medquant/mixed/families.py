"""Several allocations for one size, for effects that were measured layer by layer need not add up.

A family holds every layer to a least number of bits, and trusts the measured effects or does not. Without trust all
layers count alike and an error falls as 4^-bits: the same bits everywhere, and what is left goes to the small layers,
as the product's default does it (`medquant.allocation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter

from medquant.mixed.chain import Allocation, Option, chain, within

Options = Mapping[str, Sequence[Option]]
FLOORS = 3
"""Of the least numbers of bits that a size allows, so many are considered: the largest."""


@dataclass(frozen=True)
class Family:
    """Allocations with the same least number of bits and the same trust."""

    floor: int
    trusted: bool
    measured: Options
    """Of each layer, with at least `floor` bits, in a model of so noisy channels."""

    @cached_property
    def _believed(self) -> Options:
        if self.trusted:
            return self.measured
        return {
            name: [replace(option, effect=4.0**-option.bits) for option in options]
            for name, options in self.measured.items()
        }

    @property
    def sizes(self) -> list[int]:
        """Stored bits of its allocations, growing."""
        return [one.stored_bits for one in chain(self._believed)]

    def within(self, stored_bits: int) -> Allocation | None:
        """Its allocation of at most so many bits; None where they do not suffice."""
        found = within(self._believed, stored_bits)
        return None if found is None else self._told(found)

    @property
    def smallest(self) -> Allocation:
        """Its allocation of the fewest bits: without trust those of `floor` everywhere."""
        return self._told(chain(self._believed)[0])

    def _told(self, found: Allocation) -> Allocation:
        effects = {(name, option.bits): option.effect for name, options in self.measured.items() for option in options}
        return replace(found, effect=sum(effects[one] for one in found.bits), nominal=self.floor)


@dataclass(frozen=True)
class Plan:
    """What each layer's bits are worth, and the allocations that follow."""

    measured: Mapping[int, Options]
    """By the least number of bits of any layer."""

    @cached_property
    def _families(self) -> list[Family]:
        return [Family(floor, trusted, self.measured[floor]) for floor in self.measured for trusted in (True, False)]

    @cached_property
    def sizes(self) -> list[int]:
        """Stored bits at which there is something new, growing."""
        return sorted({size for family in self._families for size in family.sizes})

    def candidates(self, stored_bits: int) -> list[Allocation]:
        """The different allocations of at most so many bits, one of a family.

        The highest floor comes first, with trust and then without; then the next one.
        """
        fitting = [(family, found) for family in self._families if (found := family.within(stored_bits))]
        floors = sorted({family.floor for family, _ in fitting}, reverse=True)[:FLOORS]
        kept = [(family, found) for family, found in fitting if family.floor in floors]
        kept.sort(key=lambda one: (floors.index(one[0].floor) + (not one[0].trusted), one[0].trusted))
        return list({found.key: found for _, found in kept}.values())

    def even(self, stored_bits: int) -> Allocation | None:
        """The same bits everywhere, as many as fit; None where not even the fewest do."""
        smallest = (family.smallest for family in self._families if not family.trusted)
        return max((one for one in smallest if one.stored_bits <= stored_bits), key=attrgetter("nominal"), default=None)

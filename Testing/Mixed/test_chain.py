"""Allocations: the best of their size, in one order from the smallest to the most precise."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medquant.mixed.chain import Allocation, Option, chain, hull

EFFECTS = st.integers(0, 1000).map(lambda n: n / 8)


@st.composite
def _layers(draw: st.DrawFn) -> dict[str, list[Option]]:
    layers = {}
    for number in range(draw(st.integers(1, 4))):
        weights = draw(st.integers(10, 1000))
        options = [Option(bits, bits * weights, draw(EFFECTS)) for bits in (2, 3, 4, 8)]
        layers[f"layer{number}"] = options
    return layers


def _all(layers: dict[str, list[Option]]) -> list[tuple[int, float]]:
    return [(sum(o.stored_bits for o in chosen), sum(o.effect for o in chosen)) for chosen in product(*layers.values())]


@given(_layers())
def test_no_allocation_is_smaller_and_better(layers: dict[str, list[Option]]) -> None:
    possible = _all(layers)
    found = chain(layers)
    for one in found:
        assert (one.stored_bits, pytest.approx(one.effect)) in possible
        assert all(effect >= one.effect - 1e-9 for size, effect in possible if size <= one.stored_bits)


@given(_layers())
def test_each_step_is_larger_and_better(layers: dict[str, list[Option]]) -> None:
    found = chain(layers)
    for before, after in pairwise(found):
        assert after.stored_bits > before.stored_bits and after.effect < before.effect
        changed = [name for name in layers if before.of()[name] != after.of()[name]]
        assert len(changed) == 1
    fewest = {name: hull(options)[0].bits for name, options in layers.items()}
    assert found[0].of() == fewest
    least = sum(min(option.effect for option in options) for options in layers.values())
    assert found[-1].effect == pytest.approx(least)


def test_bits_that_help_nothing_are_not_considered() -> None:
    options = [Option(2, 200, 1.0), Option(3, 300, 1.2), Option(4, 400, 0.5), Option(8, 800, 0.5)]
    assert [option.bits for option in hull(options)] == [2, 4]
    late = [Option(2, 200, 1.0), Option(3, 300, 0.9), Option(4, 400, 0.1)]  # 3 bits lie above the line from 2 to 4
    assert [option.bits for option in hull(late)] == [2, 4]


def test_bits_go_where_they_matter() -> None:
    layers = {
        "small and sensitive": [Option(2, 20, 5.0), Option(4, 40, 0.1)],
        "large and dull": [Option(2, 2000, 0.2), Option(4, 4000, 0.1)],
    }
    first, second, third = chain(layers)
    assert second.of() == {"small and sensitive": 4, "large and dull": 2}
    assert isinstance(first, Allocation) and third.of() == dict.fromkeys(layers, 4)

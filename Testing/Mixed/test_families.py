"""Several allocations for one size: none larger, the same bits everywhere among them, nothing left unspent."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medquant.allocation import STEPS, spread_bits
from medquant.mixed.chain import Option
from medquant.mixed.families import FLOORS, Options, Plan

WIDTHS = (2, 3, 4, 8)


@st.composite
def _plans(draw: st.DrawFn) -> Plan:
    sizes = draw(st.lists(st.integers(10, 1000), min_size=1, max_size=4))
    effects = st.floats(0.0, 10.0)
    measured: dict[int, Options] = {
        floor: {
            f"layer{number}": [Option(bits, bits * size, draw(effects)) for bits in WIDTHS if bits >= floor]
            for number, size in enumerate(sizes)
        }
        for floor in WIDTHS
    }
    return Plan(measured)


def _alike(sizes: dict[str, int]) -> Plan:
    """Layers of the same worth for each weight: no measurement says where bits matter."""
    options = {name: [Option(bits, bits * size, 4.0**-bits) for bits in WIDTHS] for name, size in sizes.items()}
    return Plan({floor: {n: [o for o in one if o.bits >= floor] for n, one in options.items()} for floor in WIDTHS})


@given(_plans(), st.integers(2, 9), st.integers(0, 300))
def test_candidates_fit_and_differ(plan: Plan, bits: int, more: int) -> None:
    weights = sum(options[0].stored_bits // 2 for options in plan.measured[2].values())
    asked = bits * weights + more
    found = plan.candidates(asked)
    assert 1 <= len(found) <= FLOORS * 2 and len({one.key for one in found}) == len(found)
    for one in found:
        chosen = one.of()
        options = {(name, o.bits): o for name, all_ in plan.measured[one.nominal].items() for o in all_}
        assert one.stored_bits == sum(options[item].stored_bits for item in chosen.items()) <= asked
        assert one.effect == pytest.approx(sum(options[item].effect for item in chosen.items()))
        assert min(chosen.values()) >= one.nominal


@given(_plans(), st.sampled_from((2, 3, 4, 8)))
def test_the_same_bits_everywhere_are_a_candidate_of_their_size(plan: Plan, bits: int) -> None:
    size = sum(option.stored_bits for options in plan.measured[bits].values() for option in options[:1])
    assert dict.fromkeys(plan.measured[bits], bits) in [one.of() for one in plan.candidates(size)]


@given(_plans(), st.integers(2, 9), st.integers(0, 300))
def test_as_many_bits_everywhere_as_fit(plan: Plan, bits: int, more: int) -> None:
    weights = sum(options[0].stored_bits // 2 for options in plan.measured[2].values())
    most = max(one for one in WIDTHS if one <= bits + more // max(weights, 1))
    found = plan.even(bits * weights + more)
    assert found.of() == dict.fromkeys(plan.measured[2], found.nominal) and found.nominal == most
    assert found.stored_bits == most * weights
    assert plan.even(2 * weights - 1) is None


@example({"a": 255, "b": 255, "c": 255, "d": 255, "e": 255, "f": 427}, 2)  # what is left is two layers to the bit
@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(10, 1000), min_size=1), st.sampled_from((2, 3)))
def test_without_trust_bits_are_spread_as_by_default(sizes: dict[str, int], bits: int) -> None:
    weights = sum(sizes.values())
    asked = int((bits + 0.3) * weights)
    even = next(one for one in _alike(sizes).candidates(asked) if one.nominal == bits)
    expected = spread_bits(sizes, bits, (asked - bits * weights + 0.5) / weights, None)  # half a bit buys nothing
    assert sorted(even.of().values()) == sorted(expected.values()) and set(STEPS) >= {bits}


def test_what_is_too_large_a_step_leaves_room_for_others() -> None:
    options = {"large": [Option(2, 2000, 9.0), Option(4, 4000, 0.1)], "small": [Option(2, 20, 0.2), Option(4, 40, 0.1)]}
    (found,) = Plan({2: options}).candidates(3000)
    assert found.of() == {"large": 2, "small": 4}
    assert Plan({2: options}).candidates(2019) == []

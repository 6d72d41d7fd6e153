"""Which layers get more bits than the recipe's, for a few hundredths of a bit per weight."""

from __future__ import annotations

import heapq

STEPS = {2: 3, 3: 4, 4: 8, 5: 8, 6: 8, 7: 8}
"""The next larger number of bits that is stored without waste."""


def spread_bits(
    sizes: dict[str, int], bits: int, extra: float, ends: int | None, live: dict[str, float] | None = None
) -> dict[str, int]:
    """Bits of each layer, given in network order with its number of weights.

    `live` is the part of each layer's weights that is stored; the bits that the others would have taken, and `extra`
    bits for each weight on average, are there to be spent. The first and the last layer get at least `ends` bits. What
    they leave goes where it lowers the error most per bit spent: a layer's relative error falls as 4^-bits whatever its
    size, so with layers that matter alike the small ones come first (reverse water-filling).
    """
    chosen = dict.fromkeys(sizes, bits)
    names = list(sizes)
    total = sum(sizes.values())
    sizes = {name: round(size * (live or {}).get(name, 1.0)) for name, size in sizes.items()}
    budget = extra * total + bits * (total - sum(sizes.values()))
    if ends is not None and names:
        for name in {names[0], names[-1]}:
            chosen[name] = max(bits, ends)
            budget -= (chosen[name] - bits) * sizes[name]
    heap = [_gain(sizes[name], bits, name) for name in names if chosen[name] == bits and bits in STEPS]
    heapq.heapify(heap)
    while heap:
        _, name = heapq.heappop(heap)
        step = STEPS[chosen[name]]
        cost = (step - chosen[name]) * sizes[name]
        if cost > budget:
            continue
        budget -= cost
        chosen[name] = step
        if step in STEPS:
            heapq.heappush(heap, _gain(sizes[name], step, name))
    return chosen


def _gain(size: int, bits: int, name: str) -> tuple[float, str]:
    """Minus the fall of the error for each bit spent, so that the smallest comes first."""
    step = STEPS[bits]
    return -(4.0**-bits - 4.0**-step) / ((step - bits) * size), name

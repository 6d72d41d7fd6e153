"""Integer codes as bytes: 2, 3, 4 or 8 bits each, nothing wasted but the last byte."""

from __future__ import annotations

import torch

STORED_BITS = {2: 2, 3: 3, 4: 4, 5: 8, 6: 8, 7: 8, 8: 8}
"""Bits that a code of so many bits takes in storage."""


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack uint8 codes below 2^bits into a flat uint8 tensor; little end first, rows after rows.

    Three bits go as bit planes, eight codes to three bytes.
    """
    flat = codes.reshape(-1)
    if len(flat) and int(flat.max()) >= 2**bits:
        raise ValueError(f"a code does not fit into {bits} bits")
    stored = STORED_BITS[bits]
    if stored == 8:
        return flat.clone()
    unit = 8 if stored == 3 else 8 // stored
    flat = torch.cat([flat, flat.new_zeros(-len(flat) % unit)]).reshape(-1, unit)
    if stored == 3:
        place = torch.arange(8, dtype=torch.uint8, device=codes.device)
        planes = [(((flat >> bit) & 1) << place).sum(1, dtype=torch.uint8) for bit in range(3)]
        return torch.stack(planes, 1).reshape(-1)
    place = torch.arange(0, 8, stored, dtype=torch.uint8, device=codes.device)
    return (flat << place).sum(1, dtype=torch.uint8)


def unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """The first `count` codes (uint8, flat) of what `pack` made. Raises ValueError if there are fewer."""
    stored = STORED_BITS[bits]
    if len(packed) != packed_size(count, bits):
        raise ValueError(f"{len(packed)} bytes do not hold {count} codes of {bits} bits")
    if stored == 8:
        return packed
    if stored == 3:
        planes = packed.reshape(-1, 3)
        place = torch.arange(8, dtype=torch.uint8, device=packed.device)
        codes = sum(((planes[:, bit, None] >> place) & 1) << bit for bit in range(3))
    else:
        place = torch.arange(0, 8, stored, dtype=torch.uint8, device=packed.device)
        codes = (packed[:, None] >> place) & (2**stored - 1)
    return codes.reshape(-1)[:count]


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes take."""
    stored = STORED_BITS[bits]
    if stored == 3:
        return -(-count // 8) * 3
    return -(-count * stored // 8)

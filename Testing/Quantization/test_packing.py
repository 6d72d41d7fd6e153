"""Codes as bytes: round trips at every width and length, and the size they take."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medquant.packing import STORED_BITS, pack, packed_size, unpack


@given(bits=st.integers(2, 8), length=st.integers(0, 70), seed=st.integers(0, 9999))
def test_round_trip(bits: int, length: int, seed: int) -> None:
    codes = torch.randint(0, 2**bits, (length,), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    before = codes.clone()
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8 and packed.ndim == 1
    assert len(packed) == packed_size(length, bits)
    assert torch.equal(unpack(packed, bits, length), codes)
    assert torch.equal(codes, before)


@pytest.mark.parametrize("bits", range(2, 9))
def test_no_bit_is_wasted_in_full_bytes(bits: int) -> None:
    assert packed_size(800, bits) * 8 == 800 * STORED_BITS[bits]
    assert STORED_BITS[bits] == (bits if bits in (2, 3, 4, 8) else 8)


def test_the_order_of_bits_is_little_end_first() -> None:
    assert pack(torch.tensor([1, 2, 3, 0], dtype=torch.uint8), 2).tolist() == [1 + 2 * 4 + 3 * 16]
    assert pack(torch.tensor([5, 10], dtype=torch.uint8), 4).tolist() == [5 + 10 * 16]
    # Three planes of one byte each: the lowest bit of all eight codes first.
    assert pack(torch.tensor([1, 2, 4, 7, 0, 0, 0, 0], dtype=torch.uint8), 3).tolist() == [9, 10, 12]


def test_matrices_are_packed_row_after_row() -> None:
    codes = torch.arange(16, dtype=torch.uint8).reshape(2, 2, 4)
    assert torch.equal(unpack(pack(codes, 4), 4, 16), codes.flatten())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 7])
def test_a_code_too_large_is_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        pack(torch.tensor([2**bits], dtype=torch.uint8), bits)


@given(bits=st.integers(2, 8), length=st.integers(1, 40), missing=st.integers(1, 3))
def test_a_wrong_number_of_bytes_is_refused(bits: int, length: int, missing: int) -> None:
    packed = pack(torch.zeros(length, dtype=torch.uint8), bits)
    for wrong in (packed[:-missing], torch.cat([packed, packed[:1]])):
        with pytest.raises(ValueError, match="do not hold"):
            unpack(wrong, bits, length)

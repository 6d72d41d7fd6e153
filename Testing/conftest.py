"""Fixtures that every room shares."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# A busy machine is no failure: properties have no deadline.
settings.register_profile("medquant", deadline=None)
settings.load_profile("medquant")

CHECKOUT = Path(__file__).resolve().parents[1]


def _test_data_folder() -> Path:
    return Path(os.environ.get("MEDQUANT_TEST_DATA", CHECKOUT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real scans and weights; a missing one skips, or fails where the data are required."""
    folder = _test_data_folder()
    if not folder.is_dir():
        reason = f"real scans and weights not found at {folder}; set MEDQUANT_TEST_DATA"
        if os.environ.get("MEDQUANT_REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(0)

"""The helpers of these tests on the path, and a small benchmark."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if (HERE := str(Path(__file__).resolve().parent)) not in sys.path:
    sys.path.insert(0, HERE)

if TYPE_CHECKING:
    from medquant.bench.medquanbench.subjects import Subject


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What is compiled stays out of the user's own cache."""
    folder = tmp_path_factory.mktemp("kept") / "compiled"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDQUANT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory, own_cache: Path) -> Subject:
    """A real network, untrained, a scan that calibrates it and two that test it."""
    from small_subject import a_subject

    return a_subject(tmp_path_factory.mktemp("subject"))

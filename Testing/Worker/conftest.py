"""The worker as its user sees it: through `EngineProcess`, in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from event_loop import EventLoop

CHECKOUT = Path(__file__).resolve().parents[2]
for folder in (CHECKOUT / "MedQuantSlicer", Path(__file__).resolve().parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

WORKER = (sys.executable, "-m", "medquant", "worker")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the worker keeps on disk stays out of the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDQUANT_CACHE", str(tmp_path_factory.mktemp("kept")))
        patch.setenv("PYTHONPATH", str(CHECKOUT / "python_lib") + os.pathsep + os.environ.get("PYTHONPATH", ""))
        yield


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    """An event loop of the smallest kind, with every engine that was started in it ended afterwards."""
    from event_loop import EventLoop

    made = EventLoop()
    yield made
    made.close()


@pytest.fixture(scope="module")
def warm_loop() -> Iterator[EventLoop]:
    """The same for all tests of a file: its engine stays warm."""
    from event_loop import EventLoop

    made = EventLoop()
    yield made
    made.close()

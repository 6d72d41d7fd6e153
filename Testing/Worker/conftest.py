"""The worker as its user sees it: through `EngineProcess`, in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from event_loop import EventLoop
    from real_scan import Bench

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


@pytest.fixture(scope="session")
def bench(test_data: Path) -> Iterator[Bench]:
    """The abdominal CT; a worker for all files, as it quantizes and segments for all of them once."""
    from event_loop import EventLoop
    from real_scan import LIVER, Bench

    from medquant.imaging.reading import read_labels, read_volume

    scan = read_volume(test_data / "ct_abdomen_dicom" / "series")
    labels = read_labels(test_data / "ct_abdomen_dicom" / "labels.nii.gz", scan, names={LIVER: "liver"}).labels
    loop = EventLoop()
    made = Bench(loop, loop.engine(*WORKER), scan, labels, {})
    made.volume = made.hand_over("volume.npy", scan.array)
    yield made
    loop.close()


@pytest.fixture(scope="session")
def quantized(bench: Bench) -> dict[str, Any]:
    """The embedded model at 4 bits."""
    asked = {"model": "embedded", "volume": bench.volume, "bits": 4, "slices": {"count": 1, "where": "body"}}
    return bench.loop.result(bench.engine, "quantize", asked)


@pytest.fixture(scope="session")
def masks(bench: Bench, quantized: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of FP32 and of the quantized model."""
    return {"fp32": bench.segment()["mask"], "quantized": bench.segment(quantized["handle"])["mask"]}


@pytest.fixture
def worker(loop: EventLoop) -> EventLoop:
    """The real worker with some methods of bad manners."""
    from noisy_worker import NOISY

    loop.made = loop.engine(sys.executable, "-c", NOISY, "worker")
    return loop

"""The smallest safe model by the real worker: drawn boxes check it, a small nnU-Net segments a part of the scan."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import pytest
from event_loop import EventLoop

from medquant.embedded.phantom import make_phantom
from medquant.matrices import is_quantizable
from medquant.models.registry import load_model

TOLD = (
    r"Mean Dice \S+( \(lowest \S+\))? on {on}, volumes within \S+%\n"
    r"Segments them in \S+ (s|ms|min) \(FP32 \S+ (s|ms|min); simulated\), found in \S+ (s|min)\nLayers: "
)


@pytest.fixture(scope="module")
def ask(warm_loop: EventLoop) -> Any:
    """Asks a warm worker about a coarse phantom."""
    engine = warm_loop.engine(sys.executable, "-m", "medquant", "worker")
    array, _labels, _names, affine = make_phantom(0, (12, 64, 64), (12.0, 6.0, 6.0))
    np.save(engine.folder / "whole.npy", array)
    np.save(engine.folder / "middle.npy", array[:, 20:44, 20:44])  # one window of the nnU-Net

    def ask(model: str, array: str, **params: Any) -> dict[str, Any]:
        volume = {"array": array, "ijk_to_lps": affine.tolist(), "modality": "CT", "name": "phantom"}
        network = load_model(model).network
        layers = [name for name, module in network.named_modules() if is_quantizable(module)]
        floating = dict.fromkeys(layers[:-2], 32)  # little is left to do
        told = {"model": model, "volume": volume, "method": "rtn", "slices": 3, "widths": [3, 8], "overrides": floating}
        answer = warm_loop.ask(engine, "find_safe", told | params | {"tolerance": {"dsc": 0.5}})
        warm_loop.wait(lambda: answer.done)
        assert answer.error is None, answer.error
        return answer.result

    corners = [(affine @ [*end, 1.0])[:3].tolist() for end in ((10, 15, 2), (35, 45, 9))]
    ask.boxes = [{"name": "liver", "label": 1, "corners": corners}]
    return ask


def test_the_boxes_that_are_drawn_check_it(ask: Any) -> None:
    found = ask("embedded", "whole.npy", boxes=ask.boxes)
    assert re.match(TOLD.format(on="1 held-out slice with the boxes given"), found["found"]), found["found"]
    assert {part["name"] for one in found["tried"] for part in one["structures"]} == {"liver"}


def test_a_network_without_boxes_segments_a_third_of_the_scan(ask: Any) -> None:
    found = ask("embedded-nnunet", "middle.npy", boxes=ask.boxes)  # the scan has boxes, this model takes none
    assert re.match(TOLD.format(on="4 held-out slices"), found["found"]), found["found"]
    assert all(part["volume_ml_fp32"] >= 0 for one in found["tried"] for part in one["structures"])

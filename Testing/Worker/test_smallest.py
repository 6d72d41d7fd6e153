"""The smallest safe model by the real worker, of a network so small that every candidate takes a moment."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_loop import EventLoop

from medquant.embedded.phantom import make_phantom

DICE = 0.85
"""More than these layers keep at 2 bits, less than at 8."""
SEARCHED = "vision_encoder.layers"
"""The layers whose bits are looked for; the others stay in floating point, so that little is left to do."""


@dataclass
class Small:
    """A warm worker, a scan that was handed over to it, and the folder of a network."""

    loop: EventLoop
    engine: Any
    model: str
    volume: dict[str, Any]
    floating: tuple[str, ...]
    """The layers that stay in floating point."""

    def find(self, dsc: float) -> Any:
        """Search by rounding, with 2 and 8 bits and three slices of which one checks."""
        kept = dict.fromkeys(self.floating, 32)
        asked = {"method": "rtn", "slices": 3, "widths": [2, 8], "overrides": kept}
        return self.ask("find_safe", **asked, tolerance={"dsc": dsc})

    def ask(self, request: str, **params: Any) -> Any:
        """Ask about the network and the scan, and wait."""
        answer = self.loop.ask(self.engine, request, {"model": self.model, "volume": self.volume, **params})
        self.loop.wait(lambda: answer.done)
        assert answer.error is None, answer.error
        return answer


@pytest.fixture(scope="module")
def small(warm_loop: EventLoop, tiny_sam: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A SAM of a few thousand random weights, as transformers saves it, and a coarse phantom."""
    import torch

    network = tiny_sam()
    with torch.no_grad():  # the library's own start is too near zero to show anything
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 or "embed" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
        positions = network.shared_image_embedding.positional_embedding
        network.prompt_encoder.shared_embedding.positional_embedding.copy_(positions)
    folder = tmp_path_factory.mktemp("small-sam")
    network.save_pretrained(folder)
    engine = warm_loop.engine(sys.executable, "-m", "medquant", "worker")
    array, _labels, _names, affine = make_phantom(0, (6, 64, 64), (12.0, 6.0, 6.0))
    np.save(engine.folder / "volume.npy", array)
    volume = {"array": "volume.npy", "ijk_to_lps": affine.tolist(), "modality": "CT", "name": "phantom"}
    kinds = torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d
    layers = [name for name, module in network.named_modules() if isinstance(module, kinds)]
    floating = [name for name in layers if not name.startswith(SEARCHED)]
    return Small(warm_loop, engine, str(folder), volume, tuple(floating))


def test_the_smallest_safe_model_is_a_quantized_model(small: Small) -> None:
    """Of layers of 2 and of 8 bits, within the tolerance, and a file that is opened as others are."""
    from medquant import artifact

    answer = small.find(DICE)
    found, tried = answer.result, [one["tried"] for one in answer.partial]
    assert found["safe"] and found["tried"] == tried
    assert {one["safe"] for one in tried} == {True, False}, "else there was nothing to search"
    assert all(one["safe"] == (one["dsc"] >= DICE) for one in tried)
    kept = {layer["name"]: layer["bits"] for layer in found["report"]["layers"]}
    assert any(name.startswith(SEARCHED) for name in kept)
    assert set(small.floating) <= set(found["report"]["kept"]) and not set(small.floating) & set(kept)
    assert set(kept.values()) == {2, 8} and found["bits"] == 0
    assert found["precise"] == [name for name, bits in kept.items() if bits == 8]
    assert f"{sum(bits == 2 for bits in kept.values())} of 2 bits" in found["found"]
    assert re.match(r"Mean Dice \S+( \(lowest \S+\))? on 1 held-out slice, ", found["found"])
    path = Path(found["handle"])
    assert path.stat().st_size == found["bytes"]
    made = artifact.load(path)
    assert {layer.name: layer.bits for layer in made.report.layers} == kept
    assert made.report.effective_bits == pytest.approx(min(one["effective_bits"] for one in tried if one["safe"]))


@pytest.mark.parametrize(
    ("asked", "worst", "volume", "uneven"),
    [
        (0.95, 0.897, 0.101, True),
        (0.95, 0.897, 0.0, True),
        (0.95, 0.94, 0.101, True),
        (0.95, 0.94, 0.04, False),
        (0.99, 0.96, 0.0, True),
    ],
)
def test_what_was_not_asked_is_told_where_it_is_clearly_worse(
    asked: float, worst: float, volume: float, uneven: bool
) -> None:
    from medquant.mixed.search import Tolerance
    from medquant.mixed.verification import Kept
    from medquant.worker.methods.smallest import is_uneven

    assert is_uneven(Kept(0.99, volume, worst), Tolerance(asked)) is uneven

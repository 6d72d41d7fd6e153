"""`bench redesign`: one run of a few steps, its rows against the networks themselves."""

from __future__ import annotations

import pytest
import torch

from medquant.bench import redesign
from medquant.published_recipes import PUBLISHED
from medquant.rewrites.settings import Redesign

NETWORKS = ("original", "one layer redesigned", "all layers redesigned")


@pytest.fixture
def few_phantoms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redesign, "SHAPE", (8, 32, 32))
    monkeypatch.setattr(redesign, "SPACING", (16.0, 10.0, 10.0))
    for name, seeds in (("TRAINING", (1000, 1001)), ("CALIBRATING", (1100, 1101)), ("TESTING", (900,))):
        monkeypatch.setattr(redesign, name, seeds)


def test_every_network_is_measured_in_fp32_and_rounded(few_phantoms: None) -> None:
    seen = []
    rows = redesign.run(steps=30, redesign=Redesign(steps=3), bits=(4,), progress=seen.append)
    assert [(row["network"], row["precision"], row["granularity"]) for row in rows] == [
        (name, *one) for name in NETWORKS for one in (("FP32", ""), *(("W4A4", g) for g in PUBLISHED))
    ]
    full = {row["network"]: row for row in rows if row["precision"] == "FP32"}
    assert full["original"]["dsc_vs_original"] == 1.0
    assert 0 < full["all layers redesigned"]["dsc_vs_original"] < 1
    assert full["one layer redesigned"]["dsc_vs_original"] != full["all layers redesigned"]["dsc_vs_original"]
    fractions = [event.fraction for event in seen]
    assert fractions[-1] == 1.0 and any("Training on phantoms" in event.message for event in seen)
    # The original, trained again from the same arguments, gives the labels' Dice of its row.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    network = redesign.trained(30, redesign.Progress())
    torch.set_num_threads(before)
    ((image, labels),) = redesign._phantoms(redesign.TESTING)
    with torch.inference_mode():
        found = network(image).argmax(1)
    scores = []
    for label in range(1, 6):
        both, total = ((found == label) & (labels == label)).sum(), (found == label).sum() + (labels == label).sum()
        if total:
            scores.append(2 * float(both) / float(total))
    assert full["original"]["dsc_vs_labels"] == pytest.approx(sum(scores) / len(scores))

"""`bench rewrites`: its rows are the figures of the quantized models, and its verdicts those of its own spread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch

from medquant.bench import allconvunet, rewrites
from medquant.bench.allconvunet import to_cube, to_network_axes
from medquant.bench.organ_case import OrganCase, OrganModel, logits_of
from medquant.bench.rewrites import AGAIN, Row, gains, recipe_of
from medquant.embedded.phantom import make_phantom
from medquant.errors import UserError
from medquant.evaluation.metrics import dice
from medquant.evaluation.rewrite_study import AS_LARGE, LOW_RANK, NONE, OWN, VARIANTS
from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationBatch
from medquant.published_recipes import published
from medquant.quantize import quantize


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Iterator[OrganCase]:
    """The benchmark's own network, untrained, on coarse phantoms in place of the scans; all that it finds counts."""
    monkeypatch.setattr(allconvunet, "SIDE", 24)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = allconvunet.AllConvUNet().eval()
    model = OrganModel(network, name="untrained", spec={"family": "allconvunet"}, weights_hash="")
    scans = []
    for seed in range(2):
        array, labels, _, affine = make_phantom(seed, (16, 40, 40), (12.0, 9.0, 9.0))
        scans.append((Volume(array, affine, modality="CT"), labels))
    (calibration, _), (tested, labels) = scans
    whole = tuple(slice(0, size) for size in to_network_axes(tested).shape)
    cube = to_cube(to_network_axes(tested), whole)
    reference = to_cube(to_network_axes(tested, labels), whole, labels=True)[0, 0].long()
    # Classes as likely as each other, so that there are several to find.
    network.conv77U.bias.data -= logits_of(network, cube).mean((0, 2, 3, 4))
    full = logits_of(network, cube).argmax(1)[0]
    organs = tuple(label for label in allconvunet.ORGANS if int((full == label).sum()) > 100)
    made = OrganCase(model, calibration, cube, full, reference, organs)
    monkeypatch.setattr(OrganCase, "all", lambda _data, folds: [made for _ in folds])
    yield made
    torch.set_num_threads(before)


def test_rows_are_the_figures_of_the_quantized_models(
    case: OrganCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: VARIANTS[name] for name in (NONE, LOW_RANK, "rotation 32")}
    monkeypatch.setattr("medquant.evaluation.rewrite_study.VARIANTS", few)
    rows = rewrites.run(data=tmp_path, folds=(2,), roundings=("W4A4", "W3"))
    everywhere = [LOW_RANK, "rotation 32"]
    assert [(row.rounding, row.rewrite, bool(row.layer)) for row in rows] == [
        *(("W4A4", name, False) for name in (NONE, AGAIN, *everywhere, OWN, AS_LARGE)),
        *(("W4A4", name, True) for name in everywhere),
        *(("W3", name, False) for name in (NONE, *everywhere, AS_LARGE)),
    ]
    assert len(case.organs) > 2 and {row.network for row in rows} == {"untrained"}
    plain = {row.rounding: row for row in rows if row.rewrite == NONE}
    for row in rows:
        if row.rewrite not in (*few, AGAIN):
            continue
        whole, feet = case.batches()[0].inputs[0], 8 if row.rewrite == AGAIN else 4
        batch = CalibrationBatch((whole[..., 4:20, 4:20, feet : feet + 16],))
        wanted = {row.layer or "*": few.get(row.rewrite)}
        made = quantize(case.model, [batch], recipe=replace(recipe_of(row.rounding), rewrites=wanted))
        found = logits_of(made.model.network, case.cube).argmax(1)[0]
        names = {allconvunet.ORGANS[organ]: organ for organ in case.organs}
        scores = {name: dice((found == n).numpy(), (case.full == n).numpy()) for name, n in names.items()}
        assert row.dsc_vs_fp32_by_organ == pytest.approx(scores)
        assert row.dsc_vs_fp32 == pytest.approx(mean(scores.values()))
        differences = [scores[name] - plain[row.rounding].dsc_vs_fp32_by_organ[name] for name in scores]
        assert row.gain == pytest.approx(mean(differences))
        assert row.gain_error == pytest.approx(stdev(differences) / len(differences) ** 0.5)
        assert row.effective_bits == made.report.effective_bits
    bits = {row.rewrite: row.effective_bits for row in rows if row.rounding == "W3"}
    assert bits[NONE] == bits["rotation 32"] < bits[LOW_RANK]
    # What the branches take is given to the weights, as far as whole bits of layers allow.
    assert bits[NONE] < bits[AS_LARGE] == pytest.approx(bits[LOW_RANK], abs=0.25)


def row_of(network: str, rewrite: str, scores: tuple[float, ...], layer: str = "", gain: float = 0.0) -> Row:
    by_organ = dict(zip(("liver", "spleen", "stomach"), scores, strict=False))
    return Row(network, "W4A4", rewrite, layer, 4.0, mean(scores), 0.5, by_organ, gain, 0.0, 1.0)


@pytest.mark.parametrize(
    ("scores", "elsewhere", "verdict"),
    [
        ((0.95, 0.86, 0.75), 0.0, "helps"),
        ((0.85, 0.74, 0.65), 0.0, "harms"),
        ((0.95, 0.86, 0.75), 0.06, "tie"),  # calibrating elsewhere changes as much
        ((0.99, 0.70, 0.70), 0.0, "tie"),  # the organs do not agree
        ((0.908, 0.809, 0.708), 0.0, "tie"),  # they do, to nobody's use
    ],
    ids=["all-gain", "all-lose", "as-another-calibration", "organs-disagree", "too-small"],
)
def test_a_gain_counts_beyond_its_own_spread(scores: tuple[float, ...], elsewhere: float, verdict: str) -> None:
    plain = (0.9, 0.8, 0.7)
    rows = [
        one
        for network in ("a", "b")
        for one in (
            row_of(network, NONE, plain),
            row_of(network, AGAIN, plain, gain=-elsewhere if network == "b" else 0.0),
            row_of(network, "smoothing", scores),
            row_of(network, "smoothing", plain, layer="first"),
        )
    ]
    found = {(one.rewrite, one.one_layer): one for one in gains(rows)}
    differences = 2 * [a - b for a, b in zip(scores, plain, strict=True)]
    one = found["smoothing", False]
    assert one.gain == pytest.approx(mean(differences))
    assert one.gain_error == pytest.approx(stdev(differences) / 6**0.5)
    assert one.verdict == verdict and found["smoothing", True].verdict == "tie"


def test_a_rounding_is_read_and_a_wrong_choice_named(tmp_path: Path) -> None:
    recipe = recipe_of("w4a8")
    assert (recipe.weights.bits, recipe.activations.bits, recipe.activations.equalize) == (4, 8, False)
    assert recipe_of("W3").activations is None
    assert recipe_of("W4A4", granularity="adaptive") == published(4, "adaptive")
    for wrong in ("4", "W9", "A4", "W4A"):
        with pytest.raises(UserError, match="Unknown rounding"):
            recipe_of(wrong)
    with pytest.raises(UserError, match="Unknown fold 3"):
        rewrites.run(data=tmp_path, folds=(3,))
    with pytest.raises(UserError, match="There is no granularity 'fine'"):
        rewrites.run(data=tmp_path, granularity="fine")

"""One layer at a time: the effects are those of whole passes, computed in a part of the time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from medquant import IntWeights, PerTensor
from medquant.errors import Cancelled, UserError
from medquant.models.base import CalibrationBatch
from medquant.models.torch_program import TorchModel, from_module
from medquant.network_edit import set_module, structural_twin
from medquant.progress import Progress
from medquant.recipe import Recipe
from medquant.sensitivity import layers as layers_module
from medquant.sensitivity import replay as replay_module
from medquant.sensitivity.change import Expected, mean_dice, overlaps
from medquant.sensitivity.effects import VIEWS
from medquant.sensitivity.layers import sensitivity, type_of
from medquant.sensitivity.replay import Replay
from medquant.sensitivity.trials import Rounding, TrialRun, roundings_of


class Block(nn.Module):
    """Writes into its own input's sum in place, as networks do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        y = torch.relu_(self.first(x))
        return self.second(y).add_(x)


class Net(nn.Module):
    """A stem, a list of blocks, a transposed convolution, a head that is called twice, and a layer that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(Block(8) for _ in range(3))
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.head = nn.Conv2d(4, 4, 1)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = self.up(x)
        return self.head(torch.relu(self.head(x)))


@pytest.fixture
def model() -> TorchModel:
    """The network as a model."""
    torch.manual_seed(0)
    return from_module(Net(), name="net")


@pytest.fixture
def batches() -> list[CalibrationBatch]:
    """Two inputs."""
    generator = torch.Generator().manual_seed(1)
    return [CalibrationBatch((torch.randn(1, 1, 12, 12, generator=generator),)) for _ in range(2)]


RTN = Recipe(method="rtn")
ALL = (Rounding(2), Rounding(4, 8), Rounding(None, 4))


def _rounded_alone(model: TorchModel, batches: list[CalibrationBatch], recipe: Recipe) -> TrialRun:
    run = TrialRun(model, batches, recipe, ALL, (), None, Progress(None, None))
    with torch.inference_mode():
        run.run()
    return run


def _outputs(network: nn.Module, batches: list[CalibrationBatch]) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [network(*batch.inputs) for batch in batches]


def _with(run: TrialRun, layers: dict[str, nn.Module]) -> nn.Module:
    """The network with layers really put in their places."""
    network = structural_twin(run.network)
    for name, layer in layers.items():
        set_module(network, name, layer)
    return network


@pytest.mark.parametrize("recipe", [RTN, Recipe(weights=IntWeights(granularity=PerTensor())), Recipe(method="comq")])
def test_effects_are_those_of_whole_passes(model: TorchModel, batches: list[CalibrationBatch], recipe: Recipe) -> None:
    state = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    told = []
    found = sensitivity(model, batches, roundings=ALL, views=VIEWS, recipe=recipe, partial=told.append)
    names = ["stem.0", *(f"blocks.{n}.{part}" for n in range(3) for part in ("first", "second")), "up", "head"]
    assert list(found.layers) == names and told == list(found.cells)
    assert found.roundings == ALL and found.bits == (2, 4)
    run = _rounded_alone(model, batches, recipe)
    expected = _outputs(run.network, batches)

    def error(layers: dict[str, nn.Module]) -> float:
        outputs = _outputs(_with(run, layers), batches)
        return float(np.mean([float((o - e).norm() / e.norm()) for o, e in zip(outputs, expected, strict=True)]))

    for rounding in ALL:
        trials = {name: trial.module for name, trial in run.trials[rounding].items()}
        whole = error(trials)
        assert dict(found.whole)[rounding].error == pytest.approx(whole, rel=1e-4)
        alone, given, own = (found.column(rounding, view) for view in VIEWS)
        assert list(alone) == list(given) == list(own) == names
        for name in names:
            assert alone[name].effect == pytest.approx(error({name: trials[name]}), rel=1e-4, abs=1e-6)
            others = {other: layer for other, layer in trials.items() if other != name}
            assert given[name].change.error == pytest.approx(error(others), rel=1e-4, abs=1e-6)
            assert given[name].effect == pytest.approx(whole - given[name].change.error, abs=1e-6)
            assert alone[name].dsc_loss == 1 - alone[name].change.dsc and own[name].dsc_loss is None
            assert given[name].dsc_loss == given[name].change.dsc - dict(found.whole)[rounding].dsc
            assert own[name].effect == pytest.approx(run.trials[rounding][name].relative_error, rel=1e-4)
            assert alone[name].shape == tuple(model.network.get_submodule(name).weight.shape)
        assert sum(cell.share for cell in alone.values()) == pytest.approx(1.0)
    assert found.ranking_view == "one-at-a-time" != found.cells[0].view, "the proxy comes first, masks tell more"
    first = found.column(ALL[0], "one-at-a-time")
    assert found.worst(1) == (max(first.values(), key=lambda cell: cell.effect).layer,)
    losses = {cell.layer: cell.dsc_loss for cell in first.values() if cell.dsc_loss > 0}
    harmful = found.most_harmful(len(names))
    assert set(harmful) == set(losses) and [losses[n] for n in harmful] == sorted(losses.values(), reverse=True)
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert all("forward" not in module.__dict__ for module in model.network.modules())


def test_a_type_of_layers_is_given_back_as_a_whole(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    found = sensitivity(model, batches, roundings=(Rounding(2),), views=("incremental",))
    run = TrialRun(model, batches, RTN, (Rounding(2),), (), None, Progress(None, None))
    with torch.inference_mode():
        run.run()
    kinds = {name: type_of(job) for name, job in run.jobs.items()}
    assert set(kinds.values()) == {"Conv2d 3x3", "Conv2d 1x1", "ConvTranspose2d 2x2"}
    assert [effect.layer for effect in found.types] == list(dict.fromkeys(kinds.values()))
    expected = _outputs(run.network, batches)
    for effect in found.types:
        others = {name: t.module for name, t in run.trials[Rounding(2)].items() if kinds[name] != effect.layer}
        outputs = _outputs(_with(run, others), batches)
        error = np.mean([float((o - e).norm() / e.norm()) for o, e in zip(outputs, expected, strict=True)])
        assert effect.change.error == pytest.approx(error, rel=1e-4)
        assert effect.effect == pytest.approx(dict(found.whole)[Rounding(2)].error - error, abs=1e-6)


def test_views_that_agree_are_told_so(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    found = sensitivity(model, batches, roundings=(Rounding(8),), views=VIEWS)
    rows = found.rank_agreement()
    pairs = [("proxy", "one-at-a-time"), ("proxy", "incremental"), ("one-at-a-time", "incremental")]
    assert [tuple(row["views"]) for row in rows] == pairs
    assert all(-1 <= row["spearman"] <= 1 for row in rows)
    told = found.to_dict()
    assert {cell["view"] for cell in told["cells"]} == set(VIEWS) and told["cells"][0]["rounding"] == "W8"
    assert told["worst"] == list(found.worst()) and len(told["types"]) == 3


def test_a_change_is_that_of_probabilities_and_masks() -> None:
    generator = torch.Generator().manual_seed(3)
    expected = torch.randn(1, 3, 5, 6, generator=generator)
    found = expected + torch.randn(1, 3, 5, 6, generator=generator)
    change = Expected(expected, exclusive=True, reference=expected.argmax(1)).change(found)
    p, q = expected.double().softmax(1), found.double().softmax(1)
    assert change.divergence == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-5)
    assert change.dsc == change.dsc_vs_reference < 1
    alone = Expected(expected, exclusive=False).change(found)
    p, q = expected.double().sigmoid(), found.double().sigmoid()
    by_hand = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert alone.divergence == pytest.approx(float(by_hand.mean()), rel=1e-5)
    assert (
        alone.dsc == pytest.approx(mean_dice(overlaps(found > 0, expected > 0, 0))) and alone.dsc_vs_reference is None
    )
    each = [mean_dice([one]) for one in overlaps(found.argmax(1), expected.argmax(1), 3)]
    assert change.worst_dsc == min(each) < change.dsc < max(each)
    same = Expected(expected, exclusive=True).change(expected.clone())
    assert (same.error, same.divergence, same.dsc, same.worst_dsc) == (0.0, 0.0, 1.0, 1.0)
    broken = Expected(expected, exclusive=True).change(found * float("nan"))
    assert broken.error == broken.divergence == float("inf")


def test_the_effect_on_the_reference_is_what_rounding_costs_against_it(
    model: TorchModel, batches: list[CalibrationBatch]
) -> None:
    model.network.head.weight.data.mul_(20.0)  # so that several classes win, and rounding moves them
    model.network.head.bias.data.zero_()
    labels = [output.argmax(1) for output in _outputs(model.network, batches)]
    views = ("one-at-a-time", "incremental")
    found = sensitivity(model, batches, roundings=(Rounding(2),), views=views, references=labels)
    assert found.fp32_vs_reference == found.to_dict()["fp32_vs_reference"] == 1.0, "what FP32 finds is the reference"
    for cell in (*found.cells, *found.types):
        assert cell.change.dsc_vs_reference == pytest.approx(cell.change.dsc)
        assert cell.reference_loss == cell.to_dict()["reference_loss"] == pytest.approx(cell.dsc_loss)
    assert max(cell.dsc_loss for cell in found.cells) > 0.01
    others = [labels[0].roll(2, -1), None]
    found = sensitivity(model, batches, roundings=(Rounding(2),), views=views, references=others)
    logits = _outputs(model.network, batches)[0]
    fp32 = mean_dice(overlaps(logits.argmax(1), others[0], logits.shape[1]))
    assert found.fp32_vs_reference == pytest.approx(fp32) and 0 < fp32 < 1, "the second input has no reference"
    whole = dict(found.whole)[Rounding(2)].dsc_vs_reference
    for cell in found.cells:
        against = cell.change.dsc_vs_reference
        meant = fp32 - against if cell.view == "one-at-a-time" else against - whole
        assert cell.reference_loss == pytest.approx(meant)
    assert sensitivity(model, batches, roundings=(Rounding(2),)).fp32_vs_reference is None
    with pytest.raises(UserError, match="1 references do not fit 2 inputs"):
        sensitivity(model, batches, roundings=(Rounding(2),), references=labels[:1])


def test_nothing_rounded_is_no_rounding() -> None:
    with pytest.raises(UserError, match="Nothing would be rounded"):
        Rounding(None, None)
    assert [one.label for one in ALL] == ["W2", "W4A8", "A4"]


def test_what_lies_before_the_change_is_not_computed_again(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    network = model.network
    replay = Replay(network)
    with torch.inference_mode():
        expected = replay.record(lambda: network(*batches[0].inputs))
        for layer, passed in (("stem.0", 3), ("blocks.1.first", 2), ("blocks.2.second", 1), ("head", 0)):
            for block in network.blocks:
                block.calls = 0
            assert torch.equal(replay.again(layer, lambda: network(*batches[0].inputs)), expected)
            assert sum(block.calls for block in network.blocks) == passed
    assert replay.part_of_a_pass("stem.0") > replay.part_of_a_pass("head") > 0


def test_outputs_that_cannot_be_kept_are_computed_again(
    model: TorchModel, batches: list[CalibrationBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sensitivity(model, batches, roundings=(Rounding(4),))
    monkeypatch.setattr(replay_module, "HELD_MB", 0.01)
    again = sensitivity(model, batches, roundings=(Rounding(4),))
    assert [cell.effect for cell in again.cells] == [cell.effect for cell in whole.cells]


def test_all_that_is_kept_shares_one_budget(
    model: TorchModel, batches: list[CalibrationBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Replay] = weakref.WeakSet()
    held: list[float] = []

    class Watched(Replay):
        def record(self, run: Callable[[], torch.Tensor]) -> torch.Tensor:
            alive.add(self)
            output = super().record(run)
            held.append(sum(one.held_mb for one in alive))
            return output

    monkeypatch.setattr(layers_module, "Replay", Watched)
    monkeypatch.setattr(replay_module, "HELD_MB", 0.05)
    gc.disable()
    try:
        sensitivity(model, batches, roundings=(Rounding(2), Rounding(4)), views=("one-at-a-time", "incremental"))
    finally:
        gc.enable()
    assert len(held) == 2 * 3, "of each input before anything is rounded, and with everything rounded in each way"
    assert 0.03 < max(held) <= 0.05


def test_it_stops_and_leaves_the_network_as_it_was(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    told: list[object] = []
    with pytest.raises(Cancelled):
        sensitivity(model, batches, partial=told.append, cancelled=lambda: len(told) >= 3)
    assert len(told) == 3
    assert all("forward" not in module.__dict__ for module in model.network.modules())
    assert all(not module._forward_pre_hooks for module in model.network.modules())


def test_own_outputs_are_told_before_the_next_layer_is_rounded(
    model: TorchModel, batches: list[CalibrationBatch]
) -> None:
    """And the passes of the network come after them."""
    told: list[str] = []
    sensitivity(
        model,
        batches,
        roundings=(Rounding(2), Rounding(4)),
        views=("one-at-a-time", "proxy"),
        partial=lambda cell: told.append(f"{cell.view} {cell.layer}"),
        progress=lambda event: told.append(event.message),
    )
    own = [place for place, one in enumerate(told) if one.startswith("proxy")]
    layers = [place for place, one in enumerate(told) if "layer 2 of 9" in one or "layer 3 of 9" in one]
    assert own[0] < layers[0] < own[2] < own[-1] < told.index("W2: only layer 1 of 9")


@pytest.mark.parametrize(
    ("what", "labels"), [("weights", ("W2", "W8")), ("activations", ("A2", "A8")), ("both", ("W2A2", "W8A8"))]
)
def test_what_is_rounded_is_chosen_by_a_word(what: str, labels: tuple[str, ...]) -> None:
    assert tuple(one.label for one in roundings_of((2, 8), what)) == labels
    with pytest.raises(UserError, match="biases"):
        roundings_of((2,), "biases")


def test_progress_grows_and_ends(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    seen = []
    sensitivity(model, batches, roundings=(Rounding(2),), progress=seen.append)
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert any("only layer 3 of 9" in event.message for event in seen)


def test_types_and_views_are_announced_each(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    seen = []
    views = ("one-at-a-time", "incremental")
    sensitivity(model, batches, roundings=(Rounding(2), Rounding(4)), views=views, progress=seen.append)
    fractions, words = [event.fraction for event in seen], [event.message for event in seen]
    assert fractions == sorted(fractions)
    places = [
        words.index(f"{one}: {told}")
        for one in ("W2", "W4")
        for told in ("all layers", "all but Conv2d 3x3", "all but Conv2d 1x1", "all but layer 1 of 9")
    ]
    assert words.index("W4: only layer 9 of 9") < places[0] and places == sorted(places)
    assert len({fractions[place] for place in places[1:3]}) == 2, "a full pass moves the bar"


def test_without_inputs_nothing_can_be_said(model: TorchModel) -> None:
    with pytest.raises(UserError, match="nothing to calibrate with"):
        sensitivity(model, [])


def test_effects_may_be_measured_on_other_inputs(model: TorchModel, batches: list[CalibrationBatch]) -> None:
    found = sensitivity(model, batches[:1], measured_on=batches[1:], roundings=(Rounding(2),))
    run = TrialRun(model, batches[:1], RTN, (Rounding(2),), (), None, Progress(None, None))
    with torch.inference_mode():
        run.run()
    (expected,) = _outputs(run.network, batches[1:])
    for name, cell in found.column(Rounding(2)).items():
        (output,) = _outputs(_with(run, {name: run.trials[Rounding(2)][name].module}), batches[1:])
        assert cell.effect == pytest.approx(float((output - expected).norm() / expected.norm()), rel=1e-4)

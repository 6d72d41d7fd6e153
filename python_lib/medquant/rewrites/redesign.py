"""Redesign: convolutions that read one plane only (1x3x3) become pointwise, and the network is trained a little.

MedQuanBench, section 4.3 and Table 4: the most sensitive 1x3x3 convolution of a hybrid network becomes 1x1x1, which can
be rounded with a scale for each voxel. A pointwise layer sees no neighbours, so this is no rewrite that keeps the
function: it makes a different model, which is named so everywhere. The paper does not tell how the new weights are
found; here each is fitted by least squares to what the layer gave, then all are trained to follow the original.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import nn

from medquant.calibration_inputs import set_apart
from medquant.errors import UserError
from medquant.geometry import LayerGeometry
from medquant.lockstep import run_in_lockstep
from medquant.models.base import CalibrationBatch, Model
from medquant.network_edit import set_module, stoppable
from medquant.progress import Progress
from medquant.rewrites.distillation import distil, trainable
from medquant.rewrites.redesign_report import SUFFIX, Exchanged, RedesignReport
from medquant.rewrites.redesigned import pointwise, reads_one_plane
from medquant.rewrites.settings import Redesign
from medquant.sensitivity.change import Change, Expected

HELD_OUT = 4
"""One of so many inputs, the second first, is not trained on and measures; where there is one input it does both."""
RIDGE = 1e-6
"""Relative to the mean square of an input: keeps the fit finite where channels are switched off or alike."""
CHUNK = 2**16
"""Positions that are summed in double precision at a time."""


def redesigned(
    model: Model, batches: Sequence[CalibrationBatch], settings: Redesign, tracker: Progress | None = None
) -> tuple[Model, RedesignReport]:
    """A different FP32 model, and how far it is from `model`, which stays as it is.

    `batches` are inputs of the network, without labels. Raises `UserError` where no layer can be exchanged, `Cancelled`
    when stopped.
    """
    tracker = tracker or Progress()
    chosen = layers_to_exchange(model.network, settings.layers)
    batches = [trainable(batch) for batch in batches]
    training, held_out = set_apart(batches, HELD_OUT)
    measuring = held_out or training
    teacher, student = copy.deepcopy(model.network).eval(), copy.deepcopy(model.network).eval()

    def forward(network: nn.Module, batch: CalibrationBatch) -> torch.Tensor:
        return model.forward_for_calibration(network, *batch.inputs)

    tracker.report(0.0, "Fitting pointwise convolutions")
    with torch.no_grad(), stoppable(teacher, tracker.check), stoppable(student, tracker.check):
        layers, told = _fitted(teacher, chosen, [partial(forward, teacher, batch) for batch in training], tracker)
        for name, layer in layers.items():
            set_module(student, name, layer)
        wanted = [forward(teacher, batch) for batch in measuring]
        exclusive = model.exclusive(wanted[0])
        expected = [Expected(logits, exclusive=exclusive) for logits in wanted]
        before = _change(expected, [forward(student, batch) for batch in measuring])
    losses = distil(student, teacher, training, forward, settings, tracker.span(0.2, 0.95), exclusive=exclusive)
    with torch.no_grad(), stoppable(student, tracker.check):
        after = _change(expected, [forward(student, batch) for batch in measuring])
    made = model.with_network(student)
    made.name = f"{model.name} {SUFFIX}"
    tracker.report(1.0, "Redesigned")
    return made, RedesignReport(
        original=model.name,
        layers=told,
        steps=settings.steps,
        inputs=len(training),
        held_out=len(held_out),
        dsc_fitted=before.dsc,
        dsc=after.dsc,
        error=after.error,
        losses=losses,
    )


def layers_to_exchange(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the convolutions that can be exchanged and that a pattern fits. Raises `UserError` where none is."""
    able = [name for name, module in network.named_modules() if reads_one_plane(module)]
    if not able:
        raise UserError(
            "The network has no convolution that reads one plane only (a kernel such as 1x3x3), so there is nothing to "
            "redesign. Leave the redesign out."
        )
    chosen = [name for name in able if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        known = ", ".join(able[:5]) + (f" and {len(able) - 5} more" if len(able) > 5 else "")
        raise UserError(f"No convolution of 1x3x3 is called {' or '.join(patterns)}. Choose among {known}.")
    return chosen


def _fitted(
    network: nn.Module, names: Sequence[str], runs: Sequence[Callable[[], torch.Tensor]], tracker: Progress
) -> tuple[dict[str, nn.Conv3d], dict[str, Exchanged]]:
    """A pointwise convolution for each layer, one after the other: each is fitted to what the original network's layer
    gives, from what the network exchanged so far hands to it."""
    layers: dict[str, nn.Conv3d] = {}
    told: dict[str, Exchanged] = {}
    modules = dict(network.named_modules())

    def at_layer(name: str, inputs: list[torch.Tensor]) -> list[Callable[..., torch.Tensor]]:
        tracker.report(0.2 * len(layers) / len(names), f"Fitting convolution {len(layers) + 1} of {len(names)}")
        original = modules[name]
        full = partial(LayerGeometry.of(original).apply, weight=original.weight, bias=original.bias)
        whole, changed = inputs[: len(runs)], inputs[len(runs) :]
        with torch.no_grad():
            layers[name], told[name] = fit_pointwise(original, changed, [full(one) for one in whole])
        return [full] * len(runs) + [layers[name].eval()] * len(runs)

    run_in_lockstep({name: modules[name] for name in names}, [*runs, *runs], at_layer)
    if not layers:
        raise UserError(f"The network does not call {', '.join(names)} on the calibration inputs. Choose other layers.")
    return layers, told


def fit_pointwise(
    original: nn.Conv3d, inputs: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]
) -> tuple[nn.Conv3d, Exchanged]:
    """The pointwise convolution whose outputs on `inputs` (batch, channels, *spatial) are nearest to `wanted`.

    Least squares over all positions, for each group of channels, with a bias where `original` has one: what a channel's
    neighbours have in common with it is kept, as the weight of the kernel's centre alone would not.
    """
    made, groups = pointwise(original), original.groups
    own, out = original.in_channels // groups, original.out_channels // groups
    ones = int(original.bias is not None)
    gram = torch.zeros(groups, own + ones, own + ones, dtype=torch.float64)
    cross = torch.zeros(groups, own + ones, out, dtype=torch.float64)
    squares = torch.zeros(groups, dtype=torch.float64)
    depth, height, width = original.stride
    for source, target in zip(inputs, wanted, strict=True):
        centres = source[..., ::depth, ::height, ::width].movedim(1, 0).reshape(groups, own, -1)
        targets = target.movedim(1, 0).reshape(groups, out, -1)
        for x, y in zip(centres.split(CHUNK, 2), targets.split(CHUNK, 2), strict=True):
            x, y = x.double().cpu(), y.double().cpu()
            x = torch.cat([x, torch.ones(groups, ones, x.shape[2], dtype=x.dtype)], 1)
            gram += x @ x.mT
            cross += x @ y.mT
            squares += y.square().sum((1, 2))
    middle = tuple(size // 2 for size in original.kernel_size)
    centre = original.weight.detach()[(..., *middle)].double().cpu().reshape(groups, out, own).mT
    if ones:
        centre = torch.cat([centre, original.bias.detach().double().cpu().reshape(groups, 1, out)], 1)
    ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    solution = torch.linalg.solve(gram + torch.diag_embed(ridge[:, None].expand(-1, own + ones)), cross)
    made.weight.data.copy_(solution[:, :own].mT.reshape(made.weight.shape))
    if ones:
        made.bias.data.copy_(solution[:, own].reshape(-1))

    def error(weights: torch.Tensor) -> float:
        squared = squares.sum() - 2 * (weights * cross).sum() + (weights * (gram @ weights)).sum()
        return float((squared.clamp_min(0) / squares.sum().clamp_min(1e-30)).sqrt())

    return made, Exchanged(tuple(original.kernel_size), error(solution), error(centre))


def _change(expected: Sequence[Expected], outputs: Sequence[torch.Tensor]) -> Change:
    return Change.mean([one.change(output) for one, output in zip(expected, outputs, strict=True)])

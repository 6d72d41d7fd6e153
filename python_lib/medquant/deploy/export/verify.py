"""Whether an export computes what the engine does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from medquant.deploy.agreement import TIPPED, bound_of_export, relative_difference, tipping
from medquant.deploy.export.example import engine_outputs
from medquant.deploy.export.folder import working_in
from medquant.deploy.export.formats import Format, PartFile, Run
from medquant.deploy.program import rounds_inputs
from medquant.errors import UserError
from medquant.models.base import Part
from medquant.progress import Progress


@dataclass(frozen=True)
class Difference:
    """How far an export is from the engine's own network on the example."""

    part: str
    relative: float
    """Root of the squared difference over the squared output."""
    bound: float
    same_labels: float | None
    """Part of the places where both see the same: the largest class, or the sign of a single one; None for embeddings.
    """


def verify(
    form: Format,
    parts: Mapping[str, Part],
    files: Mapping[str, PartFile],
    expected: Mapping[str, np.ndarray],
    folder: Path,
    progress: Progress,
) -> tuple[Difference, ...]:
    """Run the files on the example, each part on what the one before gave, and compare with the engine.

    Axes that may vary are tried at another size as well. Raises `UserError` where a part differs by more than its
    bound.
    """
    values = {key: tensor.numpy() for part in parts.values() for key, tensor in part.inputs.items()}
    results, rounded = [], 0.0
    for number, (name, part) in enumerate(parts.items()):
        progress.report(number / len(parts), f"Checking the {name.replace('_', ' ')}")
        load: Callable[[], Run] = partial(form.runner, folder / files[name].file, part)
        run = working_in(folder, load, progress, writes=False)
        outputs = working_in(folder, partial(run, dict(values)), progress, writes=False)
        # What an integer part gave makes the next one differ too.
        rounded = max(rounded, bound_of_export(part.module, form.name))
        relative = max(relative_difference(one, expected[key]) for one, key in zip(outputs, part.outputs, strict=True))
        if relative > rounded and rounds_inputs(part.module):
            wanted = [expected[key] for key in part.outputs]
            rounded = max(rounded, TIPPED * tipping(part.module, list(part.inputs.values()), wanted))
        if part.dynamic:
            relative = max(relative, _at_other_sizes(part, run, folder, progress))
        results.append(Difference(name, relative, rounded, _same_labels(outputs[0], expected[part.outputs[0]])))
        if not relative <= rounded:
            raise UserError(
                f"The {form.name} export of the {name.replace('_', ' ')} differs from the model by {relative:.2g} of "
                f"its output, more than {rounded:g}, and was not written. Try another --storage or format."
            )
        values |= zip(part.outputs, outputs, strict=True)
    progress.report(1.0, "Checked")
    return tuple(results)


def _at_other_sizes(part: Part, run: Run, folder: Path, progress: Progress) -> float:
    """The difference with one more, and with one only, of everything that may vary in number."""
    worst = 0.0
    for more in (True, False):
        inputs = dict(part.inputs)
        for key, axes in part.dynamic.items():
            for axis in axes:
                first = inputs[key].narrow(axis, 0, 1)
                inputs[key] = torch.cat([inputs[key], first], axis) if more else first.clone()
        wanted = engine_outputs(part, inputs, progress)
        arrays = {key: tensor.numpy() for key, tensor in inputs.items()}
        outputs = working_in(folder, partial(run, arrays), progress, writes=False)
        worst = max(
            worst, *(relative_difference(one, other.numpy()) for one, other in zip(outputs, wanted, strict=True))
        )
    return worst


def _same_labels(found: np.ndarray, expected: np.ndarray) -> float | None:
    """Of logits (1, classes, *spatial), or (boxes, h, w) where each box has its own."""
    if found.shape != expected.shape:
        return None
    if found.ndim == 3:
        return float(((found > 0) == (expected > 0)).mean())
    if found.ndim == 5:
        return float((found.argmax(1) == expected.argmax(1)).mean())
    return None

"""One input of a model, of a scan that is nobody's, and what the engine makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from medquant.imaging.volume import Volume
from medquant.models.base import CalibrationSelection, Model, Part, device_of
from medquant.network_edit import stoppable
from medquant.progress import Progress

_SHAPE, _SPACING = (8, 160, 160), (6.0, 2.4, 2.4)


def with_example(model: Model, parts: Mapping[str, Part], progress: Progress) -> dict[str, Part]:
    """The parts with inputs cut from a made-up scan, prepared as for segmentation, in place of random ones.

    What a later part takes from an earlier one is what the engine's network gave.
    """
    batch = next(iter(model.calibration_batches(_scan(), CalibrationSelection(count=1))))
    given = {name for part in parts.values() for name in part.outputs}
    names = [name for part in parts.values() for name in part.inputs if name not in given]
    values = dict(zip(names, batch.inputs, strict=True))
    found = {}
    for number, (name, part) in enumerate(parts.items()):
        progress.report(number / len(parts), f"Computing the example's {name.replace('_', ' ')}")
        inputs = {key: values[key].cpu() for key in part.inputs}
        found[name] = replace(part, inputs=inputs)
        values |= zip(part.outputs, engine_outputs(part, inputs, progress), strict=True)
    return found


def engine_outputs(part: Part, inputs: Mapping[str, torch.Tensor], progress: Progress) -> tuple[torch.Tensor, ...]:
    """What the engine's own network makes of the inputs of a part, on the processor."""
    device = device_of(part.module)
    with torch.inference_mode(), stoppable(part.module, progress.check):
        outputs = part.module(*(tensor.to(device) for tensor in inputs.values()))
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    return tuple(tensor.float().cpu().clone() for tensor in outputs)


@lru_cache(maxsize=1)
def _scan() -> Volume:
    from medquant.embedded.phantom import make_phantom

    voxels, _, _, affine = make_phantom(seed=3, shape=_SHAPE, spacing=_SPACING)
    return Volume(voxels.astype(np.float32), affine, name="phantom", modality="CT")

"""Post-training quantization of medical image segmentation models, with the accuracy shown, not promised.

The front door: `load_model`, `read_volume`, `quantize`, `segment`, `compare`. Everything is imported on first use,
so `import medquant` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_FRONT_DOOR = {
    "Box": "medquant.prompts",
    "BoxPrompt": "medquant.prompts",
    "CalibrationSelection": "medquant.models.base",
    "IntActivations": "medquant.activation_settings",
    "IntWeights": "medquant.recipe",
    "PerChannel": "medquant.granularity",
    "PerGroup": "medquant.granularity",
    "PerTensor": "medquant.granularity",
    "Recipe": "medquant.recipe",
    "Segmentation": "medquant.segmentation",
    "UserError": "medquant.errors",
    "Volume": "medquant.imaging.volume",
    "accelerate": "medquant.deploy.accelerate",
    "compare": "medquant.evaluation.compare",
    "load_model": "medquant.models.registry",
    "quantize": "medquant.quantize",
    "read_volume": "medquant.imaging.reading",
    "save_segmentation": "medquant.imaging.writing",
    "segment": "medquant.segment",
}
__all__ = sorted(_FRONT_DOOR)


def __getattr__(name: str) -> Any:
    if name in _FRONT_DOOR:
        return getattr(import_module(_FRONT_DOOR[name]), name)
    raise AttributeError(f"module 'medquant' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]


class _FrontDoor(ModuleType):
    """Keeps `medquant.segment` the function: importing the submodule of that name would put the module there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FRONT_DOOR and isinstance(value, ModuleType):
            value = getattr(value, name, value)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _FrontDoor

"""What stays in memory between requests: models, as they are and as a runtime executes them, and scans."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medquant.progress import Progress

if TYPE_CHECKING:
    from medquant.imaging.volume import Volume
    from medquant.models.base import Model
    from medquant.quantized_model import QuantizedModel

    AnyModel = Model | QuantizedModel

MODELS, MODELS_MB, VOLUMES = 6, 2500.0, 2


class Warm:
    """Keeps what was used last, within bounds; everything in it can be had again from files."""

    def __init__(self) -> None:
        self._models: OrderedDict[tuple[str, ...], AnyModel] = OrderedDict()
        self._volumes: OrderedDict[str, Volume] = OrderedDict()

    def model(self, spec: str, progress: Progress) -> AnyModel:
        """The model of that name or path, as `load_model` takes it, on PyTorch."""

        def load() -> AnyModel:
            from medquant.models.registry import load_model

            progress.report(0.0, "Loading the model")
            return load_model(spec, progress=progress.callback, cancelled=progress.cancelled)

        return self._kept((spec, *_age(spec)), load)

    def executed(self, spec: str, runtime: str, progress: Progress) -> AnyModel:
        """The same, executed by `runtime`; "auto" is measured once on each machine."""

        def prepare() -> AnyModel:
            from medquant.deploy.accelerate import accelerate

            model = self.model(spec, progress)
            progress.report(0.0, "Choosing what computes fastest here")
            return accelerate(model, runtime, progress=progress.callback, cancelled=progress.cancelled)

        return self._kept((spec, *_age(spec), runtime), prepare)

    def put(self, spec: str, model: AnyModel) -> None:
        """A model that was just made and written to the file `spec`."""
        self._kept((spec, *_age(spec)), lambda: model)

    def volume(self, folder: Path, told: dict[str, Any]) -> Volume:
        """The scan that a request tells of; the same object for the same scan, so what is cached by it is found."""
        from medquant.worker.arrays import open_volume

        key = repr((told["array"], told["ijk_to_lps"], told.get("modality")))
        if key not in self._volumes:
            self._volumes[key] = open_volume(folder, told)
        self._volumes.move_to_end(key)
        while len(self._volumes) > VOLUMES:
            self._volumes.popitem(last=False)
        return self._volumes[key]

    def forget(self) -> None:
        """Give the memory back."""
        self._models.clear()
        self._volumes.clear()
        gc.collect()

    def _kept(self, key: tuple[str, ...], make: Callable[[], AnyModel]) -> AnyModel:
        if key not in self._models:
            self._models[key] = make()
        self._models.move_to_end(key)
        while len(self._models) > 1 and (len(self._models) > MODELS or self._megabytes() > MODELS_MB):
            self._models.popitem(last=False)
        return self._models[key]

    def _megabytes(self) -> float:
        """Of the tensors of all models; twins share theirs."""
        networks = [getattr(model, "model", model).network for model in self._models.values()]
        tensors = chain.from_iterable((*network.parameters(), *network.buffers()) for network in networks)
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values()) / 1e6


def _age(spec: str) -> tuple[str, ...]:
    """Tells a file from another one of the same name that was put in its place."""
    try:
        return (str(Path(spec).expanduser().stat().st_mtime_ns),)
    except OSError:
        return ()

"""Networks of cells: where they come from, and what a process keeps of them from one cell to the next."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from filelock import FileLock

from medquant import artifact
from medquant.models.base import Model
from medquant.models.registry import choose_device, load_model
from medquant.progress import Progress
from medquant.quantized_model import QuantizedModel, require_original


class Network(Protocol):
    """Where a model comes from: small, hashable, and it travels to other processes."""

    name: str

    def load(self, device: str) -> Model:
        """The FP32 model on a device."""


@dataclass(frozen=True)
class NamedNetwork:
    """A model of the registry, by name or path."""

    spec: str
    weights: str | None = None
    options: str = "{}"
    """Of the adapter, as JSON."""

    @property
    def name(self) -> str:
        """Of a path its end; with the last words of the weights' path, which tell one trained network from another."""
        spec = Path(self.spec).name if Path(self.spec).is_absolute() else self.spec
        return spec if self.weights is None else f"{spec} {'/'.join(Path(self.weights).parts[-2:])}"

    def load(self, device: str, progress: Progress | None = None) -> Model:
        """Raises `UserError` for a model that is quantized already, and as `load_model` does."""
        callbacks = (progress or Progress()).callbacks()
        options = json.loads(self.options)
        return require_original(load_model(self.spec, weights=self.weights, device=device, **callbacks, **options))


@lru_cache(maxsize=1)
def loaded(network: Network, device: str) -> Model:
    """The FP32 model, kept until another is asked for."""
    return network.load(device)


def quantized(network: Network, device: str, file: Path, quantize: Callable[[Model], QuantizedModel]) -> QuantizedModel:
    """The model of a file, which `quantize` makes of the FP32 model where it is not there; it is kept like `loaded`.

    Of several processes of a machine one makes it. It is read from its file also where it was made just now: what is
    measured is what a user would have.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not file.exists():
            quantize(loaded(network, device)).save(file)
    return _opened(file, network, device)


@lru_cache(maxsize=1)
def _opened(file: Path, network: Network, device: str) -> QuantizedModel:
    opened = artifact.load(file, model=loaded(network, device))
    opened.model.network.to(choose_device(device))
    return opened


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch computes with so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

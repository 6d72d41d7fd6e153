"""How much memory the tensors of a computation hold: counted from shapes, so that it is the same on every machine."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AliveTensors(TorchDispatchMode):
    """Context manager: counts the bytes of all tensors that operations inside it made and that are still alive.

    Tensors that share their storage count once; those of `known` (parameters, inputs) do not count.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.bytes = 0
        self.peak_bytes = 0
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._owners: dict[int, int] = {}
        self._seen: dict[int, weakref.ref] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._track(tensor)
        return result

    def _track(self, tensor: torch.Tensor) -> None:
        key = id(tensor)
        if key in self._seen and self._seen[key]() is tensor:
            return
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place in self._known or not size:
            return
        if place not in self._owners:
            self.bytes += size
            self.peak_bytes = max(self.peak_bytes, self.bytes)
        self._owners[place] = self._owners.get(place, 0) + 1

        def gone(_: Any) -> None:
            self._seen.pop(key, None)
            self._owners[place] -= 1
            if not self._owners[place]:
                del self._owners[place]
                self.bytes -= size

        self._seen[key] = weakref.ref(tensor, gone)

"""Reading trained weights without running anything that a file might carry."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medquant.errors import UserError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_CONTAINERS = ("state_dict", "model_state_dict", "network_weights", "model", "net", "network")
_WRAPPERS = ("module.", "_orig_mod.")


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a `.safetensors` file or from a PyTorch file (`weights_only=True`), on the CPU.

    A training checkpoint is searched for the state dict inside it (scores beside it may be NumPy's numbers); the
    prefixes of DataParallel and torch.compile are taken off. Raises `UserError` for a file that is missing, damaged, or
    that would need to run code to be read.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return strip_wrappers(_find_tensors(read_checkpoint(path, allowed=numpy_types()), path))


def read_checkpoint(path: str | Path, *, allowed: Iterable[Any] = ()) -> Any:
    """A PyTorch file's content, of plain data and tensors and the harmless `allowed` types only."""
    path = Path(path)
    _require_file(path)
    allowed = list(allowed)
    try:
        with torch.serialization.safe_globals(allowed) if allowed else nullcontext(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, nothing a user can act on
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        if "Unsupported" not in text and "GLOBAL" not in text and "weights only" not in text.lower():
            raise _damaged(path, error) from error
        if not _looks_like_pytorch(path):
            raise _damaged(path, error) from error
        raise UserError(
            f"{path.name} holds more than weights and could run code when it is opened, so it was not opened. "
            "Save its state_dict alone with torch.save(model.state_dict(), ...) where you trust it, and load that."
        ) from error
    except Exception as error:  # damaged bytes make the reader fail in any way
        raise _damaged(path, error) from error


def numpy_types() -> list[Any]:
    """For `allowed`: the harmless NumPy types in a training's log, under their names before and since NumPy 2."""
    core = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray
    functions = [
        (getattr(core, name), f"numpy.{package}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for package in ("core", "_core")
    ]
    kinds = ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")
    return [*functions, np.dtype, np.ndarray, *{type(np.dtype(kind)) for kind in kinds}]


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `UserError` when it is missing or is none."""
    path = Path(path)
    _require_file(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}). Get the file again from its source.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} does not hold a JSON object. Get the file again from its source.")
    return data


def strip_wrappers(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take off the prefixes that DataParallel and torch.compile put before every name."""
    state = dict(state)
    while prefix := next((w for w in _WRAPPERS if state and all(key.startswith(w) for key in state)), None):
        state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def fill(network: nn.Module, state: Mapping[str, torch.Tensor], *, source: str, what: str) -> None:
    """Give `network` (it may live on the meta device) the tensors of `state`, in float32.

    `source` names the file and `what` the network for the message. Raises `UserError` that lists what is missing,
    left over, or of another shape.
    """
    own = network.state_dict()
    # A counter of training steps that old files lack and inference never reads.
    state = {name: torch.zeros((), dtype=torch.long) for name in own if name.endswith("num_batches_tracked")} | dict(
        state
    )
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unexpected or wrong:
        shapes = [f"{n} {tuple(state[n].shape)} instead of {tuple(own[n].shape)}" for n in wrong]
        parts = [
            f"{len(names)} {kind} ({_some(names)})"
            for kind, names in (("missing", missing), ("left over", unexpected), ("of another shape", shapes))
            if names
        ]
        raise UserError(
            f"The weights in {source} do not fit {what}: {'; '.join(parts)}. "
            "Choose the model that these weights belong to, or other weights."
        )
    tensors = {name: state[name].float() if state[name].is_floating_point() else state[name] for name in own}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise UserError(
            f"The weights in {source} hold values that are not numbers ({_some(broken)}). Get the file again."
        )
    network.load_state_dict(tensors, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(False)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _require_file(path)
    try:
        return strip_wrappers(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _find_tensors(content: Any, path: Path) -> dict[str, torch.Tensor]:
    for _ in range(3):
        if isinstance(content, Mapping) and content and all(torch.is_tensor(v) for v in content.values()):
            return dict(content)
        inner = [
            content[k] for k in _CONTAINERS if isinstance(content, Mapping) and isinstance(content.get(k), Mapping)
        ]
        if not inner:
            break
        content = inner[0]
    raise UserError(
        f"{path.name} holds no state dict (tensors by name). Save one with torch.save(model.state_dict(), ...)."
    )


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a file. Give the weight file inside it.")
    if not path.is_file():
        raise UserError(f"There is no file {path}. Check the path.")


def _looks_like_pytorch(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(4)
    return zipfile.is_zipfile(path) or start[:1] == b"\x80"


def _damaged(path: Path, error: Exception) -> UserError:
    if isinstance(error, PermissionError):
        return UserError(f"{path} may not be read. Change its permissions, or copy it to where you may read.")
    return UserError(f"{path} cannot be read as weights: it is damaged or of another kind. Get the file again.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

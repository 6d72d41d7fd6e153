"""Load a model by name or by path."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from medquant.errors import UserError
from medquant.models import hub
from medquant.models.base import Model
from medquant.models.catalogue import (
    AUTHORS_FILES,
    EMBEDDED_NNUNET,
    EMBEDDED_PROMPTABLE,
    EMBEDDED_UNETR,
    SAM_FILES,
    STUNET_SUFFIX,
    ModelEntry,
    list_models,
)
from medquant.models.prompt_images import MEDSAM, SAM
from medquant.models.weight_files import SUFFIXES, read_json
from medquant.progress import CancelCheck, Progress, ProgressCallback

if TYPE_CHECKING:
    from medquant.quantized_model import QuantizedModel

__all__ = ["ModelEntry", "adapter_class", "choose_device", "from_spec", "known_options", "list_models", "load_model"]

_ADAPTERS = {
    "medsam": ("medquant.models.sam", "SamModelAdapter"),
    "nnunet": ("medquant.models.nnunet", "NnUNetModel"),
    "monai": ("medquant.models.monai_networks", "MonaiModel"),
    "medsam2": ("medquant.models.sam2", "Sam2ModelAdapter"),
    "published": ("medquant.models.published", "PublishedModel"),
    "torch": ("medquant.models.torch_program", "TorchModel"),
}
_SAM_WIDTHS = {"sam-vit-b": 768, "sam-vit-l": 1024, "sam-vit-h": 1280}


def adapter_class(family: str) -> type[Model]:
    """The adapter of a family, as in `Model.family`. Raises `UserError` for an unknown one."""
    if family not in _ADAPTERS:
        raise UserError(f"Unknown model family {family!r}. Known: {', '.join(_ADAPTERS)}.")
    module, name = _ADAPTERS[family]
    return getattr(import_module(module), name)


def from_spec(spec: dict[str, Any]) -> Model:
    """The adapter that `spec` describes, around an untrained network."""
    return adapter_class(str(spec.get("family"))).from_spec(spec)


def load_model(
    spec: str | Path,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
    **options: Any,
) -> Model | QuantizedModel:
    """Load a model by name or by path.

    Names: "embedded", "embedded-nnunet", "embedded-unetr", "medsam" (or its Hub id), "sam-vit-b", "sam-vit-l",
    "sam-vit-h", "nnunet" (`weights`: the results folder), "monai:UNETR" and other MONAI networks (`weights`: the state
    dict), "stunet", "medsam2", "published:unest" and other published networks (`weights`: the authors' file). A path
    may be a SAM or MedSAM weight file, a folder saved by transformers, an nnU-Net results folder, or a quantized model
    file.
    `device`: "auto" (CUDA where there is one), "cpu", "cuda" ... `progress` and `cancelled` follow a download.
    `options` go to the adapter's `load`. Raises `UserError` with what is missing or wrong.
    """
    target = choose_device(device)
    path = Path(spec).expanduser()
    if _is_artifact(path):
        from medquant import artifact

        _require_known(options, artifact.load, path.name)
        quantized = artifact.load(path, **options)
        quantized.model.network.to(target)
        return quantized
    found = _find(str(spec), weights, Progress(progress, cancelled))
    adapter = adapter_class(found.family)
    _require_known(options, adapter.load, str(spec))
    try:
        model = adapter.load(found.source, **{**found.options, **options})
    except (TypeError, ValueError, AttributeError) as error:
        if not options:
            raise  # nothing that the user gave
        raise UserError(f"An option of {spec} has an unusable value ({error}). Correct --option.") from error
    if str(spec) in _SAM_WIDTHS:
        _require_width(model, str(spec))
    model.network.to(target)
    return model


def known_options(spec: str) -> list[str]:
    """Names of what a model takes as `options`; loads and fetches nothing. Raises `UserError` for an unknown model."""
    return _options_of(adapter_class(_find(spec, "", Progress()).family).load)


def choose_device(device: str) -> torch.device:
    """The device of that name; "auto": CUDA where there is one. Raises `UserError` for one that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"Unknown device {device!r}. Choose auto, cpu or cuda.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError("This machine has no CUDA device that PyTorch can use. Choose the device cpu or auto.")
    return chosen


@dataclass(frozen=True)
class _Found:
    """Which adapter loads what, with the options that the name stands for."""

    family: str
    source: str | Path
    options: dict[str, Any] = field(default_factory=dict)


def _find(spec: str, weights: str | Path | None, progress: Progress) -> _Found:
    name, _, detail = spec.partition(":")
    free = {"name": "medsam" if name == hub.MEDSAM_REPOSITORY else name, "licence": "Apache-2.0"}
    if name == "embedded":
        return _Found("medsam", _require_embedded(EMBEDDED_PROMPTABLE, name), free)
    if name == "embedded-nnunet":
        return _Found("nnunet", _require_embedded(EMBEDDED_NNUNET, name), free)
    if name == "embedded-unetr":
        folder = _require_embedded(EMBEDDED_UNETR, name)
        return _Found("monai", folder / "model.safetensors", read_json(folder / "model.json"))
    if name in ("medsam", hub.MEDSAM_REPOSITORY):
        source = weights if weights is not None else hub.download_medsam(progress=progress)
        return _Found("medsam", source, {**free, "preprocessing": MEDSAM})
    if name in SAM_FILES:
        if weights is None:
            raise UserError(
                f"{name} needs its weights. Get {SAM_FILES[name]} from the page of segment-anything and give its path."
            )
        return _Found("medsam", weights, {**free, "preprocessing": SAM})
    if name == "nnunet":
        if weights is None:
            raise UserError("nnunet needs a results folder. Give it as weights: the folder with plans.json and fold_0.")
        return _Found("nnunet", weights)
    if name == "monai":
        if weights is None:
            raise UserError(
                f"monai:{detail} needs trained weights. Give a state dict (.pt or .safetensors) as weights."
            )
        return _Found("monai", weights, {"network": detail})
    if name in AUTHORS_FILES:
        if weights is None:
            raise UserError(f"{spec} needs its weights. Give {AUTHORS_FILES[name]} as weights.")
        return _Found(*_published(name, detail, Path(weights)))
    return _find_path(spec)


def _published(name: str, detail: str, weights: Path) -> tuple[str, Path, dict[str, Any]]:
    if name == "published":
        return "published", weights, {"network": detail}
    return (
        ("nnunet", weights, {}) if name == "stunet" else ("medsam2", weights, {"name": name, "licence": "Apache-2.0"})
    )


def _find_path(spec: str) -> _Found:
    path = Path(spec).expanduser()
    if not path.exists():
        raise _unknown(spec, path)
    if path.is_dir():
        return _Found("medsam" if (path / "config.json").is_file() else "nnunet", path)
    if re.fullmatch(r"fold_\w+", path.parent.name) and (path.parent.parent / "plans.json").is_file():
        return _Found("nnunet", path)
    if path.suffix == STUNET_SUFFIX:
        return _Found("nnunet", path)
    if path.suffix in SUFFIXES:
        return _Found("medsam", path)
    raise UserError(
        f"{path.name} is no model file that is known here. Give a .pth or .safetensors file of MedSAM or SAM, a "
        "results folder of nnU-Net, or a quantized model file."
    )


def _unknown(spec: str, path: Path) -> UserError:
    """What may have been meant by a name or path that is nothing."""
    if path.suffix or path.parent != Path():
        return UserError(f"There is no file or folder {spec} with a model. Check the path for a typing error.")
    names = [entry.name for entry in list_models()]
    near = get_close_matches(spec.lower(), names, n=1)
    short = [name for name in names if not name.startswith(("monai:", "published:"))]
    known = f"Known names: {', '.join(short)}, monai:NETWORK, published:NETWORK (medquant models lists the networks)"
    advice = f"Did you mean {near[0]}? {known}." if near else f"{known}; or give a path that exists."
    return UserError(f"There is no model and no file {spec!r}. {advice}")


def _require_known(options: dict[str, Any], load: Callable[..., Any], name: str) -> None:
    known = _options_of(load)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise UserError(f"The model {name} has no option {', '.join(unknown)}. It has {', '.join(known)}.")


def _options_of(load: Callable[..., Any]) -> list[str]:
    return [option for option in inspect.signature(load).parameters if option not in ("source", "path")]


def _is_artifact(path: Path) -> bool:
    """By content, or by the name that medquant gives, so that a damaged one is called a damaged quantized model."""
    from medquant import artifact

    return path.is_file() and (path.name.endswith(artifact.SUFFIX) or artifact.is_artifact(path))


def _require_embedded(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise UserError(f"The model {name} is not part of this installation. Install medquant again from its source.")
    return folder


def _require_width(model: Model, name: str) -> None:
    width = model.spec["config"]["vision_config"]["hidden_size"]
    if width != _SAM_WIDTHS[name]:
        fitting = next((other for other, w in _SAM_WIDTHS.items() if w == width), "another network")
        raise UserError(f"The weights are those of {fitting}, not of {name}. Choose {fitting}, or other weights.")

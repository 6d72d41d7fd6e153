"""Load a model by name or by path."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from medquant.errors import UserError
from medquant.models.base import Model
from medquant.models.catalogue import EMBEDDED_NNUNET, EMBEDDED_PROMPTABLE, SAM_FILES, ModelEntry, list_models
from medquant.progress import CancelCheck, Progress, ProgressCallback

if TYPE_CHECKING:
    from medquant.quantized_model import QuantizedModel

__all__ = ["ModelEntry", "adapter_class", "choose_device", "from_spec", "list_models", "load_model"]

_ADAPTERS = {
    "medsam": ("medquant.models.sam", "SamModelAdapter"),
    "nnunet": ("medquant.models.nnunet", "NnUNetModel"),
    "monai": ("medquant.models.monai_networks", "MonaiModel"),
    "torch": ("medquant.models.torch_program", "TorchModel"),
}
_SAM_WIDTHS = {"sam-vit-b": 768, "sam-vit-l": 1024, "sam-vit-h": 1280}


def adapter_class(family: str) -> type[Model]:
    """The adapter of a family ("medsam", "nnunet", "monai", "torch"). Raises `UserError` for an unknown one."""
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

    Names: "embedded", "embedded-nnunet", "medsam", "sam-vit-b", "sam-vit-l", "sam-vit-h", "nnunet" (`weights`: the
    results folder), "monai:UNETR" and other MONAI networks (`weights`: the state dict). A path may be a SAM or MedSAM
    weight file, a folder saved by transformers, an nnU-Net results folder, or a quantized model file. `device`:
    "auto" (CUDA where there is one), "cpu", "cuda" ... `progress` and `cancelled` follow a download. `options` go to
    the adapter's `load`. Raises `UserError` with what is missing or wrong.
    """
    target = choose_device(device)
    model = _loader(str(spec), weights, Progress(progress, cancelled))(**options)
    adapter = getattr(model, "model", model)
    adapter.network.to(target)
    return model


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


def _loader(spec: str, weights: str | Path | None, progress: Progress) -> Callable[..., Any]:
    """The function that loads `spec`, still to be given the options."""
    name, _, detail = spec.partition(":")
    if name == "embedded" or name == "embedded-nnunet":
        return _embedded(name)
    if name == "medsam":
        return _medsam(weights, progress)
    if name in SAM_FILES:
        return _plain_sam(name, weights)
    if name == "nnunet":
        if weights is None:
            raise UserError("nnunet needs a results folder. Give it as weights: the folder with plans.json and fold_0.")
        return lambda **options: adapter_class("nnunet").load(weights, **options)
    if name == "monai":
        if weights is None:
            raise UserError(
                f"monai:{detail} needs trained weights. Give a state dict (.pt or .safetensors) as weights."
            )
        return lambda **options: adapter_class("monai").load(weights, network=detail, **options)
    path = Path(spec).expanduser()
    if not path.exists():
        raise UserError(
            f"There is no model and no file {spec!r}. Known names: embedded, embedded-nnunet, medsam, sam-vit-b, "
            "sam-vit-l, sam-vit-h, nnunet, monai:UNETR; or give a path that exists."
        )
    return _by_path(path)


def _by_path(path: Path) -> Callable[..., Any]:
    from medquant import artifact
    from medquant.models.weight_files import SUFFIXES

    if path.is_file() and artifact.is_artifact(path):
        return lambda **options: artifact.load(path, **options)
    if path.is_dir() and (path / "config.json").is_file():
        return lambda **options: adapter_class("medsam").load(path, **options)
    if path.is_dir():
        return lambda **options: adapter_class("nnunet").load(path, **options)
    if path.suffix in SUFFIXES:
        return lambda **options: adapter_class("medsam").load(path, **options)
    raise UserError(
        f"{path.name} is no model file that is known here. Give a .pth or .safetensors file of MedSAM or SAM, a "
        "results folder of nnU-Net, or a quantized model file."
    )


def _embedded(name: str) -> Callable[..., Any]:
    folder = EMBEDDED_PROMPTABLE if name == "embedded" else EMBEDDED_NNUNET
    if not folder.is_dir():
        raise UserError(f"The model {name} is not part of this installation. Install medquant again from its source.")
    if name == "embedded":
        return lambda **options: adapter_class("medsam").load(folder, name=name, licence="Apache-2.0", **options)
    return lambda **options: adapter_class("nnunet").load(folder, name=name, licence="Apache-2.0", **options)


def _medsam(weights: str | Path | None, progress: Progress) -> Callable[..., Any]:
    from medquant.models import hub
    from medquant.models.prompt_images import MEDSAM

    def load(**options: Any) -> Model:
        source = weights if weights is not None else hub.download_medsam(progress=progress)
        return adapter_class("medsam").load(
            source, **{"name": "medsam", "licence": "Apache-2.0", "preprocessing": MEDSAM, **options}
        )

    return load


def _plain_sam(name: str, weights: str | Path | None) -> Callable[..., Any]:
    from medquant.models.prompt_images import SAM

    if weights is None:
        raise UserError(
            f"{name} needs its weights. Get {SAM_FILES[name]} from the page of segment-anything and give its path."
        )

    def load(**options: Any) -> Model:
        model = adapter_class("medsam").load(
            weights, **{"name": name, "licence": "Apache-2.0", "preprocessing": SAM, **options}
        )
        width = model.spec["config"]["vision_config"]["hidden_size"]
        if width != _SAM_WIDTHS[name]:
            fitting = next((n for n, w in _SAM_WIDTHS.items() if w == width), "another network")
            raise UserError(f"{Path(weights).name} holds the weights of {fitting}, not of {name}. Choose {fitting}.")
        return model

    return load

"""A quantized model as one safetensors file: no pickle, checked on loading, written whole or not at all."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from medquant.activations import ActivationQuantizer
from medquant.attention_products import quantizer_settings, restore_quantizers
from medquant.errors import UserError
from medquant.files import atomic_path
from medquant.geometry import LayerGeometry
from medquant.layers import QuantizedLayer
from medquant.matrices import is_quantizable
from medquant.models.base import Model
from medquant.models.registry import adapter_class
from medquant.network_edit import set_module, sharing_copy, stored_bits_of
from medquant.packing import packed_size
from medquant.quantized_model import Provenance, QuantizationReport, QuantizedModel
from medquant.recipe import Recipe
from medquant.rewrites.redesigned import exchange
from medquant.rewrites.rewritten import Rewritten

FORMAT = "medquant"
VERSION = 3
SUFFIX = ".mq.safetensors"
BUFFERS = ("packed", "scale", "offset", "row_group", "bias", "live_inputs", "live_outputs")


def save(quantized: QuantizedModel, path: str | Path) -> int:
    """Write a quantized model; returns the size of the file in bytes. Raises `UserError` if it cannot be written."""
    network = quantized.model.network
    tensors, aliases = _distinct(network)
    layers = {
        name: {
            "geometry": module.geometry.to_dict(),
            "bits": module.bits,
            "zero": module.zero,
            "input": module.input_quantizer and module.input_quantizer.settings(),
        }
        for name, module in network.named_modules()
        if isinstance(module, QuantizedLayer)
    }
    description = {
        "version": VERSION,
        "name": quantized.model.name,
        "spec": quantized.model.spec,
        "layers": layers,
        "rewritten": {name: m.settings() for name, m in network.named_modules() if isinstance(m, Rewritten)},
        "attention": quantizer_settings(network),
        "aliases": aliases,
        "removed": [name for name, module in network.named_modules() if type(module) is nn.Identity],
        "recipe": quantized.recipe.to_dict(),
        "provenance": asdict(quantized.provenance),
        "report": replace(quantized.report, bytes_on_disk=None).to_dict(),
    }
    text = json.dumps(description)
    metadata = {"format": FORMAT, "description": text, "sha256": _digest(text, tensors)}
    data = save_tensors(tensors, metadata)
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(data)
    return len(data)


def load(path: str | Path, *, model: Model | None = None) -> QuantizedModel:
    """Load a quantized model, to bit-identical outputs.

    `model` is needed only where the quantized model was made from a network of the caller's own, which no file
    describes: the same adapter around a network of the same class with any weights, which stays as it is. Raises
    `UserError` for a file that is missing, truncated, changed since it was written, or of another kind or version.
    """
    path = Path(path)
    description, tensors = _read(path)
    try:
        spec = description["spec"]
        if model is None:
            model = adapter_class(spec["family"]).from_spec(spec)
        else:
            model = model.with_network(_copy_to_fill(model.network, description["layers"]))
        model.name = description["name"]
        redesign = description["report"].get("redesign") or {}
        exchange(model.network, redesign.get("layers", ()))
        _fill(model.network, description, tensors)
        provenance = description["provenance"]
        provenance["calibration_sha256"] = tuple(provenance["calibration_sha256"])
        model.weights_hash, model.licence = provenance["weights_sha256"], provenance["licence"]
        report = replace(QuantizationReport.from_dict(description["report"]), bytes_on_disk=path.stat().st_size)
        recipe = Recipe.from_dict(description["recipe"])
        return QuantizedModel(model, recipe, report, Provenance(**provenance))
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise UserError(f"{path.name} does not describe a model that this version can build ({error}).") from error


def describe(path: str | Path) -> dict[str, Any]:
    """Recipe, provenance and report of a file, without its tensors."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(stream.read(length))
        metadata = header["__metadata__"]
        if metadata["format"] != FORMAT:
            raise ValueError("another format")
        description = json.loads(metadata["description"])
        newer = description["version"] > VERSION
    except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error) as error:
        raise UserError(f"{path.name} is not a quantized model. Choose a file that medquant wrote.") from error
    if newer:
        raise UserError(f"{path.name} was written by a newer version of medquant. Update medquant to open it.")
    return description


def is_artifact(path: str | Path) -> bool:
    """True for a file that `save` wrote."""
    try:
        describe(path)
    except UserError:
        return False
    return True


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise UserError(f"There is no file {path}. Check the path.")
    description = describe(path)
    try:
        data = path.read_bytes()
        tensors = load_tensors(data)
    except (SafetensorError, OSError, MemoryError) as error:
        raise UserError(f"{path.name} is truncated or damaged ({error}). Copy or quantize it again.") from error
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    if _digest(metadata["description"], tensors) != metadata.get("sha256"):
        raise UserError(f"{path.name} was changed after it was written and is not trusted. Copy or quantize it again.")
    return description, tensors


def _copy_to_fill(network: nn.Module, layers: Iterable[str]) -> nn.Module:
    """A copy of the network on its device, but for the weights of `layers`, which are exchanged and take no memory."""
    twin = sharing_copy(network)
    modules = dict(twin.named_modules())
    for layer in (modules[name] for name in layers if name in modules):
        layer.weight = nn.Parameter(layer.weight.to("meta"), requires_grad=False)
    return copy.deepcopy(twin)


def _fill(network: nn.Module, description: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Exchange the quantized layers and load every remaining tensor; names must match exactly."""
    for name in description["removed"]:
        set_module(network, name, nn.Identity())
    for name, settings in description.get("rewritten", {}).items():
        set_module(network, name, Rewritten.restored(network.get_submodule(name), settings))
    tensors = tensors | {alias: tensors[name] for alias, name in description["aliases"].items()}
    for name, layer in description["layers"].items():
        part = {key: tensors.get(f"{name}.{key}") for key in BUFFERS}
        part["bias"] = None if part["bias"] is None else part["bias"].float()
        geometry = LayerGeometry.from_dict(layer["geometry"])
        if geometry != LayerGeometry.of(network.get_submodule(name)):
            raise ValueError(f"layer {name} is another one than that of the model")
        quantized = QuantizedLayer(geometry, layer["bits"], zero=layer["zero"], **part)
        count = quantized.matrix_shape.numel()
        if part["packed"].numel() != packed_size(count, layer["bits"]):
            raise ValueError(f"layer {name} does not hold {count} codes")
        _quantize_input(quantized, layer.get("input"), name, tensors)
        set_module(network, name, quantized)
    restore_quantizers(network, description.get("attention", {}))
    inside = tuple(f"{name}." for name in description["layers"])
    rest = {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor
        for name, tensor in tensors.items()
        if not name.startswith(inside)
    }
    for name in rest:
        _make_room_for_bias(network, name)
    wanted = {name for name in network.state_dict() if not name.startswith(inside)}
    if wanted != set(rest):
        odd = sorted(wanted ^ set(rest))
        raise ValueError(f"its tensors are not those of the model: {', '.join(odd[:3])}")
    network.load_state_dict(rest, strict=False)
    network.requires_grad_(False)


def _quantize_input(
    layer: QuantizedLayer, settings: dict[str, Any] | None, name: str, tensors: dict[str, torch.Tensor]
) -> None:
    """What happens to the layer's input, where it is made of integers as well."""
    divisor = tensors.get(f"{name}.input_divisor")
    layer.input_divisor = None if divisor is None else divisor.float()
    if settings is not None:
        scale, zero = (tensors.get(f"{name}.input_quantizer.{key}") for key in ("scale", "zero"))
        scale = None if scale is None else scale.float()
        layer.input_quantizer = ActivationQuantizer(**settings, scale=scale, zero=zero)


def _make_room_for_bias(network: nn.Module, name: str) -> None:
    """A batch norm that was folded into a layer without bias has left one there."""
    path, _, leaf = name.rpartition(".")
    layer = network.get_submodule(path)
    if leaf == "bias" and is_quantizable(layer) and layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros(LayerGeometry.of(layer).layout.outputs))


def _distinct(network: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Every tensor of a network once, as it is stored, and the further names of those that have several."""
    first: dict[int, str] = {}
    tensors, aliases = {}, {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        known = first.setdefault(id(tensor), name)
        if known == name:
            tensors[name] = _as_stored(tensor)
        else:
            aliases[name] = known
    return tensors, aliases


def _as_stored(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.float32 and stored_bits_of(tensor) == 16:
        tensor = tensor.half()
    return tensor.clone(memory_format=torch.contiguous_format)


def _digest(description: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

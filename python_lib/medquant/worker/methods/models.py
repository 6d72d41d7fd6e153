"""Which models there are, how they get here, and how large they become."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medquant.errors import UserError
from medquant.evaluation import wording
from medquant.evaluation.facts import facts_of
from medquant.models.catalogue import DEMONSTRATES, ModelEntry, list_models
from medquant.worker import measured
from medquant.worker.work import Work

if TYPE_CHECKING:
    from medquant.models.base import Model
    from medquant.quantized_model import QuantizedModel

DOWNLOADABLE = ("medsam",)
_TRAINED = "what it was trained for"
_BOX = "any structure in a box"
_FAMILIES = {"medsam": _BOX, "medsam2": _BOX, "nnunet": _TRAINED, "monai": _TRAINED, "published": _TRAINED}


def models(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """Those that can be used by name or fetched, and those that the user added."""
    named = [_listed(one) for one in list_models() if one.offline or one.name in DOWNLOADABLE]
    return {"models": named + [{**one, **_speed(one["spec"])} for one in measured.added()]}


def add_weights(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """Load what lies at `path`, so that a file that is of no use is told now, and list it from now on."""
    path = Path(params["path"]).expanduser()
    if not path.exists():
        raise UserError(f"There is nothing at {path}. Choose a file or folder that exists.")
    spec = str(path.absolute())
    told = _described(spec, work.warm.model(spec, work.part()))
    measured.add(told)
    return {"model": {**told, **_speed(spec)}}


def download(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """Fetch a model's weights into the user's cache."""
    from medquant.models import hub

    if params["model"] not in DOWNLOADABLE:
        raise UserError(f"{params['model']} cannot be fetched. Get its weights and add them by their path.")
    folder = hub.download_medsam(progress=work.part())
    entry = next(one for one in list_models() if one.name == params["model"])
    return {"folder": str(folder), "model": _listed(entry)}


def sizes(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """For each of `bits`: bytes and their text, expected before and measured after, seconds, and what masks lost,
    by the `scan` that they were compared on.

    Other settings of the recipe are those of `quantize`.
    """
    from medquant.expected import expected_bytes
    from medquant.worker.recipes import recipe_of

    spec = params["model"]
    entry = next((one for one in list_models() if one.name == spec), None)
    here = entry is None or entry.offline
    model = work.warm.model(spec, work.part()) if here else None
    if hasattr(model, "recipe"):
        told = _choice(spec, model.recipe.describe(), model.report.bytes_on_disk, exact=True)
        return {"choices": {str(model.recipe.nominal_bits or 0): told}}
    choices = {}
    for bits in params.get("bits", (8, 4, 2)):
        recipe = recipe_of({**params, "bits": bits})
        if model is not None:
            expected = expected_bytes(model, recipe)
        else:
            expected = entry.parameters * bits // 8 if entry.parameters else None
        choices[str(bits)] = _choice(spec, recipe.describe(), expected, exact=False)
    return {"choices": choices}


def _choice(spec: str, recipe: str, expected: int | None, *, exact: bool) -> dict[str, Any]:
    known = measured.recall(spec, recipe)
    size = known.get("bytes", expected)
    return {
        "bytes": size,
        "size": wording.size(size) if size else "",
        "measured": exact or "bytes" in known,
        "verdicts": known.get("verdicts", {}),
        **_speed(spec, recipe),
    }


def _speed(spec: str, recipe: str = measured.FP32) -> dict[str, Any]:
    """Expected seconds on this machine, as a number and in words."""
    known = measured.recall(spec, recipe)
    if "seconds" not in known:
        return {"expected_seconds": None, "seconds": ""}
    return {"expected_seconds": known["seconds"], "seconds": f"{wording.seconds(known['seconds'])} a {known['per']}"}


def _listed(entry: ModelEntry) -> dict[str, Any]:
    return {
        "spec": entry.name,
        "title": entry.title,
        "task": "box" if entry.prompt == "box" else "automatic",
        "about": entry.task,
        "modality": entry.modality,
        "bytes": entry.bytes_on_disk,
        "size": _size(4 * entry.parameters if entry.parameters else entry.bytes_on_disk),
        "licence": entry.licence,
        "present": entry.offline,
        "needs": "" if entry.offline else entry.needs,
        "can_download": not entry.offline and entry.name in DOWNLOADABLE,
        "is_demo": entry.name in DEMONSTRATES,
        "is_quantized": False,
        **_speed(entry.name),
    }


def _size(count: int | None) -> str:
    """Of the weights; of a model in FP32 4 bytes for each, whatever its file stores them in."""
    return wording.size(count) if count else ""


def _described(spec: str, model: Model | QuantizedModel) -> dict[str, Any]:
    """A model of the user's, by what is in it."""
    adapter = getattr(model, "model", model)
    quantized = adapter is not model
    size = model.report.bytes_on_disk if quantized else facts_of(model).bytes_fp32
    names = ", ".join(structure.name for structure in adapter.structures)
    return {
        "spec": spec,
        "title": model.name,
        "task": "box" if adapter.takes_boxes else "automatic",
        "about": names or _FAMILIES.get(adapter.family, ""),
        "modality": adapter.modality,
        "bytes": size,
        "size": _size(size),
        "licence": adapter.licence or "that of your weights",
        "present": True,
        "needs": "",
        "can_download": False,
        "is_demo": False,
        "is_quantized": quantized,
        "bits": (model.recipe.nominal_bits or 0) if quantized else 32,
    }

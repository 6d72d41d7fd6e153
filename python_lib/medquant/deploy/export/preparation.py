"""What has to be done to a scan before a network sees it, and with its output afterwards, in words and as data."""

from __future__ import annotations

from typing import Any

from medquant.models.base import Model

# Entries of a model's description that say nothing about how to use it.
_NOT_ABOUT_USE = ("config", "weights_hash", "weights_bytes", "licence", "name", "family")


def preprocessing(model: Model) -> dict[str, Any]:
    """Every setting between a scan and the network, and back, as data."""
    return {key: value for key, value in model.spec.items() if key not in _NOT_ABOUT_USE}


def preprocessing_in_words(model: Model) -> list[str]:
    """The same as steps, in order."""
    kinds = {"medsam": _prompted, "medsam2": _prompted, "nnunet": _nnunet, "monai": _monai, "published": _monai}
    steps = kinds.get(model.family)
    return ["Prepare the scan as for training this network."] if steps is None else steps(model)


def _prompted(model: Model) -> list[str]:
    data = model.spec["preprocessing"]
    size = data["image_size"]
    level, width = data["window_level"], data["window_width"]
    lower, upper = data["percentiles"]
    fit = "stretched to a square" if data["fit"] == "stretch" else "scaled to fit, then padded at the right and bottom"
    scaling = (
        "scaled to 0..1 by its own least and largest value"
        if data["scaling"] == "minmax"
        else f"as 0..1, minus {_numbers(data['mean'])}, over {_numbers(data['std'])} (three channels)"
    )
    corner = "(index + 1/2) x scale - 1/2" if data["box_centres"] else "index x scale"
    steps = [
        "Take a slice in the standard radiological view (axial: columns to the patient's left, rows to the back).",
        f"CT: window of level {level:g} HU and width {width:g} HU to grey 0..255. Others: the {lower:g}th to "
        f"{upper:g}th percentile of the voxels above zero.",
        f"The picture is {fit}, {size} x {size} pixels, {scaling}, the same in three channels: `pixels` "
        f"(1, 3, {size}, {size}).",
        f"Boxes (x0, y0, x1, y1), both corners inclusive, in pixels of that picture ({corner}): `boxes` (1, n, 4).",
        "`logits` (n, h, w): one picture for each box. Resize to the slice (bilinear); a voxel belongs to the "
        "structure where its logit is above 0.",
    ]
    if data["zoom_below"]:
        steps.append(
            f"A box whose longer side is below {data['zoom_below']:g} of the picture's is cut out with "
            f"{data['zoom_factor']:g} times its side and shown again"
            + (", and the logits of both are averaged." if data["zoom_average"] else ".")
        )
    if data["clip_margin"] is not None:
        steps.append(f"Masks end at the box grown by {data['clip_margin']:g} of its size on every side.")
    tidying = {"largest_component": "the largest piece is kept", "fill_holes": "holes are filled"}
    tidy = [words for key, words in tidying.items() if data[key]]
    return steps + ([f"At last {' and '.join(tidy)}."] if tidy else [])


def _nnunet(model: Model) -> list[str]:
    spec = model.spec
    plans, configuration = spec["plans"], spec["plans"]["configurations"][spec["configuration"]]
    spacing = configuration.get("spacing") or plans.get("original_median_spacing_after_transp")
    schemes = configuration.get("normalization_schemes", [])
    return [
        "Axes as nnU-Net reads the file (slices, rows, columns)"
        + (f", the scan turned to {spec['orientation']} first." if spec.get("orientation") else "."),
        f"Crop to the non-zero region, normalise by {_numbers(schemes)} with the figures of "
        "`foreground_intensity_properties_per_channel` in model.json.",
        f"Resample (cubic within, nearest across thick slices) to {_numbers(spacing or [])} mm.",
        f"Patches of {_numbers(configuration['patch_size'])} voxels, {spec['step_size']:g} of a patch apart: `patch`.",
        "`logits` (1, classes, ...): weigh each patch by a Gaussian (sigma an eighth of the patch), add up, divide by "
        "the sum of weights"
        + (f", the mean over mirrored axes {_numbers(spec['mirroring_axes'])}." if _mirrors(spec) else "."),
        "Resample the logits to the scan; each voxel gets the label with the largest.",
    ]


def _mirrors(spec: dict[str, Any]) -> bool:
    return bool(spec.get("mirroring") and spec.get("mirroring_axes"))


def _monai(model: Model) -> list[str]:
    spec = model.spec
    settings = ", ".join(f"{key}: {value}" for key, value in spec["preprocessing"].items())
    return [
        f"Prepare the scan with {settings}.",
        f"Patches of {_numbers(spec['roi_size'])} voxels that overlap by {spec['overlap']:g}: `patch`.",
        "`logits` (1, classes, ...): weigh each patch by a Gaussian, add up, divide by the sum of weights, resample to "
        "the scan; each voxel gets the label with the largest.",
    ]


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, (int, float)) else str(value) for value in values)

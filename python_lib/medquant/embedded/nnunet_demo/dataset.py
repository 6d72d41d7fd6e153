"""Phantoms written as an nnunetv2 raw dataset."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medquant.embedded.nnunet_demo.layout import PHANTOM_SHAPE, PHANTOM_SPACING
from medquant.embedded.phantom import LABEL_NAMES, make_phantom
from medquant.progress import Progress


def drawn_phantom(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One training case: HU, labels and affine, with field of view, dose and contrast phase drawn from the seed."""
    rng = np.random.default_rng([seed, 7])
    centre = tuple(rng.uniform((-22, -10, -12), (22, 10, 12)))
    image, labels, _, affine = make_phantom(
        seed, PHANTOM_SHAPE, PHANTOM_SPACING, centre=centre, noise=float(rng.uniform(4, 16))
    )
    return other_phase(image, rng), labels, affine


def other_phase(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Soft-tissue HU bent by a random monotone curve, so that no organ is known by one number."""
    knots = np.array([-1024, -160, -60, 0, 60, 95, 115, 140, 170, 220, 400, 3071], float)
    steps = np.diff(knots) * np.exp(rng.normal(0, [0, 0.1, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.4, 0.2, 0]))
    bent = np.concatenate([[knots[0]], knots[0] + np.cumsum(steps)])
    bent[-1] = knots[-1]
    return np.rint(np.interp(image, knots, bent)).astype(np.int16)


def write_case(folder: Path, seed: int) -> str:
    """Writes `imagesTr` and `labelsTr` of one phantom; returns the case's name."""
    name = f"phantom_{seed:04d}"
    image, labels, affine = drawn_phantom(seed)
    for part, array in ((f"imagesTr/{name}_0000", image), (f"labelsTr/{name}", labels)):
        picture = sitk.GetImageFromArray(array)
        picture.SetSpacing([float(v) for v in np.diag(affine)[:3]])
        picture.SetOrigin([float(v) for v in affine[:3, 3]])
        sitk.WriteImage(picture, str(folder / f"{part}.nii.gz"), useCompression=True)
    return name


def write_dataset(folder: Path, seeds: list[int], progress: Progress, processes: int = 1) -> list[str]:
    """The raw dataset of the given seeds; returns case names in the order of the seeds."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    names = []
    with ProcessPoolExecutor(processes) as pool:
        for done, name in enumerate(pool.map(partial(write_case, folder), seeds)):
            names.append(name)
            progress.report((done + 1) / len(seeds), f"Drawing phantom {done + 1} of {len(seeds)}")
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0} | {name: value for value, name in LABEL_NAMES.items()},
        "numTraining": len(seeds),
        "file_ending": ".nii.gz",
        # Whatever way round a scan is stored, the network sees it as RAS: it tells left from right.
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
        "name": "PhantomAbdomen",
        "description": "Procedural phantoms of the upper abdomen, portal-venous CT. No patient is in it.",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2), encoding="utf-8")
    return names

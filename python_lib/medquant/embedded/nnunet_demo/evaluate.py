"""Dice of the demonstration nnU-Net on phantoms that it never saw, or on a scan with labels.

python -m medquant.embedded.nnunet_demo.evaluate
python -m medquant.embedded.nnunet_demo.evaluate --scan ct.nii.gz --labels labels.nii.gz --renumber 52=8 63=9
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medquant.embedded.nnunet_demo import results_folder
from medquant.embedded.nnunet_demo.layout import FIRST_TEST_SEED
from medquant.embedded.nnunet_demo.prediction import load_predictor, predict
from medquant.embedded.phantom import LABEL_NAMES, make_phantom
from medquant.evaluation.metrics import dice
from medquant.imaging.itk_file import image_of
from medquant.imaging.reading import read_labels, read_volume

SMALLEST = 1.0  # mL; a structure of which less is in the field of view is not counted


def dice_by_organ(predicted: np.ndarray, reference: np.ndarray, voxel_ml: float) -> dict[str, float]:
    """Dice of each organ of which the reference holds at least `SMALLEST` mL; arrays of one shape."""
    present = {value: name for value, name in LABEL_NAMES.items() if (reference == value).sum() * voxel_ml >= SMALLEST}
    return {name: dice(predicted == value, reference == value) for value, name in present.items()}


def read_oriented(scan: Path, labels: Path) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Scan and labels as arrays whose axes run superior, posterior, left; and the spacing (k, j, i) in mm."""
    volume = read_volume(scan)
    reference = read_labels(labels, volume).labels
    images = [
        sitk.DICOMOrient(image_of(np.ascontiguousarray(array), volume.affine), "LPS")
        for array in (volume.array, reference)
    ]
    return *(sitk.GetArrayFromImage(image) for image in images), images[0].GetSpacing()[::-1]


def renumbered(labels: np.ndarray, pairs: list[str]) -> np.ndarray:
    """Labels with the values of `pairs` ("52=8") changed; what stood under a new value before is dropped."""
    out = labels.copy()
    changes = [tuple(int(value) for value in pair.split("=")) for pair in pairs]
    for _, ours in changes:
        out[labels == ours] = 0
    for theirs, ours in changes:
        out[labels == theirs] = ours
    return out


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m medquant.embedded.nnunet_demo.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=results_folder(), help="model folder with plans.json")
    parser.add_argument("--phantoms", type=int, default=5, help="number of phantoms, seeds from 900")
    parser.add_argument("--scan", type=Path, help="a CT instead of phantoms: file or DICOM folder")
    parser.add_argument("--labels", type=Path, help="its labels, numbered as the phantom's")
    parser.add_argument("--renumber", nargs="*", default=[], metavar="THEIRS=OURS", help="label values that differ")
    options = parser.parse_args(arguments)
    if (options.scan is None) != (options.labels is None):
        parser.error("--scan and --labels go together")

    predictor = load_predictor(options.model)
    rows = []
    if options.scan:
        image, labels, spacing = read_oriented(options.scan, options.labels)
        rows.append(_row(predictor, options.scan.name, image, renumbered(labels, options.renumber), spacing))
    else:
        for seed in range(FIRST_TEST_SEED, FIRST_TEST_SEED + options.phantoms):
            image, labels, _, affine = make_phantom(seed)
            rows.append(_row(predictor, f"phantom {seed}", image, labels, tuple(np.diag(affine)[2::-1])))
    print("mean over scans")
    for name in LABEL_NAMES.values():
        values = [row[name] for row in rows if name in row]
        if values:
            print(f"  {name:20s} {np.mean(values):.3f}")
    print(f"  {'all organs':20s} {np.mean([np.mean(list(row.values())) for row in rows]):.3f}")


def _row(predictor, title: str, image: np.ndarray, reference: np.ndarray, spacing) -> dict[str, float]:
    start = time.perf_counter()
    predicted = predict(predictor, image, spacing)
    seconds = time.perf_counter() - start
    row = dice_by_organ(predicted, reference, float(np.prod(spacing)) / 1000)
    print(f"{title}: mean Dice {np.mean(list(row.values())):.3f}, {seconds:.1f} s")
    for name, value in row.items():
        print(f"  {name:20s} {value:.3f}")
    return row


if __name__ == "__main__":
    main()

"""Dice of the demonstration UNETR on phantoms that it never saw, or on a scan with labels.

python -m medquant.embedded.unetr_demo.evaluate
python -m medquant.embedded.unetr_demo.evaluate --scan ct.nii.gz --labels labels.nii.gz --renumber 52=8 63=9
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medquant.embedded.nnunet_demo.evaluate import dice_by_organ, renumbered
from medquant.embedded.phantom import LABEL_NAMES, make_phantom
from medquant.embedded.unetr_demo.configuration import OPTIONS
from medquant.embedded.unetr_demo.dataset import FIRST_TEST_SEED
from medquant.imaging.reading import read_labels, read_volume
from medquant.imaging.volume import Volume
from medquant.models.catalogue import EMBEDDED_UNETR
from medquant.models.monai_networks import MonaiModel
from medquant.segment import segment


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m medquant.embedded.unetr_demo.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=EMBEDDED_UNETR, help="folder with model.safetensors")
    parser.add_argument("--phantoms", type=int, default=5, help="number of phantoms, seeds from 900")
    parser.add_argument("--scan", type=Path, help="a CT instead of phantoms: file or DICOM folder")
    parser.add_argument("--labels", type=Path, help="its labels, numbered as the phantom's")
    parser.add_argument("--renumber", nargs="*", default=[], metavar="THEIRS=OURS", help="label values that differ")
    options = parser.parse_args(arguments)
    if (options.scan is None) != (options.labels is None):
        parser.error("--scan and --labels go together")

    model = MonaiModel.load(options.model / "model.safetensors", **OPTIONS)
    rows = []
    for title, volume, reference in _cases(options):
        found = segment(model, volume)
        row = dice_by_organ(found.labels, reference, volume.voxel_volume_ml)
        print(f"{title}: mean Dice {np.mean(list(row.values())):.3f}, {found.seconds:.1f} s")
        for name, value in row.items():
            print(f"  {name:20s} {value:.3f}")
        rows.append(row)
    print("mean over scans")
    for name in LABEL_NAMES.values():
        if values := [row[name] for row in rows if name in row]:
            print(f"  {name:20s} {np.mean(values):.3f}")
    print(f"  {'all organs':20s} {np.mean([np.mean(list(row.values())) for row in rows]):.3f}")


def _cases(options: argparse.Namespace) -> Iterator[tuple[str, Volume, np.ndarray]]:
    if options.scan:
        volume = read_volume(options.scan)
        yield options.scan.name, volume, renumbered(read_labels(options.labels, volume).labels, options.renumber)
        return
    for seed in range(FIRST_TEST_SEED, FIRST_TEST_SEED + options.phantoms):
        image, labels, _, affine = make_phantom(seed)
        yield f"phantom {seed}", Volume(image, affine, modality="CT"), labels


if __name__ == "__main__":
    main()

"""How each data set lies on disk: a folder to its cases.

Every function gives the cases of a folder that has its layout, and none for any other; `LOOKED_FOR` beside it says in
words what it looks for.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medquant.datasets.case import Case
from medquant.datasets.structures import ABDOMEN_ATLAS, ABDOMENCT_1K, BTCV, WHOLE_BRAIN
from medquant.imaging.itk_file import known_suffix
from medquant.models.weight_files import read_json

NIFTI = (".nii.gz", ".nii")


@dataclass(frozen=True)
class _Pair:
    """A scan and its label map by file names: `{}` stands for what names the case."""

    folder: str
    scan: str
    labels: str
    """Path of the label map from the root; "" where there is none."""
    split: str = ""


BTCV_LOOKED_FOR = "img0001.nii.gz in RawData/Training/img (labels in label/label0001.nii.gz), Training/img or imagesTr"


def btcv(root: Path) -> list[Case]:
    """The challenge's own folders, RawData or what lies in it, or MONAI's imagesTr, labelsTr and imagesTs.

    The organizers keep the labels of the test scans; one that lies in Testing/label or labelsTs is taken.
    """
    root = next((deeper for deeper in (root / "RawData", root / "Abdomen" / "RawData") if deeper.is_dir()), root)
    pairs = [
        _Pair(f"{folder}/img", r"img(\d{4})", f"{folder}/label/label{{}}", split)
        for folder, split in (("Training", "train"), ("Testing", "test"))
    ] + [
        _Pair(f"images{end}", r"img(\d{4})", f"labels{end}/label{{}}", split)
        for end, split in (("Tr", "train"), ("Ts", "test"))
    ]
    return _paired(root, pairs, BTCV, "CT", name="img{}")


ABDOMENCT_1K_LOOKED_FOR = (
    "Case_00001_0000.nii.gz in the folder, in Image, or in AbdomenCT-1K-ImagePart1 to 3, labels Case_00001.nii.gz in "
    "Mask"
)


def abdomenct_1k(root: Path) -> list[Case]:
    """Images as they are unpacked, in parts or together, and masks in Mask."""
    parts = ("AbdomenCT-1K-ImagePart1", "AbdomenCT-1K-ImagePart2", "AbdomenCT-1K-ImagePart3", "Image", ".")
    pairs = [_Pair(part, r"Case_(\d{5})_0000", "Mask/Case_{}") for part in parts]
    return _paired(root, pairs, ABDOMENCT_1K, "CT", name="Case_{}")


WHOLE_BRAIN_LOOKED_FOR = (
    "NAME.nii.gz in train/images and validation/images, labels NAME_seg.nii.gz in labels beside them"
)


def whole_brain(root: Path) -> list[Case]:
    """UNesT's folders: T1-weighted MR in MNI space with 132 regions."""
    pairs = [
        _Pair(f"{folder}/images", "(.+)", f"{folder}/labels/{{}}_seg", split)
        for folder, split in (("train", "train"), ("validation", "val"), ("test", "test"))
    ]
    return _paired(root, pairs, WHOLE_BRAIN, "MR", name="{}")


TOTALSEGMENTATOR_LOOKED_FOR = "folders like s0000 with ct.nii.gz and segmentations/STRUCTURE.nii.gz, and meta.csv"


def totalsegmentator(root: Path) -> list[Case]:
    """A folder for each case with a mask for each structure; splits from meta.csv where it is there.

    Structures are numbered in the order of their names, over all cases.
    """
    table = root / "meta.csv"
    splits: dict[str, str] = {}
    if table.is_file():
        text = table.read_text(encoding="utf-8-sig")
        rows = csv.DictReader(text.splitlines(), delimiter=";" if ";" in text.partition("\n")[0] else ",")
        splits = {str(row.get("image_id")): str(row.get("split") or "") for row in rows}
    folders = [folder for folder in _folders(root) if re.fullmatch(r"s\d{4}", folder.name)]
    return _by_structure([(folder, folder) for folder in folders], (), splits)


ABDOMEN_ATLAS_LOOKED_FOR = (
    "folders like BDMAP_00000001 with ct.nii.gz and segmentations/STRUCTURE.nii.gz, together, or apart in image_only "
    "and mask_only"
)


def abdomen_atlas(root: Path) -> list[Case]:
    """A folder for each case with a mask for each structure; scans and masks in one tree or in two.

    Structures have the numbers of the data set's combined labels; others follow by name.
    """
    base = root / "image_only" if (root / "image_only").is_dir() else root
    masks = root / "mask_only" if (root / "mask_only").is_dir() else base
    folders = [folder for folder in _folders(base) if re.fullmatch(r"BDMAP_\w+", folder.name)]
    return _by_structure([(folder, masks / folder.name) for folder in folders], ABDOMEN_ATLAS, {})


NNUNET_RAW_LOOKED_FOR = "dataset.json and imagesTr/NAME_0000.nii.gz (or its other file ending), labels in labelsTr"


def nnunet_raw(root: Path) -> list[Case]:
    """A raw folder of nnU-Net, version 2 or 1. Of several channels the first is the scan.

    Classes that dataset.json gives as regions (lists of numbers) are left out: their numbers have no name of their own.
    """
    if not (root / "dataset.json").is_file() or not (root / "imagesTr").is_dir():
        return []
    described = read_json(root / "dataset.json")
    structures = _nnunet_structures(described.get("labels", {}))
    ending = str(described.get("file_ending", ".nii.gz"))
    channels = described.get("channel_names", described.get("modality", {}))
    modality = str(next(iter(channels.values()), "")).upper() if isinstance(channels, Mapping) else ""
    modality = modality if modality in ("CT", "MR") else "MR" if modality == "MRI" else ""
    cases = []
    for end, split in (("Tr", "train"), ("Ts", "test")):
        for image in sorted((root / f"images{end}").glob(f"*_0000{ending}")):
            name = image.name.removesuffix(f"_0000{ending}")
            labels = root / f"labels{end}" / f"{name}{ending}"
            cases.append(Case(name, image, structures, labels if labels.is_file() else None, {}, split, modality))
    return cases


def _nnunet_structures(labels: Mapping[str, object]) -> dict[int, str]:
    """Version 2 writes {"liver": 1}, version 1 {"1": "liver"}; 0 is the background, `ignore` no structure."""
    found = {}
    for key, value in labels.items():
        number, name = (key, value) if isinstance(value, str) and str(key).isdigit() else (value, key)
        if isinstance(number, (int, str)) and str(number).isdigit() and int(number) > 0 and name != "ignore":
            found[int(number)] = str(name)
    return dict(sorted(found.items()))


def _paired(
    root: Path, pairs: Iterable[_Pair], structures: Mapping[int, str], modality: str, *, name: str
) -> list[Case]:
    cases = []
    for pair in pairs:
        for image in _files(root / pair.folder):
            match = re.fullmatch(pair.scan, image.name.removesuffix(known_suffix(image, NIFTI)))
            if match is None:
                continue
            labels = _with_suffix(root / pair.labels.format(match[1]))
            cases.append(Case(name.format(match[1]), image, structures, labels, {}, pair.split, modality))
    return cases


def _by_structure(
    folders: Iterable[tuple[Path, Path]], known: tuple[str, ...], splits: Mapping[str, str]
) -> list[Case]:
    """Cases from pairs of folders, that of ct.nii.gz and that of segmentations."""
    found = []
    for images, masks in folders:
        image = _with_suffix(images / "ct")
        if image is not None:
            files = _files(masks / "segmentations")
            found.append((images.name, image, {f.name.removesuffix(known_suffix(f, NIFTI)): f for f in files}))
    others = {structure for _, _, files in found for structure in files} - set(known)
    numbers = {structure: number for number, structure in enumerate((*known, *sorted(others)), start=1)}
    cases = []
    for name, image, files in found:
        masks = {numbers[structure]: files[structure] for structure in sorted(files, key=numbers.__getitem__)}
        names = {numbers[structure]: structure.replace("_", " ") for structure in files}
        cases.append(Case(name, image, names, None, masks, splits.get(name, ""), "CT"))
    return cases


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir())


def _files(folder: Path) -> list[Path]:
    """NIfTI files, without those that a Mac leaves behind (._NAME)."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(f for f in found if known_suffix(f, NIFTI) and not f.name.startswith(".") and f.is_file())


def _with_suffix(stem: Path) -> Path | None:
    """The NIfTI file of that name without suffix; None where there is none."""
    return next((file for end in NIFTI if (file := stem.with_name(stem.name + end)).is_file()), None)

"""What a structure is called in SNOMED CT, and in which colour it is drawn."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable
from dataclasses import dataclass

from medquant.segmentation import Structure

Color = tuple[float, float, float]
"""Red, green, blue in 0..1."""


@dataclass(frozen=True)
class Code:
    """A concept of SNOMED CT: code value and code meaning."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Term:
    """Category, type and side of a segmented property (DICOM PS3.3 C.8.20.4), and a colour where one is customary."""

    category: Code
    type: Code
    modifier: Code | None = None
    color: Color | None = None


ANATOMICAL_STRUCTURE = Code("91723000", "Anatomical Structure")
MORPHOLOGICALLY_ABNORMAL = Code("49755003", "Morphologically Abnormal Structure")
# 3D Slicer's own lists still name it by the older of the two SNOMED CT concepts of that meaning.
_SLICER_ANATOMICAL_STRUCTURE = Code("123037004", "Anatomical Structure")
TISSUE = Code("85756007", "Tissue")
SIDES = {"left": Code("7771000", "Left"), "right": Code("24028007", "Right")}

# name: (code, meaning, red, green, blue, other names). Codes: DICOM PS3.16, CID 7151 "Segmented Property Type" and
# the groups that it includes. Colours are near those that radiology workstations customarily use for each organ.
_ANATOMY = {
    "adrenal gland": ("23451007", "Adrenal gland", 249, 186, 150, "adrenal suprarenal gland"),
    "aorta": ("15825003", "Aorta", 224, 97, 76, "abdominal aorta"),
    "brain": ("12738006", "Brain", 250, 250, 225, ""),
    "brain stem": ("119238007", "Brain Stem", 85, 188, 255, "brainstem"),
    "breast": ("76752008", "Breast", 210, 140, 130, ""),
    "cerebellum": ("113305005", "Cerebellum", 194, 195, 164, "cerebellum cortex"),
    "clavicle": ("51299004", "Clavicle", 244, 214, 150, "clavicula"),
    "colon": ("71854001", "Colon", 204, 168, 143, ""),
    "duodenum": ("38848004", "Duodenum", 255, 253, 229, ""),
    "esophagus": ("32849002", "Esophagus", 211, 171, 143, "oesophagus"),
    "fat": ("55603005", "Fat", 230, 220, 70, "adipose tissue, subcutaneous fat, visceral fat"),
    "femur": ("71341001", "Femur", 255, 238, 170, ""),
    "gallbladder": ("28231008", "Gallbladder", 139, 150, 98, "gall bladder"),
    "heart": ("80891009", "Heart", 206, 110, 84, ""),
    "hip": ("29836001", "Hip", 226, 202, 134, "hip bone"),
    "hippocampus": ("5366008", "Hippocampus", 175, 150, 255, ""),
    "humerus": ("85050009", "Humerus", 255, 238, 190, ""),
    "inferior vena cava": ("64131007", "Inferior vena cava", 0, 151, 206, "ivc, vena cava, postcava"),
    "kidney": ("64033007", "Kidney", 185, 102, 83, "kidneys"),
    "large intestine": ("14742008", "Large intestine", 204, 150, 130, "large bowel"),
    "lateral ventricle": ("66720007", "Lateral Ventricle", 88, 106, 215, "ventricle lateral"),
    "liver": ("10200004", "Liver", 221, 130, 101, ""),
    "lung": ("39607008", "Lung", 197, 165, 145, ""),
    "muscle": ("71616004", "Muscle", 192, 104, 88, "muscles, skeletal muscle"),
    "pancreas": ("15776009", "Pancreas", 249, 180, 111, ""),
    "portal vein": ("32764006", "Portal vein", 0, 131, 190, "portal vein and splenic vein"),
    "prostate": ("41216001", "Prostate", 230, 158, 140, ""),
    "pulmonary artery": ("81040000", "Pulmonary artery", 0, 122, 171, ""),
    "rectum": ("34402009", "Rectum", 190, 140, 120, ""),
    "rib": ("113197003", "Rib", 253, 232, 158, "ribs"),
    "sacrum": ("54735007", "Sacrum", 212, 188, 102, ""),
    "scapula": ("79601000", "Scapula", 235, 215, 160, ""),
    "skin": ("39937001", "Skin", 177, 122, 101, "body"),
    "small intestine": ("30315005", "Small intestine", 205, 167, 142, "small bowel, bowel"),
    "spinal cord": ("2748008", "Spinal cord", 244, 214, 49, ""),
    "spine": ("421060004", "Spine", 226, 202, 134, "vertebral column"),
    "spleen": ("78961009", "Spleen", 157, 108, 162, ""),
    "splenic vein": ("35819009", "Splenic vein", 0, 161, 196, ""),
    "sternum": ("56873002", "Sternum", 244, 222, 140, ""),
    "stomach": ("69695003", "Stomach", 216, 132, 105, ""),
    "thalamus": ("42695009", "Thalamus", 182, 166, 110, ""),
    "thyroid": ("69748006", "Thyroid", 62, 162, 114, "thyroid gland"),
    "trachea": ("44567001", "Trachea", 182, 228, 255, ""),
    "urinary bladder": ("89837001", "Bladder", 222, 154, 132, "bladder"),
    "uterus": ("35039007", "Uterus", 255, 181, 158, ""),
    "vertebra": ("51282000", "Vertebra", 226, 202, 134, "vertebrae"),
}
_ABNORMAL = {
    "lesion": ("52988006", "Lesion", 255, 160, 60, ""),
    "mass": ("4147007", "Mass", 144, 238, 144, ""),
    "neoplasm": ("108369006", "Neoplasm", 144, 200, 100, "tumor, tumour, cancer"),
}
_LEFT_KIDNEY = (212, 126, 151)


def _terms() -> dict[str, Term]:
    found = {}
    for category, table in ((ANATOMICAL_STRUCTURE, _ANATOMY), (MORPHOLOGICALLY_ABNORMAL, _ABNORMAL)):
        for name, (code, meaning, red, green, blue, others) in table.items():
            term = Term(category, Code(code, meaning), color=_unit((red, green, blue)))
            found.update({key: term for key in (name, *others.split(", ")) if key})
    return found


def _unit(rgb: tuple[int, int, int]) -> Color:
    return rgb[0] / 255, rgb[1] / 255, rgb[2] / 255


_TERMS = _terms()
# Coded as another structure, but a part or a kind of it: two of them may stand in one segmentation.
_PARTS = "subcutaneous fat, visceral fat, abdominal aorta, cerebellum cortex, portal vein and splenic vein, body, bowel"
_SYNONYMS = {
    other: name
    for name, (*_, others) in (_ANATOMY | _ABNORMAL).items()
    for other in others.split(", ")
    if other not in _PARTS.split(", ")
}


def plain_name(name: str) -> str:
    """One spelling of all usual ones: "kidney_right" and "Right Kidney", "gall_bladder", "postcava"; numbers count."""
    words = re.sub(r"[\W_]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).casefold().split()
    sides = [word for word in words if word in SIDES]
    organ = " ".join(word for word in words if word not in SIDES)
    if len(sides) > 1 or not organ:
        return " ".join(words)
    return " ".join([*sides, _SYNONYMS.get(organ, organ)])


def without_side(name: str) -> str:
    """Of a `plain_name`: "kidney" of "left kidney"."""
    side, _, organ = name.partition(" ")
    return organ if side in SIDES else name


def describe(name: str) -> Term:
    """The term for a structure's name in English, in any usual spelling ("kidney_right", "Right kidney").

    A name that is not known becomes the unspecific "Tissue", with no colour: never a wrong organ.
    """
    words = re.sub(r"[^a-z]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()).split()
    sides = {word for word in words if word in SIDES}
    term = _TERMS.get(" ".join(word for word in words if word not in SIDES))
    if term is None or len(sides) > 1:
        return Term(TISSUE, TISSUE)
    if not sides:
        return term
    color = _unit(_LEFT_KIDNEY) if sides == {"left"} and term.type.meaning == "Kidney" else term.color
    return Term(term.category, term.type, SIDES[sides.pop()], color)


def terminology_entry(name: str) -> str:
    """3D Slicer's serialized terminology of a structure: context, category, type, modifier, and no anatomic region."""
    term = describe(name)
    category = _SLICER_ANATOMICAL_STRUCTURE if term.category == ANATOMICAL_STRUCTURE else term.category
    codes = (category, term.type, term.modifier)
    written = "~".join(f"SCT^{code.value}^{code.meaning}" if code else "^^" for code in codes)
    context = "Segmentation category and type - 3D Slicer General Anatomy list"
    return f"{context}~{written}~Anatomic codes - DICOM master list~^^~^^"


def colors_of(structures: Iterable[Structure]) -> dict[int, Color]:
    """A colour for each label: the structure's own, else the customary one, else one unlike those before it."""
    colors: dict[int, Color] = {}
    for structure in structures:
        color = structure.color or describe(structure.name).color
        turn = structure.label
        while color is None or (structure.color is None and color in colors.values()):
            # Golden-angle steps around the colour wheel keep neighbours apart however many there are.
            color = colorsys.hsv_to_rgb(turn * 0.618033988749895 % 1.0, 0.65, 0.95)
            turn += 1
        colors[structure.label] = color
    return colors

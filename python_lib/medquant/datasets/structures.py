"""The label numbers of the data sets whose files do not name them, as their authors publish them."""

from __future__ import annotations

BTCV = dict(
    enumerate(
        (
            "spleen",
            "right kidney",
            "left kidney",
            "gallbladder",
            "esophagus",
            "liver",
            "stomach",
            "aorta",
            "inferior vena cava",
            "portal vein and splenic vein",
            "pancreas",
            "right adrenal gland",
            "left adrenal gland",
        ),
        start=1,
    )
)
"""Landman et al., Multi-Atlas Labeling Beyond the Cranial Vault, 2015."""

ABDOMENCT_1K = {1: "liver", 2: "kidney", 3: "spleen", 4: "pancreas"}
"""Ma et al., AbdomenCT-1K, TPAMI 2021; both kidneys are one structure."""

_ATLAS = (
    "aorta gall_bladder kidney_left kidney_right liver pancreas postcava spleen stomach adrenal_gland_left "
    "adrenal_gland_right bladder celiac_trunk colon duodenum esophagus femur_left femur_right hepatic_vessel intestine "
    "lung_left lung_right portal_vein_and_splenic_vein prostate rectum"
)
ABDOMEN_ATLAS = tuple(_ATLAS.split())
"""The 25 structures of AbdomenAtlas 1.1 in the order of its combined labels, named as its mask files are."""

_MIDLINE_OF_THE_BRAIN = {
    1: "3rd ventricle",
    2: "4th ventricle",
    7: "brain stem",
    30: "cerebellar vermal lobules I-V",
    31: "cerebellar vermal lobules VI-VII",
    32: "cerebellar vermal lobules VIII-X",
    33: "left basal forebrain",
    34: "right basal forebrain",
}
# Each takes two numbers, the right side first.
_PAIRS_OF_THE_BRAIN = (
    "accumbens area, amygdala, caudate, cerebellum exterior, cerebellum white matter, cerebral white matter, "
    "hippocampus, inferior lateral ventricle, lateral ventricle, pallidum, putamen, thalamus proper, ventral DC, "
    "anterior cingulate gyrus, anterior insula, anterior orbital gyrus, angular gyrus, calcarine cortex, central "
    "operculum, cuneus, entorhinal area, frontal operculum, frontal pole, fusiform gyrus, gyrus rectus, inferior "
    "occipital gyrus, inferior temporal gyrus, lingual gyrus, lateral orbital gyrus, middle cingulate gyrus, medial "
    "frontal cortex, middle frontal gyrus, middle occipital gyrus, medial orbital gyrus, medial segment of "
    "postcentral gyrus, medial segment of precentral gyrus, medial segment of superior frontal gyrus, middle "
    "temporal gyrus, occipital pole, occipital fusiform gyrus, opercular part of inferior frontal gyrus, orbital "
    "part of inferior frontal gyrus, posterior cingulate gyrus, precuneus, parahippocampal gyrus, posterior insula, "
    "parietal operculum, postcentral gyrus, posterior orbital gyrus, planum polare, precentral gyrus, planum "
    "temporale, subcallosal area, superior frontal gyrus, supplementary motor cortex, supramarginal gyrus, superior "
    "occipital gyrus, superior parietal lobule, superior temporal gyrus, temporal pole, triangular part of inferior "
    "frontal gyrus, transverse temporal gyrus"
)


def _brain() -> dict[int, str]:
    sides = iter(f"{side} {name}" for name in _PAIRS_OF_THE_BRAIN.split(", ") for side in ("right", "left"))
    return {number: _MIDLINE_OF_THE_BRAIN.get(number) or next(sides) for number in range(1, 133)}


WHOLE_BRAIN = _brain()
"""The 132 regions of the BrainCOLOR protocol as numbered for UNesT (Yu et al., Medical Image Analysis 2023)."""

"""Label values of the phantom and their names."""

from __future__ import annotations

SPLEEN, RIGHT_KIDNEY, LEFT_KIDNEY, GALLBLADDER, LIVER, STOMACH, PANCREAS, AORTA, VENA_CAVA = range(1, 10)

LABEL_NAMES: dict[int, str] = {
    SPLEEN: "spleen",
    RIGHT_KIDNEY: "right kidney",
    LEFT_KIDNEY: "left kidney",
    GALLBLADDER: "gallbladder",
    LIVER: "liver",
    STOMACH: "stomach",
    PANCREAS: "pancreas",
    AORTA: "aorta",
    VENA_CAVA: "inferior vena cava",
}

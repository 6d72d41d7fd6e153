"""What the masks of a quantized model lost, in words that a decision can be made by.

The verdict is that of the *worst* thing that is known of the worst structure, because each number is blind to
something:

- **Dice**: .98 is where two masks of one reader of a large organ lie, .95 where those of two readers do. It is blind
  to what is small beside the whole.
- **NSD** and **HD95**: up to a twentieth of the surface may lie beyond the tolerance (2 mm unless asked otherwise),
  which is what an HD95 within it says; a tenth of it, or 5 mm, is seen at reading distance. HD95 is allowed one voxel's
  (then two voxels') longest side: a scan of thick slices knows no smaller step.
- **Volume**: 2 and 5 %, half of what the limits of Dice would let pass: errors to both sides cancel, a mask that
  shrinks everywhere is a bias.
- **The worst slice**: more than half of a mask gone in a slice, or a square of 1 cm (a lesion is measurable from there)
  that only one of the masks fills, is seen by whoever scrolls past, whatever the other slices are like; 5 mm is noticed
  where it is looked for. Slices of less than a quarter of the structure's largest section are its tips, where masks end
  a slice earlier or later: there only squares count.

A structure that only one model found is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medquant.evaluation import wording
from medquant.evaluation.slices import SliceAgreement
from medquant.evaluation.wording import AS_FP32, SMALL_LOSS, VISIBLE_LOSS

VERDICTS = (AS_FP32, SMALL_LOSS, VISIBLE_LOSS)
"""From best to worst."""

# For each measure the limit of "as FP32" and that of "small loss".
DICE = (0.98, 0.95)
NSD = (0.95, 0.90)
HD95_MM = (2.0, 5.0)
HD95_VOXELS = (1.0, 2.0)
VOLUME_PERCENT = (2.0, 5.0)
PATCHES_MM = (5.0, 10.0)
MOSTLY = 0.5
TIP = 0.25
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Agreed:
    """How far the masks of one structure agree with FP32, as far as it is judged."""

    dsc: float
    nsd: float
    hd95_mm: float
    """Infinite where only one of the masks is empty."""
    volume_change_percent: float | None
    """None: FP32 has no such structure and the model has."""
    tolerance_mm: float = 2.0
    voxel_mm: float = 0.0
    """The longest side of a voxel."""
    slices: Sequence[SliceAgreement] = ()
    """The slices that differ, FP32's mask the first."""


@dataclass(frozen=True)
class Verdict:
    """The words, and what they are for."""

    words: str = AS_FP32
    reason: str = ""
    """The measure that decided: "Dice .962", "slice 39: 2693 voxels only in FP32"; empty: nothing was lost."""
    slice: int | None = None
    """Index of the slice to look at, where it was a slice that decided."""

    @property
    def rank(self) -> int:
        """0: as FP32; larger is worse."""
        return VERDICTS.index(self.words)


def describe() -> str:
    """How the words are found, for whoever reads them."""
    score, (small, large), (near, far) = wording.score, PATCHES_MM, HD95_MM
    return (
        "Masks are judged by the worst measure of the worst structure against FP32. "
        f'"{AS_FP32}": Dice from {score(DICE[0])}, NSD from {score(NSD[0])}, HD95 up to {near:g} mm or one voxel, '
        f"volume within {VOLUME_PERCENT[0]:g} %, and in no slice a square of {small:g} mm that only one of the masks "
        f'fills; "{SMALL_LOSS}": {score(DICE[1])}, {score(NSD[1])}, {far:g} mm or two voxels, {VOLUME_PERCENT[1]:g} %, '
        f'{large:g} mm, and in no slice more than half of a mask gone; else "{VISIBLE_LOSS}".'
    )


def judge(agreed: Agreed) -> Verdict:
    """The verdict on one structure: the worst of all measures; of equally bad ones the slice to look at comes first."""
    if agreed.dsc >= 1.0:
        return Verdict()
    if agreed.dsc <= 0.0 and agreed.hd95_mm == float("inf"):
        missing = agreed.volume_change_percent == -100.0
        return Verdict(VISIBLE_LOSS, "only in FP32" if missing else "not in FP32")
    found = [_of_slices(agreed.slices), *_of_numbers(agreed)]
    return max(found, key=lambda verdict: verdict.rank)


def _of_numbers(agreed: Agreed) -> list[Verdict]:
    distances = [max(mm, voxels * agreed.voxel_mm) for mm, voxels in zip(HD95_MM, HD95_VOXELS, strict=True)]
    distances[0] = max(distances[0], agreed.tolerance_mm)
    change = agreed.volume_change_percent
    volume = "" if change is None else f"volume {wording.change(change)} %"
    return [
        _limited(-agreed.dsc, [-limit for limit in DICE], f"Dice {wording.score(agreed.dsc)}"),
        _limited(abs(change or 0.0), VOLUME_PERCENT, volume),
        _limited(agreed.hd95_mm, distances, f"HD95 {wording.distance(agreed.hd95_mm)} mm"),
        _limited(-agreed.nsd, [-limit for limit in NSD], f"NSD {wording.score(agreed.nsd)}"),
    ]


def _limited(badness: float, limits: Sequence[float], reason: str) -> Verdict:
    rank = sum(badness > limit + _ROUNDING for limit in limits)
    return Verdict(VERDICTS[rank], reason if rank else "")


def _of_slices(slices: Sequence[SliceAgreement]) -> Verdict:
    ranked = [(_rank_of(one), one.voxels, one) for one in slices]
    rank, _voxels, one = max(ranked, key=lambda entry: entry[:2], default=(0, 0, None))
    if not rank:
        return Verdict()
    lost = one.only_first >= one.only_second
    voxels = one.only_first if lost else one.only_second
    count = "1 voxel" if voxels == 1 else f"{voxels} voxels"
    return Verdict(VERDICTS[rank], f"slice {one.index + 1}: {count} {'only' if lost else 'not'} in FP32", one.index)


def _rank_of(one: SliceAgreement) -> int:
    if one.patch_mm >= PATCHES_MM[1] or (one.missing > MOSTLY and one.section >= TIP):
        return 2
    return 1 if one.patch_mm >= PATCHES_MM[0] else 0

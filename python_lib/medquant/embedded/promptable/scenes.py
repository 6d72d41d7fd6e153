"""Procedural training images: a seed gives a grey image, its organs and the finer things in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medquant.embedded.promptable.anatomy import Trunk, organ_blobs, rib_fields, spine_fields
from medquant.embedded.promptable.appearance import SCAN_PITCH, Palette, acquire, sample_noise
from medquant.embedded.promptable.shapes import Blob, Camera, Territories, compete
from medquant.embedded.promptable.tessellation import tessellation

SCENE_SIZE = 256


@dataclass(frozen=True)
class Scene:
    """`image` grey values; `organs` and `details` label maps, 0 none; details lie upon organs. All uint8."""

    image: np.ndarray
    organs: np.ndarray
    details: np.ndarray


def make_scene(seed: int | list[int], size: int = SCENE_SIZE) -> Scene:
    """The scene of a seed, arrays of shape (size, size); a pure function of its arguments."""
    rng = np.random.default_rng(seed)
    make = tessellation if rng.random() < 0.12 else body_scene
    return Scene(*make(rng, size))


def body_scene(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, organs and details of a section through a trunk."""
    trunk = Trunk.draw(rng)
    organs = organ_blobs(trunk, rng)
    camera = _choose_view(rng, trunk, organs, size)
    bent = camera.warped(rng, rng.uniform(0.01, 0.06))
    palette = Palette.draw(rng)

    skin_depth = -trunk.outline.field(camera.warped(rng, 0.006))
    cavity = skin_depth > trunk.inner + 0.01 * sample_noise(rng, camera.x, camera.y, exponent=3.5, scale=0.006)
    spine = spine_fields(trunk, rng, camera)
    cavity &= (spine["body"] > 0.008) & (spine["canal"] > 0.03)

    order = rng.uniform(-0.02, 0.02, len(organs))
    fields = [_organ_field(rng, kind, blob, bent) + np.float32(d) for (kind, blob), d in zip(organs, order)]
    won = compete(fields)
    gap = rng.choice([0.0, rng.uniform(0.0, 0.012), rng.uniform(0.0, 0.04)])
    if gap:  # the fat plane between neighbours comes and goes
        gap = gap * (0.6 + sample_noise(rng, camera.x, camera.y, exponent=3.0, scale=0.006))
    inside = cavity & (won.rivalry > gap)
    labels = np.where(inside, won.owner, 0).astype(np.uint8)

    grey = _layers(rng, trunk, palette, camera, skin_depth, cavity)
    details = np.zeros_like(labels)
    for index, (kind, _) in enumerate(organs):
        mask = labels == index + 1
        if mask.any():
            _paint_organ(rng, kind, mask, grey, won, camera, palette)
    _paint_vessels(rng, labels, organs, grey, camera, palette)
    _paint_lesions(rng, labels, details, grey, camera, palette)
    _paint_bones(rng, labels, details, grey, camera, palette, spine, rib_fields(trunk, rng, camera), skin_depth)
    if palette.is_ct and rng.random() < 0.3:  # streaks between dense bones
        streaks = sample_noise(rng, 0.12 * camera.x, camera.y, exponent=1.0, scale=SCAN_PITCH)
        grey += rng.uniform(0.005, 0.03) * streaks
    return acquire(rng, grey, camera.pitch, palette), labels, details


def _choose_view(rng: np.random.Generator, trunk: Trunk, organs: list, size: int) -> Camera:
    """Whole sections and close views around an organ, as the zoom at use gives them."""
    if rng.random() < 0.5:
        half_width = rng.uniform(0.85, 1.5)
        return Camera.look(size, tuple(rng.normal(0, 0.06, 2)), half_width, rng.normal(0, 0.08))
    _, blob = organs[rng.integers(len(organs))]
    half_width = np.clip(blob.long * np.exp(rng.normal(0.6, 0.35)), 0.14, 1.0)
    shift = rng.normal(0, 0.25 * half_width, 2)
    return Camera.look(size, (blob.x + shift[0], blob.y + shift[1]), half_width, rng.normal(0, 0.15))


def _organ_field(rng: np.random.Generator, kind: str, blob: Blob, camera: Camera) -> np.ndarray:
    """The organ's outline with the clefts that cut into it: fissures, the hilum, notches."""
    field = blob.field(camera)
    if kind not in ("liver", "spleen", "stomach", "solid", "kidney"):
        return field
    size = np.sqrt(blob.long * blob.short)
    for _ in range(int(rng.choice([0, 0, 1, 2, 3] if kind == "liver" else [0, 0, 0, 1]))):
        angle = rng.uniform(0, 2 * np.pi)
        x, y = blob.x + 0.9 * blob.short * np.cos(angle), blob.y + 0.9 * blob.short * np.sin(angle)
        cleft = Blob.draw(rng, x, y, size * rng.uniform(0.12, 0.3), aspect=(0.05, 0.5), angle=angle, bend=0.8)
        field = np.maximum(field, -cleft.field(camera))
    return field


def _layers(
    rng: np.random.Generator,
    trunk: Trunk,
    palette: Palette,
    camera: Camera,
    skin_depth: np.ndarray,
    cavity: np.ndarray,
) -> np.ndarray:
    """Air, skin, fat, muscle and what fills the cavity between the organs."""
    fine = sample_noise(rng, camera.x, camera.y, exponent=2.0, scale=rng.uniform(0.003, 0.008))
    muscle = np.float32(palette.soft + 0.5 * palette.spread * rng.standard_normal())
    grey = np.full_like(camera.x, palette.air)
    grey[skin_depth > 0] = muscle
    fat = (skin_depth > trunk.skin) & (skin_depth < trunk.fat + 0.008 * fine)
    grey[fat] = palette.fat + 0.015 * fine[fat]
    wall = (skin_depth >= trunk.fat) & ~cavity
    strands = fine > rng.uniform(1.0, 2.2)
    grey[wall] = np.where(strands, palette.fat, muscle + 0.02 * fine)[wall]
    if trunk.thoracic:
        vessels = np.abs(fine) < 0.08
        filling = np.where(vessels, palette.soft * 0.8, palette.lung + 0.01 * fine)
    else:
        strand = rng.uniform(0, 0.12) * (np.abs(fine) < 0.12)
        filling = palette.fat + strand + 0.015 * fine
        if rng.random() < 0.6:  # small vessels and folds, in clusters
            speck = sample_noise(rng, camera.x, camera.y, exponent=2.5, scale=rng.uniform(0.0012, 0.004))
            patchy = sample_noise(rng, camera.x, camera.y, exponent=3.0, scale=0.006) > rng.uniform(-1, 1)
            specks = patchy & (speck > rng.uniform(0.5, 1.8))
            filling = np.where(specks, palette.organ(rng) + rng.uniform(-0.05, 0.1), filling)
        if rng.random() < 0.1:  # ascites, or a patient without fat: organs float in soft tissue
            filling = palette.fluid + 0.01 * fine
    grey[cavity] = filling[cavity]
    if rng.random() < 0.3 and not trunk.thoracic:
        table = np.abs(camera.y - np.float32(trunk.flat + rng.uniform(0.03, 0.2))) < 0.012
        grey[table & (skin_depth < 0)] = rng.uniform(0.1, 1.0)
    if rng.random() < 0.2:
        _paint_arms(rng, trunk, palette, camera, grey, skin_depth)
    return grey


def _paint_arms(
    rng: np.random.Generator, trunk: Trunk, palette: Palette, camera: Camera, grey: np.ndarray, skin_depth: np.ndarray
) -> None:
    """Arms beside the trunk, each with its bone."""
    size = rng.uniform(0.12, 0.2)
    height = rng.uniform(-0.2, 0.5) * trunk.flat
    for side in (-1, 1):
        arm = Blob.draw(rng, side * (1.05 + size), height, size, aspect=(0.6, 1.0)).field(camera)
        outside = (arm < 0) & (skin_depth < 0)
        grey[outside] = np.where(arm < -0.03, palette.soft, palette.fat)[outside]
        bone = Blob.draw(rng, side * (1.05 + size), height, 0.25 * size, aspect=(0.6, 1.0)).field(camera)
        grey[outside & (bone < 0)] = palette.bone


def _paint_organ(
    rng: np.random.Generator,
    kind: str,
    mask: np.ndarray,
    grey: np.ndarray,
    won: Territories,
    camera: Camera,
    palette: Palette,
) -> None:
    """Fills one organ in place: parenchyma with texture, or a wall around gas, fluid and food."""
    x, y, depth = camera.x[mask], camera.y[mask], won.depth[mask]
    mean = palette.fluid if kind == "fluid" else palette.organ(rng)
    if kind == "vessel" and rng.random() < 0.5:
        mean = palette.soft + rng.uniform(0.05, 0.4)
    texture = rng.uniform(0, 0.03) * sample_noise(rng, x, y, exponent=1.5, scale=rng.uniform(0.002, 0.01))
    if rng.random() < 0.3:
        texture = texture + rng.uniform(0, 0.05) * sample_noise(rng, x, y, exponent=3.0, scale=0.008)
    value = mean + texture
    if kind in ("hollow", "stomach"):
        value = _hollow(rng, value, depth, x, y, palette)
    elif kind == "kidney" and rng.random() < 0.8:
        deepest = float(depth.max())
        enhanced = mean + rng.uniform(-0.05, 0.35)
        value = np.where(depth < deepest * rng.uniform(0.2, 0.45), enhanced + texture, value)
        if rng.random() < 0.2:
            value = np.where(depth > deepest * rng.uniform(0.75, 0.95), palette.fat + texture, value)
    elif rng.random() < 0.15:
        value = np.where(depth < rng.uniform(0.006, 0.02), palette.organ(rng), value)
    grey[mask] = value


def _hollow(
    rng: np.random.Generator,
    value: np.ndarray,
    depth: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    palette: Palette,
) -> np.ndarray:
    """Wall (the given values) and lumen of a hollow organ; gas rises to the front (low y)."""
    folds = rng.uniform(0.3, 0.9) * sample_noise(rng, x, y, exponent=3.0, scale=rng.uniform(0.002, 0.006))
    lumen = depth > rng.uniform(0.006, 0.035) * (1 + folds)
    if not lumen.any() or rng.random() < 0.12:
        return value  # collapsed
    content = palette.fluid + rng.normal(0, 0.04)
    if rng.random() < 0.12:
        content = palette.soft + rng.uniform(0.1, 0.6)  # oral contrast
    food = rng.choice([0.0, 0.02, rng.uniform(0.03, 0.15)], p=[0.4, 0.3, 0.3])
    filling = content + food * sample_noise(rng, x, y, exponent=rng.uniform(0.8, 2.5), scale=rng.uniform(0.003, 0.01))
    if rng.random() < 0.25:  # heavier contents settle
        settled = y > np.quantile(y[lumen], rng.uniform(0.1, 0.9))
        filling = np.where(settled, filling + np.float32(rng.uniform(-0.05, 0.3)), filling)
    if rng.random() < 0.45:
        level = np.quantile(y[lumen], rng.uniform(0.05, 0.95)) + rng.normal(0, 0.01)
        ripple = 0.006 * sample_noise(rng, x, y, exponent=3.0, scale=0.008)
        filling = np.where(y + ripple < level, palette.air, filling)
    elif rng.random() < 0.3:
        bubbles = sample_noise(rng, x, y, exponent=2.5, scale=0.006) > rng.uniform(0.7, 2.0)
        filling = np.where(bubbles, palette.air, filling)
    return np.where(lumen, filling, value)


def _paint_vessels(
    rng: np.random.Generator,
    labels: np.ndarray,
    organs: list,
    grey: np.ndarray,
    camera: Camera,
    palette: Palette,
) -> None:
    """Branching lines of another grey value within parenchyma; they stay part of the organ."""
    if rng.random() < 0.4:
        return
    ridge = np.abs(sample_noise(rng, camera.x, camera.y, exponent=3.2, scale=rng.uniform(0.003, 0.007)))
    patchy = sample_noise(rng, camera.x, camera.y, exponent=3.0, scale=0.006) > rng.uniform(-0.8, 0.8)
    vessel = (ridge < rng.uniform(0.02, 0.09)) & patchy
    offset = rng.choice([-1, 1], p=[0.35, 0.65]) * rng.uniform(0.02, 0.16)
    kinds = np.array([False] + [kind in ("liver", "solid", "spleen") for kind, _ in organs])
    chosen = vessel & (kinds & (rng.random(len(kinds)) < 0.6))[labels]
    grey[chosen] += np.float32(offset)


def _paint_lesions(
    rng: np.random.Generator,
    labels: np.ndarray,
    details: np.ndarray,
    grey: np.ndarray,
    camera: Camera,
    palette: Palette,
) -> None:
    """Up to five round lesions inside organs; each is a detail, and part of its organ."""
    rows, columns = np.nonzero(labels)
    if not rows.size:
        return
    for number in range(1, int(rng.choice([0, 0, 1, 2, 3, 5])) + 1):
        at = rng.integers(rows.size)
        host = labels[rows[at], columns[at]] == labels
        dx, dy = camera.x - camera.x[rows[at], columns[at]], camera.y - camera.y[rows[at], columns[at]]
        radius = np.exp(rng.uniform(np.log(0.015), np.log(0.15)))
        shear = rng.normal(0, 0.3)
        distance = np.sqrt(dx**2 + (dy + np.float32(shear) * dx) ** 2) / np.float32(radius)
        wobble = 1 + 0.12 * sample_noise(rng, camera.x, camera.y, exponent=3.5, scale=radius / 20)
        lesion = host & (distance < wobble)
        details[lesion] = number
        grey[lesion] += np.float32(rng.choice([-1, 1]) * rng.uniform(0.04, 0.22))
        if rng.random() < 0.25:
            grey[lesion & (distance > 0.7 * wobble)] += np.float32(rng.normal(0, 0.1))


def _paint_bones(
    rng: np.random.Generator,
    labels: np.ndarray,
    details: np.ndarray,
    grey: np.ndarray,
    camera: Camera,
    palette: Palette,
    spine: dict[str, np.ndarray],
    ribs: list[np.ndarray],
    skin_depth: np.ndarray,
) -> None:
    """Spine and ribs with a dense rim; the canal and each bone are targets of their own."""
    marrow = palette.marrow + 0.06 * sample_noise(rng, camera.x, camera.y, exponent=1.5, scale=0.004)
    rim = max(rng.uniform(0.006, 0.016), 0.5 * SCAN_PITCH)
    number = int(labels.max())

    def paint(field: np.ndarray, region: np.ndarray) -> None:
        nonlocal number
        if number < 250 and region.any():
            number += 1
            labels[region] = number
            details[region] = 0
            grey[region] = np.where(field < -rim, marrow, palette.bone)[region]

    inside = skin_depth > 0
    paint(spine["arch"], (spine["arch"] < 0) & inside & (spine["body"] >= 0))
    paint(spine["body"], (spine["body"] < 0) & inside)
    canal = (spine["canal"] < 0) & inside & (spine["body"] >= 0)
    if canal.any():
        number += 1
        labels[canal] = number
        details[canal] = 0
        grey[canal] = palette.soft - 0.08
    for rib in ribs:
        paint(rib, (rib < 0) & inside)

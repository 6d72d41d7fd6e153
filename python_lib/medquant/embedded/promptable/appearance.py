"""Grey values of procedural scenes: textures, acquisition blur and noise, bias field, window."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

BANK_SIZE = 512
BANK_FIELDS = 12
#: Pitch of a scanner pixel in body units (the body is about two units wide, 512 pixels across 2.3 units).
SCAN_PITCH = 0.0045


@lru_cache(maxsize=16)
def noise_bank(exponent: float) -> np.ndarray:
    """Periodic unit-variance noise fields with power spectrum 1 / f^exponent: float32 (12, 512, 512).

    They are drawn once from a fixed seed; scenes differ by where and how large they sample them.
    """
    rng = np.random.default_rng([7, int(exponent * 100)])
    frequency = np.hypot(np.fft.fftfreq(BANK_SIZE)[:, None], np.fft.rfftfreq(BANK_SIZE)[None])
    frequency[0, 0] = np.inf
    amplitude = frequency ** (-exponent / 2)
    fields = np.empty((BANK_FIELDS, BANK_SIZE, BANK_SIZE), np.float32)
    for field in fields:
        spectrum = np.fft.rfft2(rng.standard_normal((BANK_SIZE, BANK_SIZE))) * amplitude
        sample = np.fft.irfft2(spectrum, (BANK_SIZE, BANK_SIZE))
        field[:] = (sample - sample.mean()) / sample.std()
    return fields


def sample_noise(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, *, exponent: float, scale: float
) -> np.ndarray:
    """Noise at body coordinates `x`, `y`; one bank pixel spans `scale` body units, exponents go by halves."""
    field = noise_bank(round(2 * exponent) / 2)[rng.integers(BANK_FIELDS)]
    if rng.random() < 0.5:
        field = field.T
    row, column = rng.integers(0, BANK_SIZE, 2)
    rows = (y * (1 / scale) + (row + 4 * BANK_SIZE)).astype(np.int32) & (BANK_SIZE - 1)
    columns = (x * (1 / scale) + (column + 4 * BANK_SIZE)).astype(np.int32) & (BANK_SIZE - 1)
    return field[rows, columns]


def white_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Unit white noise of shape (size, size), size at most 512."""
    field = noise_bank(0.0)[rng.integers(BANK_FIELDS)]
    row, column = rng.integers(0, BANK_SIZE - size + 1, 2)
    sample = field[row : row + size, column : column + size]
    sample = sample[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    return sample.T if rng.random() < 0.5 else sample


@dataclass(frozen=True)
class Palette:
    """Grey values (0..1 after a soft-tissue window) of the tissues of one scene."""

    soft: float
    spread: float
    fat: float
    air: float
    fluid: float
    bone: float
    marrow: float
    lung: float
    is_ct: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Palette:
        """Two scenes of three follow CT; the others any order of tissue values, as in MR."""
        if rng.random() < 0.65:
            soft = rng.uniform(0.42, 0.66)
            return cls(
                soft=soft,
                spread=rng.uniform(0.03, 0.13),
                fat=rng.uniform(0.06, 0.24),
                air=0.0,
                fluid=soft - rng.uniform(0.03, 0.16),
                bone=rng.uniform(0.8, 1.3),
                marrow=rng.uniform(0.55, 1.0),
                lung=rng.uniform(-0.1, 0.03),
                is_ct=True,
            )
        soft = rng.uniform(0.25, 0.7)
        fat, fluid, bone, marrow, lung = rng.uniform(0.0, 1.0, 5)
        return cls(
            soft=soft,
            spread=rng.uniform(0.06, 0.22),
            fat=fat,
            air=rng.uniform(0, 0.08),
            fluid=fluid,
            bone=bone * 0.4,
            marrow=marrow,
            lung=lung * 0.2,
            is_ct=False,
        )

    def organ(self, rng: np.random.Generator) -> float:
        """The mean of one parenchymal organ, near the scene's soft-tissue value."""
        heavy = 2.2 if rng.random() < 0.2 else 1.0
        return float(self.soft + heavy * self.spread * rng.standard_normal())


def acquire(rng: np.random.Generator, grey: np.ndarray, pitch: float, palette: Palette) -> np.ndarray:
    """Turns ideal grey values (size, size) of pixel pitch `pitch` (body units) into a scan, uint8.

    Blur and noise keep their size in the body, so that a zoomed view is as soft as an enlarged scan is.
    """
    size = grey.shape[0]
    magnification = SCAN_PITCH / pitch
    grey = np.clip(grey, -0.5, 1.6)
    blur = np.hypot(rng.uniform(0.35, 0.7), rng.uniform(0.4, 1.3) * magnification)
    grey = ndimage.gaussian_filter(grey, blur, mode="nearest", truncate=3.0)

    axis = np.linspace(-1, 1, size, dtype=np.float32)
    if not palette.is_ct or rng.random() < 0.15:
        gx, gy, gxy, gxx = rng.normal(0, 0.18 if not palette.is_ct else 0.03, 4)
        row, column = axis[:, None], axis[None]
        grey = grey * np.exp(gx * column + gy * row + gxy * column * row + gxx * (column**2 - row**2))

    level = np.exp(rng.uniform(np.log(0.006), np.log(0.09)))
    noise = white_noise(rng, size)
    width = rng.uniform(0.3, 1.1) * magnification
    if width > 0.45:
        noise = ndimage.gaussian_filter(noise, width, mode="wrap", truncate=3.0) * (3.2 * max(width, 0.6))
    if palette.is_ct or rng.random() < 0.5:
        grey = grey + level * noise
    else:  # Rician: the magnitude of a complex signal with noise in both parts
        grey = np.hypot(grey + level * noise, level * white_noise(rng, size))

    if palette.is_ct:
        width, centre = rng.uniform(0.85, 1.2), 0.5 + rng.normal(0, 0.05)
    else:
        low, high = np.percentile(grey, [rng.uniform(0.1, 2), rng.uniform(97, 99.9)])
        width, centre = max(high - low, 0.1), (high + low) / 2
    grey = np.clip((grey - centre) / width + 0.5, 0, 1)
    if rng.random() < 0.4:
        grey = grey ** np.exp(rng.normal(0, 0.25))
    if rng.random() < (0.06 if palette.is_ct else 0.3):
        grey = 1 - grey
    return (grey * 255 + 0.5).astype(np.uint8)

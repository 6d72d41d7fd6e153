"""From painted parts to an image: partial volume, the scanner's blur and noise, and its table."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from medquant.embedded.phantom import materials
from medquant.embedded.phantom.body import Body, Part
from medquant.embedded.phantom.fields import SmoothField
from medquant.progress import Progress

AIR = -1000.0


class Interpolation:
    """Linear interpolation of planes from coarse to fine axes, restricted to a box."""

    def __init__(self, coarse: tuple[np.ndarray, np.ndarray], fine: tuple[np.ndarray, np.ndarray]):
        self.place = []
        for knots, wanted in zip(coarse, fine):
            where = np.interp(wanted, knots, np.arange(len(knots)))
            base = np.minimum(where.astype(int), len(knots) - 2)
            self.place.append((base, (where - base).astype(np.float32)))

    def window(self, box: tuple[slice, slice]) -> tuple[slice, slice]:
        """The fine box that a coarse box covers."""
        return tuple(
            slice(*np.searchsorted(base, (part.start, part.stop - 1))) for (base, _), part in zip(self.place, box)
        )

    def __call__(self, plane: np.ndarray, box: tuple[slice, slice], window: tuple[slice, slice]) -> np.ndarray:
        (rows, down), (columns, across) = self.place
        rows, down = rows[window[0]] - box[0].start, down[window[0], None]
        columns, across = columns[window[1]] - box[1].start, across[window[1]]
        tall = plane[rows] * (1 - down) + plane[rows + 1] * down
        return tall[:, columns] * (1 - across) + tall[:, columns + 1] * across


def paint(
    body: Body, fine_axes, pixel: float, rng: np.random.Generator, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Noiseless HU (float32) and labels (uint8), both (k, j, i), on the fine axes (z, y, x) in the space's mm."""
    shape = tuple(len(axis) for axis in fine_axes)
    image, labels = np.full(shape, AIR, np.float32), np.zeros(shape, np.uint8)
    samplers = [SmoothField(rng, pitch).sampler(*fine_axes) for pitch in (2.4, 6.0, 17.0)]
    enlarge = Interpolation(body.straight_axes[1:], fine_axes[1:])
    windows = [enlarge.window(part.shape.box[1:]) for part in body.parts]
    y = np.broadcast_to(fine_axes[1][:, None].astype(np.float32), shape[1:])
    for k in range(shape[0]):
        progress.report(k / shape[0], "Painting tissues")
        textures = [sampler(k) for sampler in samplers]
        for part, window in zip(body.parts, windows):
            _paint_part(part, window, k, enlarge, image[k], labels[k], (*textures, y), pixel)
    return image, labels


def _paint_part(part: Part, window, k: int, enlarge: Interpolation, image, labels, planes, pixel: float) -> None:
    box = part.shape.box
    inner = k - box[0].start
    if not box[0].start <= k < box[0].stop or part.shape.distance[inner].min() > pixel:
        return
    # Only the rows and columns where there is something to paint.
    near = part.shape.distance[inner] < 2 * pixel + 1
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    tight = tuple(
        slice(b.start + max(n[0] - 1, 0), min(b.start + n[-1] + 2, b.stop)) for b, n in zip(box[1:], (rows, columns))
    )
    window = enlarge.window(tight)
    source = (inner, *(slice(t.start - b.start, t.stop - b.start) for t, b in zip(tight, box[1:])))
    distance = enlarge(part.shape.distance[source], tight, window)
    if not distance.size:
        return
    auxiliary = None if part.auxiliary is None else enlarge(part.auxiliary[source], tight, window)
    textures = materials.Textures(*(plane[window] for plane in planes))
    share = materials.ramp(-distance, -pixel / 2, pixel / 2)  # partial volume at the surface
    patch = image[window]
    patch += share * (part.material(distance, textures, auxiliary) - patch)
    labels[window][distance < 0] = part.label


def add_table(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> None:
    """The couch: a thin curved shell filled with foam, under the patient; axes in mm. Works in place."""
    rows = np.flatnonzero((image > -500).any((0, 2)))
    if not len(rows):
        return
    depth = y[:, None] - (y[rows[-1]] + 4 - 0.0009 * x[None, :] ** 2)
    inside = materials.ramp(-np.abs(depth - 9) + 9, -0.5, 0.5) * materials.ramp(-np.abs(x)[None, :] + 205, 0, 1)
    shell = materials.ramp(np.abs(depth - 9), 6.6, 7.4)
    image += np.where(image < -900, inside * (60 + 1150 * shell), 0).astype(np.float32)


def blur(image: np.ndarray, spacing: tuple[float, float, float], progress: Progress) -> np.ndarray:
    """Point spread of about 1.1 mm full width in the plane, and a little overlap of slices."""
    for axis, sigma in ((1, 0.47 / spacing[1]), (2, 0.47 / spacing[2]), (0, min(1.0 / spacing[0], 0.8))):
        progress.report(0.0, "Scanning")
        if sigma > 0.2:
            image = gaussian_filter1d(image, sigma, axis=axis, truncate=3)
    return image


def add_noise(image: np.ndarray, spacing, level: float, rng: np.random.Generator, progress: Progress) -> None:
    """Noise with the power spectrum of filtered back-projection: a ramp, apodised. Works in place.

    Riederer, Pelc and Chesler, "The noise power spectrum in computed X-ray tomography", Phys Med Biol 1978.
    """
    rows, columns = image.shape[1:]
    down = np.fft.fftfreq(rows, spacing[1])[:, None]
    across = np.fft.rfftfreq(columns, spacing[2])[None, :]
    frequency = np.hypot(down, across)
    power = (frequency + 0.02) * np.exp(-((frequency / 0.42) ** 2))
    response = np.sqrt(power / power.mean()).astype(np.float32)
    for k, plane in enumerate(image):
        progress.report(k / len(image), "Scanning")
        white = rng.standard_normal(plane.shape, dtype=np.float32)
        noise = np.fft.irfft2(np.fft.rfft2(white) * response, s=plane.shape)
        # More photons reach the detector through air than through the middle of the body.
        tissue = gaussian_filter1d(
            gaussian_filter1d((plane > -500).astype(np.float32), 40 / spacing[1], 0), 40 / spacing[2], 1
        )
        plane += (level * (0.4 + 0.6 * tissue) * noise).astype(np.float32)

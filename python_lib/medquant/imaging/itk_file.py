"""NIfTI, NRRD and MetaImage files, through SimpleITK."""

from __future__ import annotations

import gzip
import math
import shutil
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medquant.errors import Notice, UserError
from medquant.imaging.straighten import read_straightened

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
"""What `read_image` understands."""


def known_suffix(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> str:
    """The suffix of `path` among `suffixes` (longest first, any case), "" where there is none."""
    return next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), "")


def affine_of(image: sitk.Image) -> np.ndarray:
    """4x4 matrix from the index (i, j, k, 1) to LPS millimetres."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def image_of(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """A SimpleITK image of an array (k, j, i) on the grid of a 4x4 LPS matrix. The array is copied."""
    if array.dtype == bool:
        array = array.astype(np.uint8)
    image = sitk.GetImageFromArray(array)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def read_image(
    path: Path, *, component: int | None = None, frame: int | None = None, notice: bool = True
) -> sitk.Image:
    """A scalar three-dimensional image from a file; `component` and `frame` count from 0, `notice` as in `load_image`.

    Raises `UserError` as `load_image` does, and for colour and complex voxels and for more or fewer than three
    dimensions, where nothing was picked.
    """
    return _as_scalar_3d(load_image(path, notice=notice), path, component, frame)


def load_image(path: Path, *, notice: bool = True) -> sitk.Image:
    """Whatever a NIfTI, NRRD or MetaImage file holds.

    Axes that are a rounding error off right angles are put at right angles, with a `Notice` unless `notice` is False:
    of a scan that lies on the same grid it was said already. Raises `UserError` for a file that is missing, unreadable,
    cut short or of an unknown format.
    """
    check_readable(path)
    if not known_suffix(path):
        raise UserError(
            f"{path.name} is not a scan that can be read here. "
            f"Give a NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd) file, or a DICOM folder."
        )
    with _staged(path) as staged:
        try:
            return sitk.ReadImage(str(staged))
        except RuntimeError as error:
            image = _straightened(path, staged, notice) if "orthonormal" in str(error) else None
            if image is None:
                raise _unreadable(path, str(error)) from error
            return image


def _straightened(path: Path, staged: Path, notice: bool) -> sitk.Image | None:
    try:
        found = read_straightened(staged)
    except OSError as error:
        raise _no_room(path, tempfile.gettempdir(), error) from error
    except RuntimeError as error:
        raise _unreadable(path, str(error)) from error
    if found is None:
        return None
    image, moved = found
    if notice:
        warnings.warn(
            f"The axes of {path.name} are not quite at right angles. It was read on the nearest grid whose axes are; "
            f"no voxel moved by more than {math.ceil(100 * moved) / 100:.2f} of its size.",
            Notice,
            stacklevel=2,
        )
    return image


def check_readable(path: Path) -> None:
    """Raise `UserError` where there is no such file or it may not be read."""
    if not path.exists():
        raise UserError(f"There is no file {path}. Check the path for a typing error.")
    try:
        with path.open("rb") as stream:
            if not stream.read(1):
                raise UserError(f"{path.name} is empty. Copy or export it again.")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}. Check that you may open this file.") from error


@contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """The file that SimpleITK should open for `path`.

    SimpleITK reads `scan.nii` when asked for `scan.nii.gz` beside it, and fills a NIfTI file that was cut short
    with zeros, without a word. So compressed NIfTI is unpacked alone into a private folder, which also checks its
    checksum, and the length of every NIfTI file is compared with its header.
    """
    suffix = known_suffix(path)
    if suffix == ".nii":
        _check_nifti_length(path, path.name)
    if suffix != ".nii.gz":
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="medquant-") as folder:
        unpacked = Path(folder) / "scan.nii"
        with unpacked.open("wb") as target:
            try:
                with gzip.open(path) as source:
                    shutil.copyfileobj(source, target, 1 << 20)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise _cut_short(path.name) from error
            except OSError as error:
                raise _no_room(path, folder, error) from error
        _check_nifti_length(unpacked, path.name)
        yield unpacked


def _check_nifti_length(path: Path, shown_name: str) -> None:
    """Raise `UserError` unless the file is NIfTI-1 and holds all voxels that its header promises."""
    with path.open("rb") as stream:
        header = stream.read(348)
    sizes = {header[:4]: order for order in "<>" if header[:4] in (struct.pack(order + "i", n) for n in (348, 540))}
    if len(header) < 348 or not sizes:
        raise UserError(f"{shown_name} is not a NIfTI file or is damaged. Copy or export it again.")
    order = sizes[header[:4]]
    if struct.unpack_from(order + "i", header)[0] == 540:
        raise UserError(f"{shown_name} is NIfTI-2, which SimpleITK does not read. Save it as NIfTI-1 or NRRD.")
    count, *lengths = struct.unpack_from(order + "8h", header, 40)
    bits = struct.unpack_from(order + "h", header, 72)[0]
    offset = struct.unpack_from(order + "f", header, 108)[0]
    if not 1 <= count <= 7 or min(lengths[:count]) < 1 or bits < 1 or not 0 <= offset < 1e9:
        raise UserError(f"The header of {shown_name} is damaged. Copy or export it again.")
    if path.stat().st_size < int(offset) + math.prod(lengths[:count]) * bits // 8:
        raise _cut_short(shown_name)


def _cut_short(name: str) -> UserError:
    return UserError(f"{name} is cut short or damaged: not all of its voxels are there. Copy or export it again.")


def _no_room(path: Path, folder: str, error: OSError) -> UserError:
    return UserError(
        f"Cannot unpack {path.name} into {folder}: {error.strerror or error}. "
        f"Free some space there or point TMPDIR to another disk."
    )


def _unreadable(path: Path, reason: str) -> UserError:
    if "orthonormal" in reason:
        return UserError(
            f"The axes of {path.name} are not at right angles (a sheared grid), which NIfTI readers refuse. "
            f"Resample it onto right-angled axes first."
        )
    return UserError(f"{path.name} cannot be read: it is damaged or not what its name says. Copy or export it again.")


def _as_scalar_3d(image: sitk.Image, path: Path, component: int | None, frame: int | None) -> sitk.Image:
    """Pick one component and one frame, or say what was found."""
    size = " x ".join(str(n) for n in image.GetSize())
    if "complex" in image.GetPixelIDTypeAsString():
        raise UserError(f"{path.name} holds complex numbers ({size}). Save its magnitude as an image and read that.")
    count = image.GetNumberOfComponentsPerPixel()
    if count > 1:
        kind = {3: "RGB colour or a vector", 4: "RGBA colour or a vector"}.get(count, "a vector or a time series")
        found = f"{path.name} has {count} values per voxel ({size}; {kind})"
        image = sitk.VectorIndexSelectionCast(image, _pick(component, count, "component", found))
    elif component is not None and component != 0:
        raise UserError(f"{path.name} has one value per voxel, there is no component {component}. Leave component out.")
    if image.GetDimension() == 4:
        count = image.GetSize()[3]
        found = f"{path.name} is four-dimensional ({size}), {count} frames of {' x '.join(size.split(' x ')[:3])}"
        chosen = 0 if count == 1 and frame is None else _pick(frame, count, "frame", found)
        return image[:, :, :, chosen]
    if image.GetDimension() != 3:
        raise UserError(f"{path.name} has {image.GetDimension()} dimensions ({size}). Give a three-dimensional scan.")
    if frame is not None and frame != 0:
        raise UserError(f"{path.name} has one frame, there is no frame {frame}. Leave frame out.")
    return image


def _pick(chosen: int | None, count: int, what: str, found: str) -> int:
    if chosen is None:
        raise UserError(f"{found}, and one is needed. Pick it with {what}=0 to {what}={count - 1}.")
    if not 0 <= chosen < count:
        raise UserError(f"{found}; {what}={chosen} does not exist. Pick {what}=0 to {what}={count - 1}.")
    return chosen

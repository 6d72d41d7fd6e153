"""MedSAM's published weights: fetched once into the user's cache, resumable, checked, then used without a network."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from medquant.errors import MedQuantError, UserError
from medquant.files import sha256_of_file
from medquant.progress import Progress

MEDSAM_REPOSITORY = "wanglab/medsam-vit-base"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ORIGINAL_FILE = "medsam_vit_b.pth"


def cache_folder() -> Path:
    """The folder in the user's cache where MedSAM's weights are kept; files put there by hand are used as well."""
    return user_cache_path("medquant", appauthor=False) / MEDSAM_REPOSITORY.replace("/", "--")


def medsam_folder(folder: Path | None = None) -> Path | None:
    """What of MedSAM is on this machine: the cache folder, the authors' own file inside it, or None."""
    folder = folder or cache_folder()
    if (folder / "config.json").is_file() and any((folder / name).is_file() for name in _WEIGHTS):
        return folder
    original = folder / ORIGINAL_FILE
    return original if original.is_file() else None


def download_medsam(
    *, progress: Progress | None = None, folder: Path | None = None, endpoint: str | None = None
) -> Path:
    """Fetch MedSAM (375 MB) where it is not on this machine yet, and return what `medsam_folder` finds.

    An interrupted download goes on where it stopped. Every file is compared with the checksum that the Hub states,
    and gets its name only after that. Raises `UserError` without a network, with the way to get it by hand.
    """
    folder = folder or cache_folder()
    if found := medsam_folder(folder):
        return found
    progress = progress or Progress()
    progress.report(0.0, f"Asking for {MEDSAM_REPOSITORY}")
    with _explaining(folder):
        from huggingface_hub.errors import EntryNotFoundError

        folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(folder, progress):
            if found := medsam_folder(folder):
                return found
            try:
                _fetch(folder, _WEIGHTS[0], progress.span(0.0, 0.99), endpoint)
            except EntryNotFoundError:
                _fetch(folder, _WEIGHTS[1], progress.span(0.0, 0.99), endpoint)
            _fetch(folder, "config.json", progress.span(0.99, 1.0), endpoint)
    return folder


@contextmanager
def _alone_in(folder: Path, progress: Progress) -> Iterator[None]:
    """Wait until no other process fetches into `folder`: two would append to one part."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            progress.report(0.0, "Waiting for another process that fetches the same")
    try:
        yield
    finally:
        lock.release()


def _fetch(folder: Path, name: str, progress: Progress, endpoint: str | None) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    # The Hub's own downloader throws a part away when it is interrupted, so the part is kept here.
    # No token: the file is public, and a token must not travel to the server that stores it.
    url = hf_hub_url(MEDSAM_REPOSITORY, name, endpoint=endpoint)
    remote = get_hf_file_metadata(url, token=False, endpoint=endpoint)
    part = folder / f"{name}.{remote.etag[:12]}.part"
    with part.open("ab") as stream:
        http_get(
            remote.location,
            stream,
            resume_size=part.stat().st_size,
            expected_size=remote.size,
            headers=build_hf_headers(token=False, library_name="medquant"),
            tqdm_class=_reporting_to(progress, name),
        )
    if not _is_whole(part, remote.etag):
        part.unlink()
        raise UserError(f"{name} arrived damaged and was thrown away. Try again.")
    part.replace(folder / name)


def _is_whole(file: Path, etag: str) -> bool:
    """Whether the file's content has the checksum that the Hub gives: SHA-256 of large files, git's of small ones."""
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        return sha256_of_file(file) == etag
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == etag


def _reporting_to(progress: Progress, name: str) -> type:
    """A silent tqdm class that tells `progress` how far the download is, and stops where the user asks to."""
    from tqdm import tqdm

    class Reporter(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})
            self.done, self.whole = options.get("initial") or 0, options.get("total") or 0

        def update(self, n: float | None = 1) -> None:
            self.done += n or 0
            share = self.done / self.whole if self.whole else 0.0
            progress.report(share, f"Fetching {name}: {self.done / 1e6:.0f} of {self.whole / 1e6:.0f} MB")

    return Reporter


@contextmanager
def _explaining(folder: Path) -> Iterator[None]:
    try:
        yield
    except MedQuantError:
        raise
    except PermissionError as error:
        raise UserError(
            f"Cannot write to {folder}. Make it writable, or give MedSAM's weights by their path."
        ) from error
    except OSError as error:
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            full = "The disk" if error.errno == errno.ENOSPC else "Your disk quota"
            raise UserError(
                f"{full} of {folder} is used up. Free 400 MB; the download goes on where it stopped."
            ) from error
        raise _by_hand(folder, error) from error
    except Exception as error:  # the client's network errors have other names in every version
        raise _by_hand(folder, error) from error


def _by_hand(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"MedSAM could not be fetched from huggingface.co ({type(error).__name__}). Get config.json and "
        f"model.safetensors from https://huggingface.co/{MEDSAM_REPOSITORY} on another machine, or the authors' "
        f"{ORIGINAL_FILE}, and put them in {folder}; or give the file's path as weights. "
        "The model 'embedded' needs no download."
    )

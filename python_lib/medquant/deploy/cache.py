"""Compiled models kept on disk, so that a second start does not compile again.

A cache may always be missing, full, damaged or read-only: reading then finds nothing and writing does nothing, and the
caller compiles. Entries are written beside and moved into place, so two processes at once see whole entries only.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import medquant
from medquant.cache_place import cache_folder  # noqa: F401

LIMIT_BYTES = 4 * 2**30
"""What the compiled models of one user may take on disk; the ones used longest ago go first."""
_SUFFIX = ".compiled"
_MAGIC = b"MQCACHE1"


@dataclass(frozen=True)
class CompiledCache:
    """Bytes by key in a folder of bounded size."""

    folder: Path
    limit_bytes: int = LIMIT_BYTES

    def read(self, key: str) -> bytes | None:
        """What was written under `key`; None where there is nothing whole, and a damaged entry is removed."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        head, body = data[: len(_MAGIC) + 4], memoryview(data)[len(_MAGIC) + 4 :]
        if head != _MAGIC + zlib.crc32(body).to_bytes(4, "little"):
            self.drop(key)
            return None
        with suppress(OSError):
            os.utime(path)  # the age of an entry is the time since its last use
        return bytes(body)

    def write(self, key: str, data: bytes) -> bool:
        """Keep `data`; False where the folder cannot be written or the entry exceeds the limit."""
        if len(data) > self.limit_bytes:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".writing-", dir=self.folder)
        except OSError:
            return False
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(_MAGIC + zlib.crc32(data).to_bytes(4, "little"))
                stream.write(data)
            temporary.replace(self._path(key))
        except OSError:
            return False
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        self._shrink()
        return True

    def drop(self, key: str) -> None:
        """Remove an entry, if it is there."""
        with suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def size_bytes(self) -> int:
        """What all entries take on disk."""
        return sum(size for _, size, _ in self._entries())

    def count(self) -> int:
        """How many models are kept."""
        return len(self._entries())

    def clear(self) -> int:
        """Remove all entries, and what an interrupted writer left; returns the bytes freed."""
        freed = 0
        left_over = list(self.folder.glob(".writing-*")) if self.folder.is_dir() else []
        for path in [*(path for _, _, path in self._entries()), *left_over]:
            with suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                freed += size
        return freed

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(time of last use, bytes, path), oldest first."""
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):  # another process may remove it meanwhile
                state = path.stat()
                found.append((state.st_mtime, state.st_size, path))
        return sorted(found)

    def _shrink(self) -> None:
        entries = self._entries()
        held = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if held <= self.limit_bytes:
                return
            with suppress(OSError):
                path.unlink()
                held -= size


def fingerprint(module: nn.Module, *facts: object) -> str:
    """A key for `module` compiled under `facts`: it changes with every tensor, setting and class of the module.

    Settings are the plain attributes of its submodules (numbers, text, tuples of them).
    """
    digest = hashlib.sha256(repr((medquant.__version__, torch.__version__, facts)).encode())
    digest.update(_converters())
    for name, part in module.named_modules(remove_duplicate=False):
        plain = {key: value for key, value in vars(part).items() if _is_plain(value)}
        kind = type(part)
        digest.update(repr((name, kind.__module__, kind.__qualname__, sorted(plain.items()))).encode())
        digest.update(_code_of(getattr(kind, "forward", None)))
        held = {**part._parameters, **part._buffers}
        held |= {key: value for key, value in vars(part).items() if isinstance(value, torch.Tensor)}
        for key, tensor in held.items():
            if tensor is not None:
                digest.update(repr((key, tensor.dtype, tuple(tensor.shape))).encode())
                flat = tensor.detach().cpu().contiguous().flatten()
                digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def _code_of(function: Any) -> bytes:
    """What a forward pass does, as far as its own code tells: a network edited in a notebook is another one."""
    code = getattr(inspect.unwrap(function) if callable(function) else None, "__code__", None)
    if code is None:
        return b""
    constants = [constant for constant in code.co_consts if _is_plain(constant)]
    return code.co_code + repr((constants, code.co_names)).encode()


@lru_cache(maxsize=1)
def _converters() -> bytes:
    """A digest of the code that makes programs of networks: what an earlier one compiled is not read by a later one."""
    digest, package = hashlib.sha256(), Path(medquant.__file__).parent
    for room in (package, package / "deploy", package / "models"):
        for path in sorted(room.glob("*.py")):
            digest.update(path.read_bytes())
    return digest.digest()


def _is_plain(value: object) -> bool:
    if is_dataclass(value) and not isinstance(value, type):
        return all(_is_plain(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, (tuple, list)):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str))

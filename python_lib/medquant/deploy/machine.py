"""What this machine is, in plain words: system, processor, memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

_MEANINGS = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512_f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AMX int8": ("amx_int8",),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "NEON dot product": ("dot",),
    "int8 matrix products": ("i8mm",),
}
"""What it is called here, and the names of the capabilities in `torch.cpu.get_capabilities` that it stands for."""
_FAST_INTEGERS = ("VNNI", "AMX int8", "NEON dot product", "int8 matrix products")


@dataclass(frozen=True)
class Machine:
    """System, processor and memory, as far as they tell."""

    system: str
    python: str
    processor: str
    cores: int
    """Physical cores."""
    threads: int
    """Logical cores that this process may use."""
    features: tuple[str, ...]
    """Instructions that matter here: "AVX2", "AVX-512", "VNNI", "AMX int8", "bf16" ..."""
    memory_mb: float
    free_mb: float
    gpus: tuple[str, ...]
    """GPUs that PyTorch can use."""

    @classmethod
    def here(cls) -> Machine:
        """This machine."""
        memory = psutil.virtual_memory()
        threads = _threads()
        return cls(
            system=f"{platform.system()} {platform.release()}, {platform.machine()}",
            python=platform.python_version(),
            processor=_processor_name() or platform.processor() or platform.machine(),
            cores=min(psutil.cpu_count(logical=False) or threads, threads),
            threads=threads,
            features=features(),
            memory_mb=memory.total / 1e6,
            free_mb=memory.available / 1e6,
            gpus=_gpus(),
        )

    @property
    def has_fast_integers(self) -> bool:
        """Whether the processor multiplies 8-bit integers several times faster than it does floating point."""
        return any(feature in self.features for feature in _FAST_INTEGERS)

    def integers(self) -> str:
        """In a sentence, what 8-bit integers gain on this processor."""
        found = [feature for feature in _FAST_INTEGERS if feature in self.features]
        if found:
            return f"8-bit integers are fast on this processor ({', '.join(found)})."
        if "AVX2" in self.features:
            return "8-bit integers gain little on this processor: it has AVX2, but not VNNI."
        return "8-bit integers gain nothing on this processor: it has no instructions for them."

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            **asdict(self),
            "features": list(self.features),
            "gpus": list(self.gpus),
            "fast_integers": self.has_fast_integers,
        }


def _threads() -> int:
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def features() -> tuple[str, ...]:
    """The instructions of this processor that matter here, by the names of `_MEANINGS`."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        able = torch.cpu.get_capabilities()
        return tuple(name for name, keys in _MEANINGS.items() if any(able.get(key) is True for key in keys))
    # Older versions of PyTorch name the widest instructions only, and tell of VNNI with AVX-512 by itself.
    level = torch.backends.cpu.get_cpu_capability()
    found = {"AVX512": ("AVX2", "AVX-512"), "AVX2": ("AVX2",)}.get(level, ())
    return (*found, "VNNI") if getattr(torch.cpu, "_is_vnni_supported", bool)() else found


def _gpus() -> tuple[str, ...]:
    import torch

    if torch.cuda.is_available():
        return tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    return ("Apple GPU",) if torch.backends.mps.is_available() else ()


def _processor_name() -> str:
    """The processor's name as the system tells it; empty where it does not."""
    with suppress(OSError, subprocess.SubprocessError, StopIteration):
        if sys.platform == "linux":
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
            return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
        if sys.platform == "win32":
            import winreg

            place = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, place) as key:
                return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    return ""

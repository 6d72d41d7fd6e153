"""What this machine is, and what is kept on it."""

from __future__ import annotations

from typing import Any

from medquant.worker.work import Work


def machine(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """The machine, the runtimes, and both in one line."""
    from medquant.deploy.machine import Machine
    from medquant.deploy.runtime import RUNTIMES
    from medquant.evaluation import wording

    here = Machine.here()
    runtimes = [name for name, runtime in RUNTIMES.items() if _version(runtime)]
    parts = [
        f"{here.cores} core{'s' if here.cores > 1 else ''}, {wording.memory(here.memory_mb)}",
        *here.gpus,
        "fast 8-bit integers" if here.has_fast_integers else "8-bit integers gain little",
        f"runtimes: {', '.join(map(wording.runtime, runtimes))}",
    ]
    return {"machine": here.to_dict(), "runtimes": runtimes, "text": "; ".join(parts)}


def cache(params: dict[str, Any], work: Work) -> dict[str, Any]:
    """What is kept on disk; with `clear` what was compiled goes first, downloads stay."""
    from medquant.deploy.kept import clear_kept, kept
    from medquant.evaluation import wording

    freed = clear_kept() if params.get("clear") else None
    entries = kept()
    told = [f"{entry.title.lower()}: {wording.size(entry.bytes) if entry.count else 'none'}" for entry in entries]
    return {
        "entries": [entry.to_dict() for entry in entries],
        "folder": str(entries[0].folder),
        "freed_bytes": freed,
        "text": "; ".join(told),
    }


def _version(runtime: Any) -> str | None:
    try:
        return runtime.version()
    except Exception:  # a runtime that is broken is not there
        return None

"""Cells on a Ray cluster: a task for each; a task whose worker is lost runs again on another."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from medquant.bench.cell import BenchmarkCell
from medquant.bench.running import Outcome, attempt
from medquant.cache_place import benchmark_folder
from medquant.errors import Cancelled, UserError, first_line, last_line
from medquant.progress import Progress

SECONDS_BETWEEN_CHECKS, SECONDS_TO_ANSWER = 1.0, 10.0


@dataclass(frozen=True)
class OnRay:
    """Runs cells on an existing cluster.

    Every machine of it needs medquant with the extra "cluster", and the files of weights and cases under the paths
    given here. A task takes `threads` processors and `gpus` GPUs; it computes on the GPU where it has one. Quantized
    models are kept in the cache of the machine that made them.
    """

    address: str
    """ "auto", "HOST:PORT", or "ray://HOST:PORT"."""
    gpus: float = 0.0
    threads: int = 1
    retries: int = 3
    """Times that a cell whose worker was lost runs again."""

    @property
    def device(self) -> str:
        """What a task computes on."""
        return "cuda" if self.gpus else "cpu"

    def __call__(self, cells: Sequence[BenchmarkCell], progress: Progress) -> Iterator[tuple[BenchmarkCell, Outcome]]:
        """Rows as they come. Raises `UserError` where there is no Ray, no cluster, or no room on it; `Cancelled`."""
        if not cells:
            return
        ray = _connected(self.address)
        try:
            self.require_room(ray.nodes())
            task = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=self.retries)(_run_anywhere)
            waiting = {task.remote(cell, self.device, self.threads, cell.code()): cell for cell in cells}
            progress.report(0.0, f"{len(cells)} cells on {len(ray.nodes())} machines")
            while waiting:
                done, _ = ray.wait(list(waiting), timeout=SECONDS_BETWEEN_CHECKS)
                for reference in done:
                    cell = waiting.pop(reference)
                    progress.report(1 - len(waiting) / len(cells), cell.describe())
                    yield cell, _outcome(ray, reference)
                progress.check()
        except Cancelled:
            for reference in waiting:
                ray.cancel(reference, force=True)
            raise
        finally:
            ray.shutdown()

    def require_room(self, nodes: Sequence[dict[str, Any]]) -> None:
        """Raise `UserError` where no node that is there now can hold a task: Ray would wait for one, perhaps for ever.

        What a cluster with an autoscaler could start is not known: Ray has no public word for it.
        """
        rooms = [(one.get("CPU", 0), one.get("GPU", 0)) for one in (n["Resources"] for n in nodes if n["Alive"])]
        if any(processors >= self.threads and gpus >= self.gpus for processors, gpus in rooms):
            return
        processors, gpus = max(rooms, default=(0, 0), key=lambda room: room[::-1] if self.gpus else room)
        raise UserError(
            f"No machine that is in the cluster now has {self.threads} processors and {self.gpus:g} GPUs for a task; "
            f"the largest has {processors:g} and {gpus:g}. Give no more than that with --threads and --gpus, "
            "or start a larger one first."
        )


def _run_anywhere(cell: BenchmarkCell, device: str, threads: int, code: str) -> Outcome:
    if cell.code() != code:  # its row would be kept under the key of other code
        return UserError(
            f"{socket.gethostname()} has another version of medquant, or of a library that computes, than the program "
            "that was started. Install the same ones on every machine."
        )
    return attempt(cell, benchmark_folder(), device=device, threads=threads)


def _outcome(ray: Any, reference: Any) -> Outcome:
    try:
        return ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        return UserError(
            f"Its worker was lost every time ({type(error).__name__}). Give workers more memory, or fewer --threads."
        )
    except Exception as error:  # a task that could not begin or end there: no medquant, another Python
        return UserError(
            f"Its task failed with {type(error).__name__}: {last_line(error)}. "
            "See that every machine has medquant with the extra 'cluster'."
        )


def _connected(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError("Ray is not installed here. Install it with: pip install './python_lib[cluster]'") from error
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, TimeoutError, socket.gaierror) as error:  # nobody answers
        raise UserError(
            f"There is no Ray cluster at {address} ({type(error).__name__}). Start one with `ray start --head`, "
            "or correct --ray."
        ) from error
    except Exception as error:  # other versions of Ray or Python, connected already
        raise UserError(
            f"Ray could not connect to {address} ({type(error).__name__}: {first_line(error)}). See that every machine "
            "has the same versions of Ray and Python, or correct --ray."
        ) from error
    return ray


def _knock(address: str) -> None:
    """Raise where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()

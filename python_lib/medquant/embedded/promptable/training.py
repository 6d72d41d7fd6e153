"""Training on procedural scenes only: seeded, resumable, on one or more processes of one thread each."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from medquant.embedded.promptable.configuration import initial_model, save_weights
from medquant.embedded.promptable.learner import Learner
from medquant.embedded.promptable.objective import Trainee
from medquant.embedded.promptable.pool import ScenePool
from medquant.errors import Cancelled, UserError
from medquant.progress import CancelCheck, Progress, ProgressCallback

LOG_EVERY = 20
STARTING = (0.0, "Starting to train")

Report = Callable[[float, str], None]


@dataclass(frozen=True)
class Plan:
    """What one training is; `hours` or `steps` end it and set the learning rate's decay."""

    seed: int = 0
    workers: int = 2
    hours: float | None = None
    steps: int | None = None
    #: Images a worker sees per step, at 128 and at 256 pixels.
    images_small: int = 12
    images_full: int = 5
    #: The part of the training spent at 128 pixels.
    small_part: float = 0.25
    first_scenes: int = 256
    #: New scenes a worker makes per step, until it has `scenes`.
    new_scenes: int = 3
    scenes: int = 10000
    average: float = 0.998
    save_every: float = 180.0


def train(
    output: Path,
    *,
    hours: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    resume: bool = True,
    workers: int = 2,
    progress: ProgressCallback | None = None,
    cancelled: CancelCheck | None = None,
    **settings: Any,
) -> Path:
    """Train, and return the weights folder, `output`/weights.

    One of `hours` (of work, over all resumptions) and `steps` says when it ends. With `steps` the result is a
    function of (steps, seed, workers, settings) on one machine, interrupted or not. `settings` are the fields
    of `Plan`. Checkpoint, scenes and log stay in `output`; a cancelled training keeps its checkpoint and raises
    `Cancelled`. Raises `UserError` when neither or both of `hours` and `steps` are given.
    """
    if (hours is None) == (steps is None):
        raise UserError("Training needs an end. Give either the hours or the number of steps, not both.")
    if (hours if steps is None else steps) <= 0:
        raise UserError("Training needs time. Give hours or steps above 0.")
    if workers < 1:
        raise UserError(f"Training cannot run on {workers} workers. Give 1 or more.")
    plan = Plan(seed=seed, workers=workers, hours=hours, steps=steps, **settings)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    if not resume:
        for old in (output / "checkpoint.pt", output / "log.jsonl"):
            old.unlink(missing_ok=True)
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            finished = _work(0, plan, output, Progress(progress).report, lambda: bool(cancelled and cancelled()))
        finally:
            torch.set_num_threads(threads)
    else:
        finished = _train_in_processes(plan, output, Progress(progress, cancelled))
    if not finished:
        raise Cancelled("Training stopped. Run the same command again to continue from its checkpoint.")
    return output / "weights"


def _train_in_processes(plan: Plan, output: Path, reporter: Progress) -> bool:
    context = torch.multiprocessing.get_context("spawn")
    stop, reports = context.Event(), context.SimpleQueue()
    meeting = output / f"meeting-{os.getpid()}"
    meeting.unlink(missing_ok=True)
    processes = [
        context.Process(target=_process, args=(rank, plan, output, meeting, stop, reports), daemon=True)
        for rank in range(plan.workers)
    ]
    finished, last = False, STARTING
    try:
        with _interrupts_blocked():
            for process in processes:
                process.start()
        while any(process.is_alive() for process in processes) or not reports.empty():
            while not reports.empty():
                last = reports.get()
                finished = finished or last[1] == "finished"
            if any(process.exitcode not in (None, 0) for process in processes):
                break
            try:
                reporter.report(*last)
            except Cancelled:
                if last is STARTING:  # there is nothing to keep
                    return False
                stop.set()
            time.sleep(0.2)
    finally:
        for process in processes:
            if process.pid and process.is_alive():
                process.terminate()
                process.join()
        meeting.unlink(missing_ok=True)
    if any(process.exitcode != 0 for process in processes):
        raise RuntimeError("A training process ended with an error; its own message is above.")
    return finished


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started here never hear Ctrl-C, which a terminal sends to all: they stop when this one tells them.

    What is blocked is inherited, so it holds while they import; here it is only put off, and heard in the end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows: they begin to ignore it once they have imported
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _process(rank: int, plan: Plan, output: Path, meeting: Path, stop: Any, reports: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Windows it is not inherited
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting.resolve().as_uri(), rank=rank, world_size=plan.workers)
    try:
        report = (lambda fraction, message: reports.put((fraction, message))) if rank == 0 else (lambda *_: None)
        if _work(rank, plan, output, report, stop.is_set) and rank == 0:
            reports.put((1.0, "finished"))
    finally:
        dist.destroy_process_group()


def _work(rank: int, plan: Plan, output: Path, report: Report, stopped: Callable[[], bool]) -> bool:
    """One worker's training; True when it came to its end, False when it was stopped."""
    pool = ScenePool(output / f"scenes-{plan.seed}-{rank}.u8", plan.scenes, plan.seed, rank)
    first = ScenePool(output / f"scenes-{plan.seed}-0.u8", plan.scenes, plan.seed, 0) if rank else pool
    if not pool.grow(plan.first_scenes, stopped):
        return False
    if plan.workers > 1:
        dist.barrier()
    start = initial_model(np.asarray(first.store[: plan.first_scenes, 0]), plan.seed)
    learner = Learner(Trainee(start), plan.average)
    learner.restore(output / "checkpoint.pt")
    clock = saved = time.monotonic()
    recent: deque[dict[str, float]] = deque(maxlen=LOG_EVERY)
    while True:
        now = time.monotonic()
        learner.elapsed, clock = learner.elapsed + now - clock, now
        fraction, stop = _agreed(plan, learner, stopped())
        over = stop or fraction >= 1
        if rank == 0 and (over or now - saved > plan.save_every):
            learner.save(output / "checkpoint.pt")
            hours = round(learner.elapsed / 3600, 3)
            summary = asdict(plan) | {"steps_done": learner.step, "hours_done": hours}
            save_weights(learner.averaged(), output / "weights", summary)
            saved = now
        if over:
            return not stop
        small = fraction < plan.small_part
        pool.grow(plan.first_scenes + plan.new_scenes * learner.step)
        rng = np.random.default_rng([plan.seed, 99, rank, learner.step])
        batch = pool.batch(rng, plan.images_small if small else plan.images_full, 128 if small else 256)
        recent.append(learner.learn(batch, fraction, plan.workers))
        if rank == 0 and (learner.step % LOG_EVERY == 0 or learner.step < 4):
            _log(output, learner, recent, fraction, report)


def _log(output: Path, learner: Learner, recent: deque[dict[str, float]], fraction: float, report: Report) -> None:
    means = {key: round(float(np.mean([line[key] for line in recent])), 4) for key in recent[0]}
    line = {"step": learner.step, "seconds": round(learner.elapsed, 1)} | means
    with (output / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
    report(fraction, f"Step {learner.step}: Dice {means['dice']:.3f} on procedural images")


def _agreed(plan: Plan, learner: Learner, stop: bool) -> tuple[float, bool]:
    """How far the training is, and whether to stop: the first worker's view, so that all do the same."""
    fraction = learner.step / plan.steps if plan.steps is not None else learner.elapsed / (3600 * plan.hours)
    if plan.workers == 1:
        return fraction, stop
    said = torch.tensor([fraction, float(stop)], dtype=torch.float64)
    dist.broadcast(said, 0)
    return float(said[0]), bool(said[1])

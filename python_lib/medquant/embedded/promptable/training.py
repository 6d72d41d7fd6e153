"""Training on procedural scenes only: seeded, resumable, on one or more processes of one thread each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from medquant.embedded.promptable.configuration import initial_model, save_weights
from medquant.embedded.promptable.objective import Trainee, loss_of, make_optimisers, set_rate
from medquant.embedded.promptable.pool import ScenePool
from medquant.errors import Cancelled, UserError
from medquant.files import atomic_path
from medquant.progress import CancelCheck, Progress, ProgressCallback


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
    new_scenes: int = 2
    scenes: int = 6000
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
    for process in processes:
        process.start()
    finished, last = False, (0.0, "Starting to train")
    try:
        while any(process.is_alive() for process in processes) or not reports.empty():
            while not reports.empty():
                last = reports.get()
                finished = finished or last[1] == "finished"
            if any(process.exitcode not in (None, 0) for process in processes):
                break
            try:
                reporter.report(*last)
            except Cancelled:
                stop.set()
            time.sleep(0.2)
    finally:
        for process in processes:
            if process.is_alive() and not stop.is_set():
                process.terminate()
            process.join()
        meeting.unlink(missing_ok=True)
    if any(process.exitcode != 0 for process in processes):
        raise RuntimeError("A training process ended with an error; its own message is above.")
    return finished


def _process(rank: int, plan: Plan, output: Path, meeting: Path, stop: Any, reports: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting.resolve().as_uri(), rank=rank, world_size=plan.workers)
    try:
        report = (lambda fraction, message: reports.put((fraction, message))) if rank == 0 else (lambda *_: None)
        if _work(rank, plan, output, report, stop.is_set) and rank == 0:
            reports.put((1.0, "finished"))
    finally:
        dist.destroy_process_group()


def _work(
    rank: int, plan: Plan, output: Path, report: Callable[[float, str], None], stopped: Callable[[], bool]
) -> bool:
    """One worker's training; True when it came to its end, False when it was stopped."""
    pool = ScenePool(output / f"scenes-{rank}.u8", plan.scenes, plan.seed, rank)
    first = ScenePool(output / "scenes-0.u8", plan.scenes, plan.seed, 0) if rank else pool
    pool.grow(plan.first_scenes)
    _meet(plan)
    trainee = Trainee(initial_model(np.asarray(first.store[: plan.first_scenes, 0]), plan.seed))
    optimisers = make_optimisers(trainee)
    average = {name: value.detach().clone() for name, value in trainee.state_dict().items()}
    step, elapsed = _restore(output, trainee, optimisers, average)
    trained = [parameter for parameter in trainee.parameters() if parameter.requires_grad]
    trainee.train()
    clock = saved = time.monotonic()
    recent: list[tuple[float, float]] = []
    while True:
        now = time.monotonic()
        elapsed, clock = elapsed + now - clock, now
        fraction, stop = _agreed(plan, step, elapsed, stopped())
        if rank == 0 and (stop or fraction >= 1 or now - saved > plan.save_every):
            _save(output, plan, trainee, optimisers, average, step, elapsed)
            saved = now
        if stop or fraction >= 1:
            return not stop
        small = fraction < plan.small_part
        pool.grow(plan.first_scenes + plan.new_scenes * step)
        rng = np.random.default_rng([plan.seed, 99, rank, step])
        batch = pool.batch(rng, plan.images_small if small else plan.images_full, 128 if small else 256)
        rate = set_rate(optimisers, step, fraction)
        loss, dice = loss_of(trainee, batch)
        loss.backward()
        _share_gradients(plan, trained)
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        step += 1
        keep = min(plan.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in trainee.state_dict().items():
                average[name].lerp_(value, 1 - keep)
        recent.append((float(loss.detach()), float(dice)))
        if rank == 0 and (step % 20 == 0 or step < 4):
            mean_loss, mean_dice = np.mean(recent[-20:], axis=0)
            recent = recent[-20:]
            line = {"step": step, "seconds": round(elapsed, 1), "loss": round(float(mean_loss), 4)}
            line |= {
                "dice": round(float(mean_dice), 4),
                "norm": round(float(norm), 2),
                "rate": round(rate, 4),
            }
            with (output / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            report(fraction, f"Step {step}: Dice {mean_dice:.3f} on procedural images")


def _agreed(plan: Plan, step: int, elapsed: float, stop: bool) -> tuple[float, bool]:
    """The first worker's clock and wish to stop, so that all workers do the same."""
    fraction = step / plan.steps if plan.steps is not None else elapsed / (3600 * plan.hours)
    if plan.workers == 1:
        return fraction, stop
    said = torch.tensor([fraction, float(stop)], dtype=torch.float64)
    dist.broadcast(said, 0)
    return float(said[0]), bool(said[1])


def _meet(plan: Plan) -> None:
    if plan.workers > 1:
        dist.barrier()


def _share_gradients(plan: Plan, parameters: list[torch.nn.Parameter]) -> None:
    """Replace each worker's gradients by the mean over workers."""
    if plan.workers == 1:
        return
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in parameters])
    dist.all_reduce(flat)
    flat /= plan.workers
    offset = 0
    for parameter in parameters:
        parameter.grad.copy_(flat[offset : offset + parameter.numel()].view_as(parameter))
        offset += parameter.numel()


def _save(
    output: Path,
    plan: Plan,
    trainee: Trainee,
    optimisers: list[torch.optim.Optimizer],
    average: dict[str, torch.Tensor],
    step: int,
    elapsed: float,
) -> None:
    """Checkpoint and weights. Random states need no saving: every draw follows from seed, worker and step."""
    state = {
        "model": trainee.state_dict(),
        "average": average,
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        "step": step,
        "elapsed": elapsed,
    }
    with atomic_path(output / "checkpoint.pt") as path:
        torch.save(state, path)
    shown = Trainee(trainee.sam.__class__(trainee.sam.config))
    shown.load_state_dict(average)
    summary = asdict(plan) | {"steps_done": step, "hours_done": round(elapsed / 3600, 3)}
    save_weights(shown.sam, output / "weights", summary)


def _restore(
    output: Path, trainee: Trainee, optimisers: list[torch.optim.Optimizer], average: dict[str, torch.Tensor]
) -> tuple[int, float]:
    """Steps and seconds already done; the state is loaded in place."""
    path = output / "checkpoint.pt"
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    trainee.load_state_dict(state["model"])
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    for name, value in average.items():
        value.copy_(state["average"][name])
    return state["step"], state["elapsed"]

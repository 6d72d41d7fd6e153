"""What training carries from step to step: network, optimisers, moving average, and their checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import SamModel

from medquant.embedded.promptable.objective import Trainee, loss_of, make_optimisers, set_rate
from medquant.embedded.promptable.pool import Batch
from medquant.files import atomic_path


@dataclass
class Learner:
    """One worker's copy. All workers hold the same weights, as they share their gradients."""

    trainee: Trainee
    decay: float
    """Of the moving average of the weights; what is shipped is the average."""
    step: int = 0
    elapsed: float = 0.0
    """Seconds of work, over all resumptions."""
    optimisers: list[torch.optim.Optimizer] = field(init=False)
    average: dict[str, torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.optimisers = make_optimisers(self.trainee)
        self.average = {name: value.detach().clone() for name, value in self.trainee.state_dict().items()}
        self._trained = [parameter for parameter in self.trainee.parameters() if parameter.requires_grad]
        self.trainee.train()

    def learn(self, batch: Batch, fraction: float, workers: int) -> dict[str, float]:
        """One step on one batch at `fraction` (0 to 1) of the training; loss, Dice, gradient norm and rate."""
        rate = set_rate(self.optimisers, self.step, fraction)
        loss, dice = loss_of(self.trainee, batch)
        loss.backward()
        if workers > 1:
            self._share_gradients(workers)
        norm = torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.trainee.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)
        return {"loss": float(loss.detach()), "dice": float(dice), "norm": float(norm), "rate": rate}

    def _share_gradients(self, workers: int) -> None:
        """Replace each worker's gradients by the mean over workers."""
        flat = torch.cat([parameter.grad.reshape(-1) for parameter in self._trained])
        dist.all_reduce(flat)
        flat /= workers
        offset = 0
        for parameter in self._trained:
            parameter.grad.copy_(flat[offset : offset + parameter.numel()].view_as(parameter))
            offset += parameter.numel()

    def averaged(self) -> SamModel:
        """A model with the averaged weights."""
        shown = Trainee(SamModel(self.trainee.sam.config))
        shown.load_state_dict(self.average)
        return shown.sam

    def save(self, path: Path) -> None:
        """Write the checkpoint. Random states need no saving: every draw follows from seed, worker and step."""
        state = {
            "model": self.trainee.state_dict(),
            "average": self.average,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "elapsed": self.elapsed,
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint, if there is one."""
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.trainee.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        for name, value in self.average.items():
            value.copy_(state["average"][name])
        self.step, self.elapsed = state["step"], state["elapsed"]

"""Networks and runtimes that take a known time, for choices that are about time alone."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from medquant.deploy.program import decoded_program
from medquant.deploy.runtime import Check
from medquant.errors import UserError
from medquant.models.base import Part

SLOW, FAST = 0.04, 0.0


class Waiting(nn.Module):
    """A network that takes a known time: the choice is about time alone."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.layer = nn.Linear(4, 4)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return self.layer(values)


class Session:
    """Gives what the part gives, times `wrong`, after a known time."""

    device, simulated = "CPU", False

    def __init__(self, runtime: str, precision: str, seconds: float, part: Part, wrong: float) -> None:
        self.runtime, self.precision, self.seconds = runtime, precision, seconds
        with torch.inference_mode():
            module = part.module if precision == "int8" else decoded_program(part.module, integers=False)
            self.output = module(*part.inputs.values()) * wrong

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return self.output


class Timed:
    """A runtime that takes a known time for each precision; None: it lacks an operator."""

    def __init__(self, name: str, seconds: dict[str, float | None], version: str | None = "1.0") -> None:
        self.name, self.seconds, self.found, self.compiled = name, seconds, version, 0
        self.wrong = 1.0

    def version(self) -> str | None:
        return self.found

    def devices(self) -> list[str]:
        return ["CPU"]

    def precisions(self, device: str | None = None) -> tuple[str, ...]:
        return () if self.found is None else tuple(self.seconds)

    def compile(
        self,
        part: Part,
        *,
        precision: str,
        threads: int | None = None,
        cache: Path | None = None,
        check: Check | None = None,
    ) -> Session:
        self.compiled += 1
        if self.seconds[precision] is None:
            raise UserError(f"{self.name} has no such operator. Use --runtime pytorch.")
        session = Session(self.name, precision, self.seconds[precision], part, self.wrong)
        check(session)
        return session


def parts(seconds: float = SLOW) -> dict[str, Part]:
    return {"network": Part(Waiting(seconds), {"values": torch.zeros(1, 4)}, ("logits",))}

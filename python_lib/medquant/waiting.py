"""How threads that share the work of a layer wait for each other."""

from __future__ import annotations

from collections.abc import MutableMapping

SPIN_COUNT = "1000"
"""Turns, some microseconds. Where GNU OpenMP itself has more threads than cores it takes 100; it does not know of other
programs."""


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Let PyTorch's threads soon give up the core they wait on. To be called before PyTorch is imported.

    GNU OpenMP (PyTorch's on Linux) has a thread turn 300 000 times, some milliseconds, before it sleeps. Beside a
    program that is busy on one of two cores, each of a solver's thousands of small products then waits so for a thread
    that cannot run because of that. Where a person has set how to wait it stays. Other kinds of OpenMP (on Windows, on
    macOS, from conda) read no such variable.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

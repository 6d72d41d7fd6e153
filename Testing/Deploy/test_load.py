"""The load of other programs, against a program that is started here."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from medquant.deploy.load import LoadOfOthers


def test_another_program_is_seen_and_this_one_is_not() -> None:
    with LoadOfOthers() as own:
        end = time.perf_counter() + 0.5
        while time.perf_counter() < end:
            pass
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with LoadOfOthers() as load:
            time.sleep(0.5)
    finally:
        other.kill()
        other.wait()
    assert load.share > 0.5 / (psutil.cpu_count() or 1), "it holds a core, unless others crowd it out"
    assert 0 <= own.share <= 1 and 0 <= load.share <= 1

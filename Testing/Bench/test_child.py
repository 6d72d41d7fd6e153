"""Processes of the benchmarks: their answer, their memory, their end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from medquant.bench.child import run_child, run_step
from medquant.errors import Cancelled, UserError

ECHO = """
import json, sys
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
held = bytearray(200_000_000)
Path(job["answer"]).write_text(json.dumps(job["said"]))
import time
time.sleep(0.3)
"""


def never() -> None:
    pass


def test_a_step_gives_its_answer_and_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "echoing.py").write_text(ECHO)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answer, peak = run_step("echoing", {"said": [1, 2]}, tmp_path, never, name="echo")
    assert answer == [1, 2] and 200 < peak < 2000


@pytest.mark.parametrize(
    ("code", "told"),
    [("raise ValueError('no such thing')", "echo failed .*no such thing"), ("", "echo gave no answer")],
)
def test_a_step_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, told: str) -> None:
    (tmp_path / "failing.py").write_text(code)
    (tmp_path / "answer.json").write_text("1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match=told):
        run_step("failing", {}, tmp_path, never, name="echo")


def test_the_wish_to_stop_ends_the_process(tmp_path: Path) -> None:
    marks: list[int] = []

    def check() -> None:
        marks.append(1)
        if len(marks) > 3:
            raise Cancelled("Stopped.")

    with pytest.raises(Cancelled):
        run_child([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, check, name="it")


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be started"):
        run_child([str(tmp_path / "nothing")], tmp_path, never, name="it")

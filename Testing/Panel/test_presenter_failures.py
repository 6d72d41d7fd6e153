"""What the panel shows where packages are missing, a scan is handed over, or something fails: no button hangs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from MedQuantSlicerLib import messages
from MedQuantSlicerLib.host import Missing
from MedQuantSlicerLib.state import State
from presenter_fakes import CT, LIVER, Panel


@pytest.fixture
def panel() -> Panel:
    """A panel that was just opened."""
    return Panel()


def test_packages_are_installed_after_one_question(panel: Panel) -> None:
    panel.host.lacks = Missing("PyTorch (200 MB) from PyPI. Install?")
    panel.open_scan()
    assert panel.engine.asked == [] and panel.shown.machine == ""
    panel.presenter.quantize()
    assert panel.host.did("confirm") == [("confirm", "PyTorch (200 MB) from PyPI. Install?")]
    assert panel.shown.state is State.INSTALLING
    progress, done, _ = panel.host.installing
    progress("Fetching torch")
    assert panel.shown.waiting.text == "Fetching torch"
    panel.host.lacks = None
    done()
    assert panel.shown.state is State.QUANTIZING
    assert panel.engine.last.method == "quantize"
    assert panel.shown.machine == "2 cores"


def test_an_installation_that_is_denied_says_what_to_do(panel: Panel) -> None:
    panel.host.lacks, panel.host.says_yes = Missing("Install?"), False
    panel.open_scan()
    panel.presenter.quantize()
    assert panel.shown.state is State.FAILED
    assert panel.shown.problem.section == "quantize"
    assert panel.shown.problem.text == messages.NOT_INSTALLED


def test_an_installation_that_fails_shows_the_reason_and_the_log(panel: Panel) -> None:
    panel.host.lacks = Missing("Install?")
    panel.open_scan()
    panel.presenter.quantize()
    panel.host.installing[2]("The proxy refused. Set HTTPS_PROXY.", "/logs/pip.log")
    assert panel.shown.state is State.FAILED
    assert panel.shown.problem.log == "/logs/pip.log"
    assert panel.engine.asked == []


def test_an_installation_can_be_cancelled_and_ends_silently(panel: Panel) -> None:
    panel.host.lacks = Missing("Install?")
    panel.open_scan()
    panel.presenter.quantize()
    panel.presenter.cancel()
    assert panel.host.did("cancel_install")
    assert panel.shown.state is State.IDLE
    panel.host.installing[1]()
    assert panel.engine.asked == []


def test_a_full_disk_is_told(panel: Panel) -> None:
    panel.open_scan()
    panel.host.fault = OSError(28, "No space left on device")
    panel.presenter.quantize()
    assert panel.shown.state is State.FAILED
    assert "No space left on device" in panel.shown.problem.text
    assert panel.engine.asked == []


def test_a_scan_that_is_being_handed_over_is_told_and_can_be_cancelled(panel: Panel) -> None:
    panel.open_scan()
    panel.host.disk_is_slow = True
    panel.presenter.quantize()
    assert panel.shown.state is State.QUANTIZING
    assert panel.shown.waiting.text == "Handing over the scan"
    assert panel.engine.asked == []
    panel.presenter.quantize()
    assert panel.shown.state is State.IDLE
    assert panel.host.calls[-1] == ("stop_writing", "/exchange/volume-1.npy")
    assert "volume-1.npy" in panel.engine.discarded
    panel.presenter.quantize()
    panel.host.writing[0]()
    assert panel.shown.waiting.text == "Starting"
    assert panel.engine.last.params["volume"]["array"] == "volume-2.npy"


def test_another_scan_ends_the_handing_over_of_the_first(panel: Panel) -> None:
    panel.open_scan()
    panel.host.disk_is_slow = True
    panel.presenter.quantize()
    panel.open_scan(replace(CT, key="ct-2"))
    assert panel.shown.state is State.IDLE
    assert panel.host.did("stop_writing")
    assert panel.engine.asked == []


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(28, "No space left on device"), "user", "No space left on device"),
        (RuntimeError("the node is gone"), "internal", "RuntimeError: the node is gone. This is a fault"),
        (MemoryError(), "internal", "MemoryError"),
    ],
)
def test_whatever_handing_over_fails_with_the_panel_rests(
    panel: Panel, error: Exception, kind: str, words: str, late: bool
) -> None:
    panel.open_scan()
    panel.host.disk_is_slow = late
    panel.host.fault = None if late else error
    panel.presenter.quantize()
    if late:
        panel.host.writing[1](error)
    assert (panel.shown.state, panel.shown.waiting) == (State.FAILED, None)
    assert panel.shown.problem.kind == kind and words in panel.shown.problem.text
    panel.host.fault, panel.host.disk_is_slow = None, False
    panel.presenter.quantize()
    assert panel.engine.last.method == "quantize"


def _fails(*_: object) -> None:
    raise KeyError("handle")


def test_an_answer_that_cannot_be_used_is_a_problem_and_no_hanging_button(
    panel: Panel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(panel.engine, "path", lambda name: str(tmp_path / name))
    panel.open_scan()
    panel.presenter.quantize()
    panel.engine.last.tell("result", {"bits": 4})
    assert (panel.shown.state, panel.shown.waiting) == (State.FAILED, None)
    assert panel.shown.problem.kind == "internal" and panel.shown.problem.section == "quantize"
    assert "KeyError: 'handle'. This is a fault" in panel.shown.problem.text
    assert "Traceback" in Path(panel.shown.problem.log).read_text()
    assert panel.action("quantize").text == "Quantize"
    panel.presenter.quantize()
    assert panel.shown.state is State.QUANTIZING


def test_a_fault_of_the_application_while_a_work_begins_is_a_problem(
    panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel.open_scan().quantize().draw(LIVER)
    monkeypatch.setattr(panel.host, "show_pair", _fails)
    panel.presenter.segment()
    assert panel.shown.state is State.FAILED and panel.shown.problem.section == "segment"
    monkeypatch.undo()
    monkeypatch.setattr(panel.engine, "request", _fails)
    panel.presenter.segment()
    assert (panel.shown.state, panel.shown.problem.kind) == (State.FAILED, "internal")


def test_a_fault_between_two_steps_gives_the_second_up(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request that is under way then belongs to nobody: it is stopped, and what it still says changes nothing."""
    panel.open_scan().quantize().draw(LIVER)
    panel.presenter.segment()
    request = panel.engine.request
    monkeypatch.setattr(panel.engine, "request", lambda *what, **how: (request(*what, **how), _fails())[0])
    panel.masks("fp32.npy")
    assert panel.shown.state is State.FAILED
    before = panel.shown
    panel.engine.last.tell("result", {"mask": {"array": "late.npy", "labels": {}}, "seconds_text": "", "size_text": ""})
    assert (panel.shown.state, panel.shown.problem) == (State.FAILED, before.problem)


def test_tidying_up_that_fails_does_not_hide_what_happened(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    panel.open_scan().quantize().draw(LIVER)
    panel.presenter.segment()
    part = {"array": "part-1.npy", "offset": [3, 0, 0], "labels": {"1": "liver"}}
    panel.engine.last.tell("partial", {"masks": part})
    monkeypatch.setattr(panel.host, "remove_masks", _fails)
    panel.engine.last.tell("error", {"kind": "memory", "message": "Too large. Cut it."})
    assert (panel.shown.state, panel.shown.problem.kind) == (State.FAILED, "memory")

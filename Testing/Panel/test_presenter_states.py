"""What can be pressed in each state, what is missing where it cannot, and which button is the next."""

from __future__ import annotations

from dataclasses import replace

import pytest
from MedQuantSlicerLib import messages
from MedQuantSlicerLib.presenter import Presenter
from MedQuantSlicerLib.state import RESTING, SECTIONS, State
from presenter_fakes import CT, LIVER, Panel


@pytest.fixture
def panel() -> Panel:
    """A panel that was just opened."""
    return Panel()


def test_every_action_is_a_verb(panel: Panel) -> None:
    assert set(panel.shown.actions) == set(messages.TEXTS) == set(messages.TIPS) - {"segment_automatic"}
    for name in panel.shown.actions:
        assert callable(getattr(Presenter, name))
        assert panel.action(name).tooltip.endswith(".") or panel.action(name).enabled


def test_without_a_scan_only_models_and_the_cache_can_be_cared_for(panel: Panel) -> None:
    assert panel.shown.state is State.NO_VOLUME
    enabled = {name for name, action in panel.shown.actions.items() if action.enabled}
    assert enabled == {"add_weights", "clear_cache"}
    assert panel.action("quantize").tooltip == "Open a scan first."
    assert panel.primary() == []
    assert "DICOM" in panel.shown.hint
    assert [one.spec for one in panel.shown.models] == ["embedded", "embedded-nnunet", "embedded-unetr", "medsam"]
    assert panel.engine.asked == []


def test_a_scan_is_described(panel: Panel) -> None:
    panel.open_scan()
    assert panel.shown.state is State.IDLE
    assert panel.shown.scan == "CT, 512 × 512 × 20, 0.98 × 0.98 × 2.00 mm"  # noqa: RUF001
    assert panel.shown.scan_name == "ct"
    assert panel.shown.machine == "2 cores"
    assert [choice.size for choice in panel.shown.choices] == ["4.3 MB", "2.5 MB", "1.6 MB"]
    assert [choice.chosen for choice in panel.shown.choices] == [False, True, False]
    assert panel.shown.choices[1].accuracy == "small loss"


def test_a_scan_that_cannot_be_used_says_why_everywhere(panel: Panel) -> None:
    panel.open_scan(replace(CT, problem="It is a colour picture. Choose a grey one."))
    assert panel.shown.hint == "It is a colour picture. Choose a grey one."
    for verb in ("quantize", "find_safe", "segment", "place_box", "find_sensitivity"):
        assert not panel.action(verb).enabled
        assert panel.action(verb).tooltip == "It is a colour picture. Choose a grey one."
    panel.presenter.quantize()
    assert panel.engine.asked == []


def test_the_next_button_leads_down_the_panel(panel: Panel) -> None:
    panel.open_scan()
    assert panel.primary() == ["quantize"]
    panel.quantize()
    assert panel.primary() == ["place_box"]
    assert panel.action("segment").tooltip == messages.NEED_BOX
    panel.draw(LIVER)
    assert panel.primary() == ["segment"]
    panel.presenter.segment()
    assert panel.primary() == []
    panel.masks("fp32.npy").masks("w4.npy").compared()
    assert panel.primary() == ["jump_to_worst"]
    panel.draw(LIVER, replace(LIVER, name="spleen", label=2))
    assert panel.primary() == ["segment"]
    assert panel.shown.boxes == "2 boxes: liver, spleen"


def test_an_automatic_model_needs_no_box(panel: Panel) -> None:
    panel.open_scan()
    panel.presenter.model_chosen("embedded-nnunet")
    panel.quantize()
    assert not panel.shown.needs_box
    assert panel.action("place_box").tooltip == messages.NEED_NO_BOX
    assert panel.primary() == ["segment"]


def test_a_model_that_is_not_here_is_downloaded_first(panel: Panel) -> None:
    panel.open_scan()
    panel.presenter.model_chosen("medsam")
    assert panel.primary() == ["download"]
    assert panel.action("quantize").tooltip == messages.NEED_WEIGHTS
    panel.presenter.download()
    assert panel.shown.state is State.DOWNLOADING
    assert "375 MB" in panel.host.did("confirm")[-1][1]
    assert panel.action("download").text == "Cancel"
    panel.engine.last.tell("result", {"folder": "/f", "model": {"spec": "medsam", "title": "MedSAM", "task": "box"}})
    assert panel.primary() == ["quantize"]
    assert panel.shown.notice_section == "model"


def test_a_question_that_is_denied_changes_nothing(panel: Panel) -> None:
    panel.open_scan()
    panel.presenter.model_chosen("medsam")
    panel.host.says_yes = False
    panel.presenter.download()
    panel.presenter.clear_cache()
    assert panel.engine.asked == []
    assert panel.shown.state is State.IDLE


def test_a_quantized_file_is_segmented_with_as_it_is(panel: Panel) -> None:
    panel.open_scan().draw(LIVER)
    panel.presenter.model_chosen("/w4.mq")
    assert panel.action("quantize").tooltip == messages.IS_QUANTIZED
    assert panel.action("find_sensitivity").tooltip == messages.IS_QUANTIZED
    assert panel.primary() == ["segment"]
    panel.presenter.segment()
    assert panel.engine.last.params["model"] == "/w4.mq"
    panel.masks("w4.npy")
    assert panel.shown.state is State.IDLE
    assert panel.shown.right_title.startswith("4-bit")
    assert not panel.action("compare").enabled


def _running(panel: Panel) -> dict[State, str]:
    """Starts each kind of work in turn; gives the verb that cancels it."""
    return {
        State.QUANTIZING: "quantize",
        State.SEGMENTING: "segment",
        State.COMPARING: "compare",
        State.MEASURING: "find_sensitivity",
        State.SEARCHING: "find_safe",
        State.EXPORTING: "export",
        State.DOWNLOADING: "download",
    }


def _start(panel: Panel, verb: str) -> None:
    if verb == "download":
        panel.presenter.model_chosen("medsam")
    getattr(panel.presenter, verb)(*(("onnx", "/out") if verb == "export" else ()))


@pytest.mark.parametrize("state", list(_running(None)))
def test_while_something_runs_its_button_cancels_and_the_others_wait(panel: Panel, state: State) -> None:
    verb = _running(panel)[state]
    panel.compare_all()
    _start(panel, verb)
    assert panel.shown.state is state
    assert panel.action(verb).text == "Cancel"
    assert panel.action(verb).enabled and panel.action("cancel").enabled
    assert panel.shown.waiting.section in SECTIONS
    assert panel.primary() == []
    for other in ("quantize", "find_safe", "segment", "compare", "find_sensitivity", "export", "add_weights"):
        if other != verb:
            assert panel.action(other).tooltip == messages.NEED_REST
    asked = panel.engine.last
    getattr(panel.presenter, verb)()
    assert asked.cancelled
    assert panel.shown.waiting.cancelling
    assert not panel.action(verb).enabled
    asked.tell("error", {"kind": "cancelled", "message": "Stopped."})
    assert panel.shown.state in RESTING
    assert panel.shown.problem is None
    assert panel.shown.waiting is None


@pytest.mark.parametrize("state", list(_running(None)))
@pytest.mark.parametrize("kind", ["user", "memory", "engine", "internal"])
def test_a_failure_stands_where_the_action_was(panel: Panel, state: State, kind: str) -> None:
    verb = _running(panel)[state]
    panel.compare_all()
    before = panel.shown
    _start(panel, verb)
    section = panel.shown.waiting.section
    panel.engine.last.tell("error", {"kind": kind, "message": "It broke. Mend it.", "log": "/exchange/worker.log"})
    assert panel.shown.state is State.FAILED
    assert panel.shown.problem.section == section
    assert (panel.shown.problem.text, panel.shown.problem.kind) == ("It broke. Mend it.", kind)
    assert panel.shown.table == before.table
    assert panel.action(verb).enabled
    panel.presenter.open_log()
    assert panel.host.did("open_folder")[-1] == ("open_folder", "/exchange")
    panel.presenter.dismiss()
    assert panel.shown.problem is None
    assert panel.shown.state is State.IDLE


def test_the_next_action_takes_the_problem_away(panel: Panel) -> None:
    panel.open_scan()
    panel.presenter.quantize()
    panel.engine.last.tell("error", {"kind": "user", "message": "No. Yes."})
    panel.presenter.quantize()
    assert panel.shown.problem is None
    assert panel.shown.state is State.QUANTIZING


def test_progress_counts_down(panel: Panel) -> None:
    panel.open_scan()
    panel.presenter.quantize()
    assert panel.shown.waiting.time_left == ""
    told = {"fraction": 0.4, "text": "Quantizing layer 17 of 48", "seconds_left": 62.4}
    panel.engine.last.tell("progress", told)
    assert panel.shown.waiting.text == "Quantizing layer 17 of 48"
    assert panel.shown.waiting.fraction == 0.4
    assert panel.shown.waiting.time_left == "1:02 left"
    panel.now += 20
    panel.presenter.tick()
    assert panel.shown.waiting.time_left == "0:42 left"
    panel.now += 100
    panel.presenter.tick()
    assert panel.shown.waiting.time_left == "0:00 left"
    assert panel.engine.ticks == 2


def test_closing_ends_the_engine_and_gives_the_layout_back(panel: Panel) -> None:
    panel.open_scan()
    panel.presenter.quantize()
    panel.presenter.close()
    assert panel.engine.closed
    assert panel.host.calls[-1] == ("restore_layout",)

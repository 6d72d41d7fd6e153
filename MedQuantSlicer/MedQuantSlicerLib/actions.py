"""What can be pressed now, and what is missing where it cannot."""

from __future__ import annotations

from dataclasses import replace

from MedQuantSlicerLib import messages as m
from MedQuantSlicerLib.facts import Facts
from MedQuantSlicerLib.host import FP32, QUANTIZED
from MedQuantSlicerLib.state import Action, State

STATE_OF = {
    "download": State.DOWNLOADING,
    "quantize": State.QUANTIZING,
    "find_safe": State.SEARCHING,
    "segment": State.SEGMENTING,
    "compare": State.COMPARING,
    "find_sensitivity": State.MEASURING,
    "export": State.EXPORTING,
}
"""Buttons whose work takes long: while it runs they cancel it."""


def actions_of(facts: Facts) -> dict[str, Action]:
    """Every verb of the presenter as a button."""
    actions = {name: _action(facts, name) for name in m.TEXTS}
    following = next_step(facts)
    if following and actions[following].enabled:
        actions[following] = replace(actions[following], primary=True)
    return actions


def next_step(facts: Facts) -> str:
    """The verb that leads on; empty where the user must choose, or wait."""
    line = facts.line
    if not facts.rests or facts.usable_volume is None or line is None:
        return ""
    if not line.present:
        return "download" if line.can_download else "add_weights"
    if not facts.quantized_fits and QUANTIZED in facts.wanted_masks():
        return "find_safe" if facts.safe else "quantize"
    if facts.needs_box and not facts.boxes:
        return "place_box"
    if not all(facts.is_current(kind) for kind in facts.wanted_masks()):
        return "segment"
    if facts.comparable and not facts.is_compared:
        return "compare"
    if not facts.is_compared or not facts.worst:
        return ""
    if facts.looked != facts.compared:
        return "jump_to_worst"
    return "" if facts.difference_shown else "difference"


def hint_of(facts: Facts) -> str:
    """The next step in words."""
    if facts.volume is None:
        return m.HINT_OPEN
    if facts.volume.problem:
        return facts.volume.problem
    if facts.placing:
        return m.HINT_PLACING
    if not facts.rests:
        return ""
    if facts.is_compared and not next_step(facts):
        return m.HINT_DONE if facts.worst else m.HINT_SAME
    return {
        "download": m.HINT_DOWNLOAD,
        "add_weights": m.HINT_DOWNLOAD,
        "quantize": m.HINT_QUANTIZE,
        "find_safe": m.HINT_FIND_SAFE,
        "place_box": m.HINT_BOX,
        "segment": m.HINT_SEGMENT if facts.needs_box else m.HINT_SEGMENT_ALL,
        "compare": m.HINT_COMPARE,
        "jump_to_worst": m.HINT_LOOK,
        "difference": m.HINT_DIFFERENCE,
    }.get(next_step(facts), "")


def _action(facts: Facts, name: str) -> Action:
    if STATE_OF.get(name) is facts.state:
        cancelling = facts.running is not None and facts.running.cancelling
        return Action(not cancelling, m.CANCEL_TIP, m.STOPPING if cancelling else m.CANCEL)
    missing = _missing(facts, name)
    return Action(not missing, missing or _tip(facts, name), _text(facts, name))


def _text(facts: Facts, name: str) -> str:
    if name == "keep_precise" and facts.layer in facts.wishes:
        return m.NO_LONGER_PRECISE
    if name == "find_safe" and facts.safe_model is not None:
        found = facts.safe_model
        return m.safe(found.text.partition(",")[0], found.uneven) if facts.safe else m.USE_SAFE
    if name == "difference" and facts.difference_shown:
        return m.HIDE_DIFFERENCE
    if name == "export" and facts.latest is not None:
        return m.export(facts.latest.bits)
    return m.TEXTS[name]


def _tip(facts: Facts, name: str) -> str:
    if name == "segment" and not facts.needs_box:
        return m.TIPS["segment_automatic"]
    if name == "find_safe" and facts.safe_model is not None:
        return m.SAFE_FITS if facts.safe else m.USE_SAFE_TIP
    if name == "quantize" and facts.quantized is not None and not facts.safe:
        return m.FITS if facts.quantized_fits else m.FITS_ELSEWHERE
    return m.TIPS[name]


def _missing(facts: Facts, name: str) -> str:
    """What a button needs and there is not; empty: nothing."""
    if name == "cancel":
        return m.NOTHING_RUNS if facts.rests else ""
    if name == "open_log":
        return "" if facts.problem is not None and facts.problem.log else m.NO_LOG
    if name == "open_cache":
        return "" if facts.cache_folder else m.NOTHING_CACHED
    if name == "open_exported":
        return "" if facts.exported else m.NOTHING_EXPORTED
    if name == "jump_to_worst":
        return _needs_comparison(facts) or ("" if facts.worst else m.NO_DIFFERENCE)
    if name == "difference":
        return _needs_comparison(facts)
    if name == "keep_precise":
        return "" if facts.layer else m.NEED_LAYER
    if name == "forget_wishes":
        return "" if facts.wishes else m.NO_WISHES
    if not facts.rests and (name not in ("place_box", "box_from_segment") or facts.state is State.INSTALLING):
        return m.NEED_REST
    if name in ("add_weights", "clear_cache"):
        return ""
    if name == "download":
        return "" if facts.line is not None and facts.line.can_download else m.CANNOT_DOWNLOAD
    if name == "export":
        return "" if facts.latest is not None else m.NEED_QUANTIZED
    if name == "save_report":
        return _needs_comparison(facts)
    return _scan_missing(facts) or _model_missing(facts, name)


def _needs_comparison(facts: Facts) -> str:
    return "" if facts.table is not None else m.NEED_COMPARISON


def _scan_missing(facts: Facts) -> str:
    if facts.volume is None:
        return m.NEED_SCAN
    return facts.volume.problem


def _model_missing(facts: Facts, name: str) -> str:
    line = facts.line
    if name == "compare":
        return "" if facts.comparable else m.NEED_BOTH
    if line is None:
        return m.NEED_MODEL
    if name in ("place_box", "box_from_segment"):
        return "" if line.needs_box else m.NEED_NO_BOX
    if not line.present:
        return m.NEED_WEIGHTS
    if name in ("quantize", "find_safe", "find_sensitivity"):
        return m.IS_QUANTIZED if line.is_quantized else ""
    if QUANTIZED in facts.wanted_masks() and facts.quantized is None:
        return m.NEED_QUANTIZED_OR_FP32 if FP32 in facts.wanted_masks() else m.NEED_QUANTIZED
    return m.NEED_BOX if line.needs_box and not facts.boxes else ""

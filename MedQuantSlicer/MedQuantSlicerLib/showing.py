"""From what is known to what the panel shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from MedQuantSlicerLib import messages as m
from MedQuantSlicerLib.actions import actions_of, hint_of
from MedQuantSlicerLib.facts import Facts
from MedQuantSlicerLib.host import FP32, QUANTIZED, VolumeInfo
from MedQuantSlicerLib.layer_showing import TIMES, heatmap_of, layer_of
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.state import (
    BITS,
    BitsChoice,
    Cell,
    ExportChoice,
    ModelLine,
    Row,
    Shown,
    Table,
    Waiting,
)

EXPORTS = (
    ExportChoice("artifact", _("MedQuant's own, the smallest"), _("One .mq.safetensors file, a card and a script")),
    ExportChoice("onnx", _("ONNX, for most programs"), _("ONNX files, a card, an example and a script")),
    ExportChoice("openvino", _("OpenVINO, for processors"), _("OpenVINO files, a card, an example and a script")),
    ExportChoice("torch", _("PyTorch"), _("torch.export files, a card, an example and a script")),
)


def shown_of(facts: Facts, now: float) -> Shown:
    """All that is to be shown."""
    section, notice = facts.notice
    latest, safe = facts.latest, facts.safe_model
    return Shown(
        state=facts.state,
        scan=scan_line(facts.volume),
        scan_name=facts.volume.name if facts.volume else "",
        hint=hint_of(facts),
        models=tuple(facts.models),
        model=facts.model,
        bits=facts.bits,
        safe=facts.safe,
        safe_found="\n".join([safe.text, safe.found, *[m.UNEVEN] * safe.uneven]) if safe is not None else "",
        safe_precise=safe.precise if safe is not None else (),
        choices=_choices(facts),
        options=facts.options,
        waiting=_waiting(facts, now),
        problem=facts.problem,
        notice=notice,
        notice_section=section,
        quantized=m.quantized(latest.bits, latest.text, latest.pieces, facts.calibrated_here(latest)) if latest else "",
        quantized_fits=facts.quantized_fits,
        boxes=_boxes(facts) if facts.needs_box else "",
        needs_box=facts.needs_box,
        left_title=title_of(facts, FP32),
        right_title=title_of(facts, QUANTIZED),
        table=facts.table if facts.table is None or facts.is_compared else out_of_date(facts.table),
        table_of=_table_of(facts),
        difference_shown=facts.difference_shown,
        worst=str(facts.worst["text"]) if facts.worst else "",
        heatmap=heatmap_of(facts),
        layer=layer_of(facts),
        overrides=tuple(facts.wishes.items()),
        exports=EXPORTS,
        exported=facts.exported,
        machine=facts.machine,
        cache=facts.cache,
        cache_folder=facts.cache_folder,
        actions=actions_of(facts),
    )


def scan_line(volume: VolumeInfo | None) -> str:
    """What a scan is, in one line."""
    if volume is None:
        return ""
    k, j, i = volume.shape
    size = f" {TIMES} ".join(str(n) for n in (i, j, k))
    spacing = f" {TIMES} ".join(f"{millimetres:.2f}" for millimetres in volume.spacing)
    return ", ".join(filter(None, (volume.modality, size, f"{spacing} mm")))


def title_of(facts: Facts, kind: str) -> str:
    """Of the view of a model's masks: "4-bit  2.5 MB  1.02 s", and whether a hand has edited them; while others are
    being drawn there, what these are."""
    if facts.coming[0] == kind:
        return facts.coming[1]
    title = facts.masks[kind].title if kind in facts.masks else ""
    return f"{title}  {m.EDITED}" if facts.edited(kind) else title


@lru_cache(maxsize=4)
def out_of_date(table: Table) -> Table:
    """A table about masks or a reference that have changed since: its numbers stay, its verdict does not."""
    return replace(table, headline=m.STALE, notes=(m.STALE_NOTE, *table.notes))


def model_line(told: Mapping[str, Any]) -> ModelLine:
    """A model as the engine tells of it."""
    return ModelLine(
        spec=told["spec"],
        title=told["title"],
        task=told.get("about", ""),
        needs_box=told.get("task") == "box",
        modality=told.get("modality", ""),
        size=told.get("size", ""),
        seconds=told.get("seconds", ""),
        licence=told.get("licence", ""),
        present=told.get("present", True),
        needs=told.get("needs", ""),
        can_download=told.get("can_download", False),
        is_demo=told.get("is_demo", False),
        is_quantized=told.get("is_quantized", False),
        bits=told.get("bits", 32),
    )


def table_of(told: Mapping[str, Any]) -> Table:
    """A table as the engine tells it."""
    rows = tuple(
        Row(
            title=row["title"],
            cells=tuple(Cell(cell["text"], cell.get("strong", False)) for cell in row["cells"]),
            of_all=row.get("of_all", False),
            badges=tuple(row.get("badges", ())),
        )
        for row in told["rows"]
    )
    return Table(
        columns=tuple(told["columns"]),
        tooltips=tuple(told["tooltips"]),
        rows=rows,
        headline=told["headline"],
        notes=tuple(told.get("notes", ())),
        csv=told.get("csv", ""),
    )


def _table_of(facts: Facts) -> str:
    compared = facts.compared_model
    if compared in ("", facts.model):
        return ""
    line = facts.line_of(compared)
    return line.title if line is not None else compared


def _choices(facts: Facts) -> tuple[BitsChoice, ...]:
    known = facts.choices.get(facts.choice_key(), {})
    only = facts.quantized.bits if facts.line is not None and facts.line.is_quantized else None
    scan, choices = facts.volume.digest if facts.volume else "", []
    for bits in BITS:
        told = known.get(str(bits), {})
        verdict = told.get("verdicts", {}).get(scan, "")
        seconds = told.get("seconds", "")
        seconds = m.expected(seconds) if seconds and not verdict else seconds
        words = (told.get("size", ""), seconds, verdict or m.NOT_MEASURED)
        chosen = bits == only if only is not None else bits == facts.bits and not facts.safe
        choices.append(BitsChoice(bits, chosen, *words, bool(told.get("measured"))))
    return tuple(choices)


def _waiting(facts: Facts, now: float) -> Waiting | None:
    running = facts.running
    if running is None:
        return None
    left = ""
    if running.ends is not None and not running.cancelling:
        left = m.left(*divmod(max(0, round(running.ends - now)), 60))
    text, fraction, part = running.text, running.fraction, running.part
    if part is not None and part.count > 1:
        text = m.part(part.title, part.number + 1, part.count, text)
        fraction = (part.number + (fraction or 0.0)) / part.count
    text = m.STOPPING if running.cancelling else text
    return Waiting(running.section, text, fraction, left, running.cancelling)


def _boxes(facts: Facts) -> str:
    return m.boxes(len(facts.boxes), ", ".join(dict.fromkeys(box.name for box in facts.boxes)))

"""Closing and opening ask about what no session holds yet, and about nothing else."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from session_parts import have_quantized

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")


def test_closing_asks_about_what_is_not_saved(opened, hands, tmp_path: Path) -> None:
    from MedQuantSlicerLib import boxes

    asked = []
    opened.documents.may_lose = lambda: bool(asked.append(1))
    boxes.fit_box(boxes.new_box(opened.views.volume, "spot"), opened.views.volume, (18, 20, 0), (25, 25, 1))
    opened.close()
    assert asked
    assert opened.isVisible()
    opened.documents.save_session(tmp_path / "case.mrb")
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    opened.close()
    assert len(asked) == 1
    assert not opened.isVisible()


def test_what_was_measured_of_layers_is_not_lost_without_a_question(
    opened, hands, tmp_path: Path, scan_file: Path, monkeypatch
) -> None:
    import slicer

    presenter, asked = opened.frame.presenter, []
    engine = presenter._works.engine

    def request(method: str, params: object = None, **callbacks) -> SimpleNamespace:
        if method == "sensitivity":
            asked.append(callbacks)
        return SimpleNamespace(cancel=lambda: None)

    monkeypatch.setattr(engine, "request", request)
    monkeypatch.setattr(engine, "path", lambda name: str(tmp_path / name))

    def measure(effect: float) -> None:
        asked.clear()
        presenter.find_sensitivity()
        hands.until(lambda: asked)
        about = {"layer": "encoder.0", "kind": "Linear", "shape": [4, 8], "share": 1.0, "bits": 4}
        asked[0]["on_result"]({"cells": [{**about, "effect": effect}], "agreement": []})

    def save() -> None:
        opened.notice.clear()
        opened.documents.save_session(tmp_path / "case.mrb")
        hands.until(lambda: opened.notice.said.startswith("Saved"))
        assert opened.documents.unsaved() == []

    lost = ["the sensitivity of layers"]
    measure(0.1)
    assert opened.documents.unsaved() == lost
    save()
    measure(0.2)
    assert opened.documents.unsaved() == lost, "measured anew"
    first = opened.views.volume
    opened.documents.open_path(scan_file)
    hands.until(lambda: opened.views.volume is not first)
    assert opened.documents.unsaved() == lost, "of the other scan"
    save()
    second = opened.views.volume
    slicer.util.updateVolumeFromArray(second, slicer.util.arrayFromVolume(second) + 1)
    hands.until(lambda: presenter.shown.heatmap is None)
    measure(0.2)
    assert opened.documents.unsaved() == lost, "the same numbers of this scan"
    save()


def test_closing_asks_about_quantized_models_until_they_are_saved_or_exported(opened, hands, tmp_path: Path) -> None:
    assert opened.documents.unsaved() == []
    have_quantized(opened, tmp_path / "w4.mq.safetensors")
    assert opened.documents.unsaved() == ["quantized models"]
    opened.frame.presenter.facts.exported_models.add(str(tmp_path / "w4.mq.safetensors"))
    assert opened.documents.unsaved() == []
    opened.frame.presenter.facts.exported_models.clear()
    opened.documents.save_session(tmp_path / "case.mrb")
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    assert opened.documents.unsaved() == []


def test_looking_at_the_difference_leaves_nothing_to_save(opened, hands, tmp_path: Path) -> None:
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.host import DIFFERENCE, FP32, QUANTIZED

    volume, labels = opened.views.volume, np.ones((12, 60, 80), np.uint8)
    for kind in (FP32, QUANTIZED):
        masks.show(kind, labels, {1: "spot"}, volume, title=kind)
    assert opened.documents.unsaved() == ["masks"]
    opened.documents.save_session(tmp_path / "case.mrb")
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    masks.show(DIFFERENCE, labels, {1: "FP32 only"}, volume, title="Difference")
    assert opened.documents.unsaved() == []
    masks.show(QUANTIZED, 1 - labels, {1: "spot"}, volume, title=QUANTIZED)
    assert opened.documents.unsaved() == ["masks"]


def test_closing_asks_about_a_comparison_and_says_what_would_be_lost(
    opened, hands, tmp_path: Path, monkeypatch
) -> None:
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.host import COMPARISON, FP32, QUANTIZED
    from PySide6.QtWidgets import QMessageBox

    from medquant_desktop.documents import Documents

    volume = opened.views.volume
    for kind in (FP32, QUANTIZED):
        masks.show(kind, np.ones((12, 60, 80), np.uint8), {1: "spot"}, volume, title=kind)
    opened.documents.save_session(tmp_path / "case.mrb")
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    assert opened.documents.unsaved() == []
    opened.frame.module.host.keep(COMPARISON, "{}")
    assert opened.documents.unsaved() == ["a comparison"]
    have_quantized(opened, tmp_path / "w4.mq.safetensors")
    asked: list[str] = []
    answers = iter([QMessageBox.StandardButton.Cancel, QMessageBox.StandardButton.Save])
    monkeypatch.setattr(QMessageBox, "question", lambda _, __, text, *___: (asked.append(text), next(answers))[1])
    monkeypatch.delattr(opened.documents, "may_lose")
    opened.close()
    assert opened.isVisible() and asked == ["A comparison and quantized models are not saved."]
    monkeypatch.setattr(Documents, "ask_where_to_save", lambda self, then: self.save_session(tmp_path / "b.mrb", then))
    opened.close()
    assert opened.isVisible(), "it closes once it is saved"
    hands.until(lambda: not opened.isVisible())
    assert (tmp_path / "b.mrb").is_file() and len(asked) == 2


def test_a_window_that_saves_closes_when_it_has(opened, hands, tmp_path: Path) -> None:
    opened.documents.save_session(tmp_path / "case.mrb")
    opened.close()
    assert opened.isVisible()
    hands.until(lambda: not opened.isVisible())
    assert zipfile.is_zipfile(tmp_path / "case.mrb")


def test_looking_at_surfaces_is_no_change(opened, hands, tmp_path: Path) -> None:
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.host import FP32

    node = masks.show(FP32, np.ones((12, 60, 80), np.uint8), {1: "spot"}, opened.views.volume, title="FP32")
    opened.documents.save_session(tmp_path / "case.mrb")
    hands.until(lambda: opened.notice.said.startswith("Saved"))
    node.CreateClosedSurfaceRepresentation()
    assert opened.documents.unsaved() == []

"""The boxes that are drawn go along with the search for the smallest safe model."""

from __future__ import annotations

from pathlib import Path

import pytest
from presenter_fakes import LIVER, Panel


@pytest.fixture
def panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Panel:
    """A panel with a scan."""
    monkeypatch.setenv("MEDQUANT_CACHE", str(tmp_path))
    return Panel().open_scan()


def test_drawn_boxes_check_the_model(panel: Panel) -> None:
    panel.draw(LIVER).presenter.set_option("plane", "coronal")
    panel.presenter.find_safe()
    asked = panel.engine.last.params
    assert [box["name"] for box in asked["boxes"]] == [LIVER.name] and asked["plane"] == "coronal"
    assert asked["boxes"][0]["corners"] == LIVER.corners


def test_without_boxes_none_are_told(panel: Panel) -> None:
    panel.presenter.find_safe()
    assert panel.engine.last.params["boxes"] == []


def test_a_model_that_takes_no_boxes_gets_none(panel: Panel) -> None:
    panel.draw(LIVER).presenter.model_chosen("embedded-nnunet")
    panel.presenter.find_safe()
    assert panel.engine.last.params["boxes"] == []

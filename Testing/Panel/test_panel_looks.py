"""How the panel looks: nothing is cut off or too wide, it turns dark, and news are scrolled into sight."""

from __future__ import annotations

import pytest
from panel_fakes import QUANTIZED, make_widget
from panel_hands import choose_scan, click, draw_box, primary, settle, show


@pytest.fixture
def widget(widget):
    """The panel on the screen."""
    return show(widget)


def test_the_panel_turns_dark_with_the_application(widget):
    import qt

    application, before = qt.QApplication.instance(), widget.root.styleSheet
    palette = application.palette()
    dark = qt.QPalette(palette)
    dark.setColor(qt.QPalette.Window, qt.QColor("#202020"))
    dark.setColor(qt.QPalette.WindowText, qt.QColor("#E0E0E0"))
    application.setPalette(dark)
    try:
        settle()
        assert widget.root.styleSheet != before
    finally:
        application.setPalette(palette)
    settle()
    assert widget.root.styleSheet == before


@pytest.mark.parametrize("width", [340, 420, 600])
def test_nothing_is_cut_off(widget, width):
    """Every visible label and button has the room that its text needs."""
    import qt

    choose_scan(widget)
    click(widget.ui.methodFold)
    widget.parent.resize(width, 1800)
    settle()
    assert widget.root.minimumSizeHint.width() <= width
    for button in widget.root.findChildren(qt.QPushButton):
        if button.isVisible() and button.text:
            needed = button.fontMetrics().horizontalAdvance(button.text)
            assert button.width >= needed, button.objectName
    for one in widget.root.findChildren(qt.QLabel):
        if one.isVisible() and one.wordWrap and one.text:
            assert one.height >= one.heightForWidth(one.width) - 2, one.text


def test_long_words_make_no_wide_panel(widget, engine):
    """CTK's sections are by nature as wide as their longest line; Slicer's panel would be pushed into the views."""
    from MedQuantSlicerLib.colormap import legend

    choose_scan(widget)
    click(widget.ui.quantizeButton)
    message = "The scan could not be handed to the engine, and this is told at length. " * 5
    engine.last("quantize").callbacks["on_error"]({"kind": "user", "message": message})
    notes = (
        "4-bit is simulated: the file is smaller, the arithmetic is that of floating point.",
        "Not for clinical use.",
    )
    widget.ui.notesLabel.text = "\n".join(notes * 2)
    widget.ui.notesLabel.setVisible(True)
    widget.ui.layersSection.collapsed = False
    widget.ui.legendLabel.text = legend(1.0, "Masks: Dice against FP32 falls by")
    widget.ui.legendLabel.setVisible(True)
    settle()
    assert widget.panel.messages["quantize"].problem.isVisible()
    assert widget.root.minimumSizeHint.width() <= 340


def test_a_tall_panel_leaves_its_sections_as_they_are(widget):
    """The room that is left is below the last section; the sensitivity, which scrolls, may take it."""
    draw_box(choose_scan(widget))
    click(widget.ui.modelButton)
    heights = {}
    for height in (1400, 2400):
        widget.parent.resize(420, height)
        settle(60)
        heights[height] = [getattr(widget.ui, f"{name}Section").height for name in ("model", "segment", "compare")]
    assert heights[2400] == heights[1400]


def test_the_table_with_a_reference_fits_a_narrow_panel(widget, engine):
    """Six numbers for each structure stand in two tables; what each model has against the reference in one line."""
    from MedQuantSlicerLib import compare_table
    from MedQuantSlicerLib.state import Cell, Row, Table

    def row(title, *texts, **named):
        return Row(title, tuple(Cell(text) for text in texts), **named)

    small = ("int8 kernels (OpenVINO)", "CPU", "4.2 bits/weight")
    table = Table(
        ("Dice", "NSD", "HD95 mm", "Volume mL", "FP32 to reference", "4-bit to reference", "Seconds"),
        ("",) * 7,
        (
            row("FP32", "", "", "", "2006.5", ".800", "", "1.95 s", of_all=True, badges=("float32", "CPU")),
            row("4-bit", ".991", ".98", "1.1", "2014.0", "", ".798", "1.97 s", of_all=True, badges=small),
            row("liver", ".989", ".978", "1.5", "1801.9 (+6.9)", ".821", ".819", ""),
            row("spleen", ".991", ".98", "1.0", "204.6 (+0.7)", ".779", ".777", ""),
        ),
        "",
    )
    ui = widget.ui
    compare_table.fill_structures((ui.compareTable, ui.referenceTable), table)
    compare_table.fill_models(ui.costTable, table)
    assert [ui.referenceTable.headerItem().text(place) for place in range(3)] == [
        "Structure",
        "FP32\nto reference",
        "4-bit\nto reference",
    ]
    lines = [ui.costTable.topLevelItem(row) for row in range(ui.costTable.topLevelItemCount)]
    told = [[line.text(place) for place in range(3)] for line in lines]
    assert ["Dice to reference", ".800", ".798"] in told
    assert ["Seconds", "1.95 s", "1.97 s"] in told
    assert ["Arithmetic", "float32", "int8 kernels"] in told
    assert ["Runs on", "PyTorch", "OpenVINO"] in told
    assert ["Weights", "", "4.2 bits/weight"] in told
    assert "NSD" not in [line[0] for line in told], "FP32 has none: it stands with the structures"
    widget.parent.resize(360, 1800)
    settle()
    for tree in (ui.compareTable, ui.referenceTable, ui.costTable):
        widths = [tree.columnWidth(place) for place in range(tree.columnCount)]
        assert sum(widths) <= tree.width
        # Fonts differ from system to system: some room is left.
        assert widths[0] >= 1.2 * tree.fontMetrics().horizontalAdvance("Seconds")


@pytest.fixture
def scrolled(slicer, scene, engine):
    """A small scroll area, and the panel in it."""
    import qt

    area, holder = qt.QScrollArea(), qt.QWidget()
    qt.QVBoxLayout(holder)
    widget = make_widget(engine, holder)
    area.setWidget(holder)
    area.setWidgetResizable(True)
    area.resize(380, 500)
    area.show()
    yield area, widget
    widget.cleanup()
    area.close()
    settle()


def test_news_are_scrolled_into_sight(scrolled, engine):
    import qt

    area, widget = scrolled
    choose_scan(widget)
    widget.ui.layersSection.collapsed = False
    settle()
    widget.panel.presenter.find_sensitivity()
    settle()
    engine.last("sensitivity").callbacks["on_error"]({"kind": "user", "message": "Too small. Take another."})
    settle(60)
    place = widget.panel.messages["layers"].problem
    top = place.mapTo(area.viewport(), qt.QPoint(0, 0)).y()
    assert 0 <= top < area.viewport().height - 40


def test_who_wishes_something_for_a_layer_and_exports_is_not_sent_away(scrolled, engine, tmp_path):
    area, widget = scrolled
    ui, presenter, bar = widget.ui, widget.panel.presenter, area.verticalScrollBar()
    choose_scan(widget)
    click(ui.quantizeButton)
    engine.answer("quantize", QUANTIZED)
    ui.layersSection.collapsed = ui.exportSection.collapsed = False
    settle()
    presenter.find_sensitivity()
    about = {"layer": "encoder.0", "kind": "Linear", "shape": [8, 8], "share": 0.1}
    engine.answer("sensitivity", {"cells": [{**about, "bits": 4, "effect": 0.1}]})
    settle(60)
    presenter.layer_chosen("encoder.0")
    settle(60)
    bar.setValue(bar.maximum)
    before = bar.value
    assert before > 0 and primary(widget) == ["placeBoxButton"]
    presenter.keep_precise()
    settle(60)
    assert presenter.shown.overrides and primary(widget) == ["quantizeButton"], "the next step is another now"
    assert bar.value == before
    bar.setValue(bar.maximum)
    before = bar.value
    presenter.export("artifact", str(tmp_path))
    settle(60)
    engine.answer("export", {"folder": str(tmp_path / "model")})
    settle(60)
    assert presenter.shown.exported and bar.value == before

"""The sensitivity of layers in the panel: the heatmap and its names, views of masks, histograms, wishes."""

from __future__ import annotations

import numpy as np
import pytest
from panel_hands import choose, choose_scan, click, settle, show


@pytest.fixture
def widget(widget):
    """The panel on the screen."""
    return show(widget)


def test_heatmap_fills_folds_and_is_clicked(widget, engine):
    choose_scan(widget)
    widget.ui.layersSection.collapsed = False
    settle()
    click(widget.ui.sensitivityButton)
    partial = engine.last("sensitivity").callbacks["on_partial"]
    for block in (0, 1):
        for layer in ("attn.qkv", "mlp.lin1"):
            for bits, effect in ((8, 0.001), (4, 0.01), (2, 0.2 + 0.1 * block)):
                cell = {"layer": f"encoder.layers.{block}.{layer}", "kind": "Linear", "shape": [8, 8], "share": 0.1}
                partial({"cell": {**cell, "bits": bits, "effect": effect}})
    engine.answer("sensitivity", {"cells": []})
    settle()
    tree = widget.ui.heatmap
    assert tree.isVisible()
    assert tree.topLevelItemCount == 2
    block = tree.topLevelItem(1)
    assert block.text(0) == "encoder.layers.1  #1  #2", "a folded block tells which of the worst it holds"
    assert block.child(0).text(3) == "30"
    assert block.text(3) == "30", "a folded block shows its worst layer"
    bright, dark = (block.child(0).background(place).color().lightness() for place in (1, 3))
    assert bright > 230
    assert dark < 100
    assert not widget.ui.keepButton.enabled
    tree.itemClicked.emit(block.child(0), 3)
    settle()
    assert "encoder.layers.1.attn.qkv" in widget.ui.layerLabel.text
    click(widget.ui.keepButton)
    assert "encoder.layers.1.attn.qkv" in widget.ui.wishesLabel.text
    click(widget.ui.quantizeButton)
    assert engine.last("quantize").params["overrides"] == {"encoder.layers.1.attn.qkv": 8}


def test_rows_of_the_heatmap_keep_their_colours_and_whole_words(widget, engine):
    """A row that is clicked, at whatever column, has its name selected; names lose whole words, not parts of them."""
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    choose_scan(widget)
    widget.ui.layersSection.collapsed = False
    settle()
    click(widget.ui.sensitivityButton)
    partial = engine.last("sensitivity").callbacks["on_partial"]
    names = [
        f"mask_decoder.transformer.layers.{n}.attention_of_tokens_to_all_of_the_image.v_projection" for n in range(2)
    ]
    for number, name in enumerate(names):
        cell = {"layer": name, "kind": "Linear", "shape": [8, 8], "share": 0.1, "bits": 2, "effect": 0.1 + 0.8 * number}
        partial({"cell": cell})
    engine.answer("sensitivity", {"cells": []})
    settle()
    tree = widget.ui.heatmap
    rows = [tree.topLevelItem(n).child(0) for n in range(2)]
    for row, name in zip(rows, names):
        place = tree.visualItemRect(row)
        place.setLeft(tree.columnViewportPosition(1) + 3)
        QTest.mouseClick(tree.viewport(), Qt.LeftButton, Qt.NoModifier, place.center())
        settle()
        assert widget.panel.presenter.shown.layer.name == name
        assert [(index.row(), index.column()) for index in tree.selectedIndexes()] == [(0, 0)]
        assert tree.currentItem() is row
    pixels = tree.grab().toImage()
    ratio = pixels.devicePixelRatio()
    place = tree.visualItemRect(rows[1])
    at = tree.viewport().mapTo(tree, place.center())
    at.setX(tree.viewport().mapTo(tree, place.topLeft()).x() + tree.columnViewportPosition(1) + 4 - place.left())
    seen, meant = pixels.pixelColor(at * ratio), rows[1].background(1).color()
    assert (seen.red(), seen.green(), seen.blue()) == (meant.red(), meant.green(), meant.blue())
    left = rows[0].text(0).split("  #")[0]
    assert left.startswith("\N{HORIZONTAL ELLIPSIS}"), "else there was room for all of it"
    before, _found, after = names[0].rpartition(left[1:])
    assert before[-1] in "._" and after == ""
    assert tree.fontMetrics().horizontalAdvance(rows[0].text(0)) < tree.columnWidth(0)


@pytest.mark.parametrize(
    ("name", "block", "short"),
    [
        ("encoder.layers.0.attn.qkv", "encoder.layers.0", "encoder.layers.0.attn.qkv"),
        (
            "mask_decoder.transformer.layers.0.cross_attn_token_to_image.v_proj",
            "mask_decoder.transformer.layers.0",
            "\N{HORIZONTAL ELLIPSIS}layers.0.\N{HORIZONTAL ELLIPSIS}token_to_image.v_proj",
        ),
        (
            "mask_decoder.output_hypernetworks_mlps.3.proj_out",
            "mask_decoder.output_hypernetworks_mlps.3",
            "\N{HORIZONTAL ELLIPSIS}hypernetworks_mlps.3.proj_out",
        ),
        ("vision_encoder.patch_embed.projection", "", "\N{HORIZONTAL ELLIPSIS}encoder.patch_embed.projection"),
        ("n" * 50, "", "n" * 50),
    ],
    ids=["short", "number of the block", "one end", "no number", "one word"],
)
def test_a_long_name_loses_whole_words(slicer, name, block, short):
    from MedQuantSlicerLib.heatmap import within

    assert within(name, block) == short


def test_a_view_that_measures_masks_is_chosen_filled_and_read(widget, engine):
    choose_scan(widget)
    ui = widget.ui
    ui.layersSection.collapsed = False
    settle()
    assert not ui.viewSelector.isVisible(), "folded away"
    assert "quick estimate" in ui.layersLabel.text
    click(ui.viewFold)
    choose(ui.viewSelector, "One rounded at a time")
    choose(ui.whatSelector, "Weights and activations")
    assert "masks" in ui.layersLabel.text
    click(ui.sensitivityButton)
    asked = engine.last("sensitivity")
    assert asked.params["views"] == ("proxy", "one-at-a-time") and asked.params["what"] == "both"
    assert ui.sensitivityButton.text == "Cancel"
    about = {"kind": "Linear", "shape": [8, 8], "share": 0.5}
    histogram = {"minimum": -0.5, "maximum": 2.0, "counts": [0, 9, 900, 1]}
    told = [{"layer": f"layers.{n}.lin", "weights": histogram, "inputs": histogram} for n in (0, 1)]
    asked.callbacks["on_partial"]({"histograms": told})
    cells = []
    for n in (0, 1):
        for bits in (2, 8):
            cell = {**about, "layer": f"layers.{n}.lin", "bits": bits, "effect": 0.4}
            cells.append({**cell, "view": "proxy", "dsc_loss": None, "dsc": None})
            cells.append({**cell, "view": "one-at-a-time", "dsc_loss": 0.1 * n / bits, "dsc": 1 - 0.1 * n / bits})
    asked.callbacks["on_partial"]({"cell": cells[0]})
    settle()
    assert ui.legendLabel.text.startswith("Quick estimate"), "shown until the masks are measured"
    for cell in cells[1:]:
        asked.callbacks["on_partial"]({"cell": cell})
    agreement = [{"views": ["proxy", "one-at-a-time"], "bits": 2, "spearman": 0.25, "rounding": "W2A2"}]
    engine.answer("sensitivity", {"cells": cells, "agreement": agreement})
    settle()
    assert ui.legendLabel.text.startswith("Masks: Dice against FP32 falls by")
    assert ".25 at 2\N{NO-BREAK SPACE}bits" in ui.agreementLabel.text
    tree = ui.heatmap
    row = tree.topLevelItem(1).child(0)
    assert row.text(2) == "5.0" and "Dice against FP32 .950" in row.toolTip(2) and "5.0 % less" in row.toolTip(2)
    assert tree.headerItem().toolTip(2).startswith("Masks")
    assert not ui.histograms.isVisible()
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    at = tree.visualItemRect(row).center()
    QTest.mouseClick(tree.viewport(), Qt.LeftButton, Qt.NoModifier, at)
    settle()
    assert ui.histograms.isVisible() and ui.weightsPicture.width > 100
    assert ui.weightsLabel.text == "Weights \N{MINUS SIGN}0.5 to 2" and ui.inputsLabel.text.startswith("Inputs")
    assert "layers.1.lin" in ui.layerLabel.text and ".950 at 2\N{NO-BREAK SPACE}bits" in ui.layerLabel.text
    click(ui.keepButton)
    assert "layers.1.lin" in ui.wishesLabel.text
    tree.topLevelItem(0).setExpanded(False)
    choose(ui.viewSelector, "Quick estimate")
    assert [tree.topLevelItem(n).isExpanded() for n in (0, 1)] == [False, True], "folds stay as they were left"
    assert ui.legendLabel.text.startswith("Quick estimate") and tree.topLevelItem(1).child(0).text(2) == "40"
    assert "not looked at" in tree.topLevelItem(1).child(0).toolTip(2)
    choose(ui.viewSelector, "One spared at a time")
    assert not tree.isVisible() and not ui.legendLabel.isVisible() and not ui.histograms.isVisible()


def test_types_of_layers_stand_above_the_map_in_its_colours(widget, engine):
    choose_scan(widget)
    ui = widget.ui
    ui.layersSection.collapsed = False
    settle()
    click(ui.viewFold)
    choose(ui.viewSelector, "One spared at a time")
    click(ui.sensitivityButton)
    about = {"kind": "Linear", "shape": [8, 8], "share": 0.5, "bits": 2, "effect": 0.4, "view": "incremental"}
    cells = [
        {**about, "layer": f"layers.{n}.lin", "dsc": 0.5, "dsc_loss": 0.1 * n, "reference_loss": 0.05 * n}
        for n in (0, 1)
    ]
    types = [
        {**about, "layer": name, "kind": name, "shape": [], "share": 0.25, "dsc": 0.8, "dsc_loss": loss}
        for name, loss in (("Conv2d 3x3", 0.4), ("Linear attention", 0.1))
    ]
    engine.answer("sensitivity", {"cells": cells, "types": types})
    settle()
    above, tree = ui.typesMap, ui.heatmap
    assert above.isVisible() and above.topLevelItemCount == 2 and tree.topLevelItemCount == 2
    assert above.mapTo(widget.root, above.rect.bottomLeft()).y() < tree.mapTo(widget.root, tree.rect.topLeft()).y()
    assert [above.headerItem().text(n) for n in (0, 1)] == ["All layers of one type", "2 bits"]
    rows = [above.topLevelItem(n) for n in (0, 1)]
    assert [(row.text(0), row.text(1)) for row in rows] == [("Conv2d 3x3", "40"), ("Linear attention", "10")]
    assert "25.0 % of the weights" in rows[0].toolTip(0) and "all layers of this type spared" in rows[0].toolTip(1)
    layer = tree.topLevelItem(1).child(0)
    assert layer.text(1) == "10" and layer.background(1).color() == rows[1].background(1).color(), "one scale for both"
    assert "Dice against the reference: .050 more" in layer.toolTip(1)
    assert ui.legendLabel.text.endswith("40 %")
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    QTest.mouseClick(above.viewport(), Qt.LeftButton, Qt.NoModifier, above.visualItemRect(rows[0]).center())
    settle()
    assert widget.panel.presenter.shown.layer is None and not above.selectedIndexes()
    room = above.viewport().height / above.visualItemRect(rows[0]).height()
    assert room == 2, "as high as its rows"
    choose(ui.viewSelector, "Quick estimate")
    assert not above.isVisible()


def test_bars_of_a_histogram_are_as_high_as_the_logarithm_of_their_counts(slicer):
    from MedQuantSlicerLib.histograms import BAR, HIGH, picture_of
    from MedQuantSlicerLib.layer_state import Histogram

    image = picture_of(Histogram(0.0, 1.0, (0, 1, 1000, 10))).toImage()
    bars = [sum(image.pixelColor(BAR * n + 4, y).blue() > 200 for y in range(HIGH)) for n in range(4)]
    assert bars[0] == 0 < bars[1] < bars[3] < bars[2] == HIGH - 4
    assert bars[3] / bars[2] == pytest.approx(np.log(11) / np.log(1001), abs=0.01)
    assert image.pixelColor(0, 0).alpha() == 0


@pytest.mark.parametrize("blocks", [4, 25])
def test_the_worst_layers_are_named_however_many_there_are(widget, engine, blocks):
    from MedQuantSlicerLib.heatmap import MOST_ROWS

    choose_scan(widget)
    widget.ui.layersSection.collapsed = False
    settle()
    click(widget.ui.sensitivityButton)
    partial = engine.last("sensitivity").callbacks["on_partial"]
    for number in range(12 * blocks):
        layer = f"mask_decoder.transformer.layers.{number // 12}.cross_attn_token_to_image.q_proj_{number % 12}"
        shared = {"layer": layer, "kind": "Linear", "shape": [8, 8], "share": 0.001}
        for bits in (8, 4, 2):
            partial({"cell": {**shared, "bits": bits, "effect": (number + 1) / 1000 / bits}})
    engine.answer("sensitivity", {"cells": []})
    settle(60)
    ui, tree = widget.ui, widget.ui.heatmap
    worst = widget.panel.presenter.shown.heatmap.worst
    assert len(worst) == 5
    assert all(f"href='{name}'" in ui.worstLayersLabel.text for name in worst)
    last = tree.topLevelItem(blocks - 1)
    assert last.text(0).endswith("#1  #2  #3  #4  #5"), "also where its block is folded"
    assert last.isExpanded() is (blocks == 4)
    room = tree.viewport().height / tree.visualItemRect(tree.topLevelItem(0)).height()
    assert room == round(room) <= MOST_ROWS, "no row is cut"
    ui.worstLayersLabel.linkActivated.emit(worst[2])
    settle()
    assert worst[2].endswith(tree.currentItem().text(0).split("  #")[0].lstrip("\N{HORIZONTAL ELLIPSIS}"))
    assert widget.panel.presenter.shown.layer.name == worst[2]
    assert widget.root.minimumSizeHint.width() <= 420, "no name is wider than the panel"


def test_a_click_on_a_number_of_a_folded_block_leads_to_its_layer(widget, engine):
    from PySide6.QtCore import QPoint, Qt
    from PySide6.QtTest import QTest

    choose_scan(widget)
    widget.ui.layersSection.collapsed = False
    settle()
    click(widget.ui.sensitivityButton)
    about = {"kind": "Linear", "shape": [8, 8], "share": 0.1}
    effects = {"encoder.layers.0.qkv": (0.1, 0.4), "encoder.layers.0.mlp": (0.2, 0.3)}
    cells = [
        {**about, "layer": name, "bits": bits, "effect": effect}
        for name, pair in effects.items()
        for bits, effect in zip((4, 2), pair, strict=True)
    ]
    engine.answer("sensitivity", {"cells": cells})
    settle()
    tree, presenter = widget.ui.heatmap, widget.panel.presenter
    block = tree.topLevelItem(0)
    for column, layer in ((1, "encoder.layers.0.mlp"), (2, "encoder.layers.0.qkv")):
        block.setExpanded(False)
        at = QPoint(tree.columnViewportPosition(column) + 4, tree.visualItemRect(block).center().y())
        QTest.mouseClick(tree.viewport(), Qt.LeftButton, Qt.NoModifier, at)
        settle()
        assert presenter.shown.layer.name == layer
        assert block.isExpanded() and tree.currentItem().toolTip(0).startswith(layer)
    QTest.mouseClick(tree.viewport(), Qt.LeftButton, Qt.NoModifier, tree.visualItemRect(block).center())
    settle()
    assert presenter.shown.layer is None, "a block's name is none of a layer"

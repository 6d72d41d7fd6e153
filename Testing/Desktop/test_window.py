"""The window around the views: themes, menus, keys, the drawing of boxes, the difference, surfaces."""

from __future__ import annotations

import pytest

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")


def test_nothing_of_the_panel_is_wider_than_its_frame(tidy, hands) -> None:
    tidy.resize(1280, 800)
    hands.wait()
    assert tidy.frame.widget().minimumSizeHint.width() <= tidy.frame.viewport().width
    assert tidy.frame.widget().width <= tidy.frame.viewport().width


@pytest.mark.parametrize("name", ["light", "dark"])
def test_the_theme_changes_and_is_remembered(tidy, hands, name: str) -> None:
    tidy.actions_by_name[f"theme{name}"].trigger()
    hands.wait()
    picture = tidy.grab().toImage()
    dark = picture.pixelColor(picture.width() // 2, 8).lightness() < 128
    assert dark is (name == "dark")
    assert tidy.settings.value("theme") == name


def contrast(first: str, second: str) -> float:
    """WCAG's contrast of two colours."""
    from PySide6.QtGui import QColor

    def luminance(color: str) -> float:
        parts = [channel / 255 for channel in QColor(color).getRgb()[:3]]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_texts_of_a_theme_can_be_read() -> None:
    """4.5 between text and ground, also for quiet and small texts; only what cannot be pressed is fainter."""
    from medquant_desktop.theme import THEMES

    for theme in THEMES.values():
        grounds = (theme.window, theme.panel, theme.raised, theme.field)
        pairs = [(text, ground) for text in (theme.text, theme.muted) for ground in grounds]
        pairs += [(theme.error, theme.panel), (theme.error, theme.error_ground), (theme.bright, theme.panel)]
        pairs += [(theme.on_accent, theme.accent), (theme.on_accent, theme.accent_hover)]
        for text, ground in pairs:
            assert contrast(text, ground) >= 4.5, (theme.name, text, ground)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_the_texts_of_the_panel_can_be_read(tidy, name: str) -> None:
    """The panel mixes its colours from those of the application, as it must in Slicer."""
    import re

    tidy.set_theme(name)
    sheet = tidy.frame.module.root.styleSheet
    palette = tidy.frame.module.root.palette
    window = palette.window().color().name()

    def told(rule: str, what: str) -> str:
        return re.search(rf"{re.escape(rule)}[^}}]*?[ {{;]{what}: (#[0-9a-fA-F]{{6}})", sheet).group(1)

    quiet, text = told('QLabel[quiet="true"]', "color"), palette.windowText().color().name()
    chosen = told('QPushButton[bits="true"]:checked', "background")
    for ground in (window, palette.base().color().name(), chosen):
        assert contrast(quiet, ground) >= 4.5, ground
    for ground in (told('QLabel[hint="true"]', "background"), told('QFrame[problem="true"]', "background")):
        assert contrast(text, ground) >= 4.5, ground
    assert (palette.window().color().lightness() < 128) is (name == "dark")
    tidy.set_theme("dark")


def test_larger_text_makes_the_panel_wider_and_is_remembered(tidy, hands) -> None:
    tidy.set_text(0)
    before, wide = tidy.frame.module.root.font.pointSizeF(), tidy.frame.width
    for _ in range(3):
        tidy.actions_by_name["larger"].trigger()
    hands.wait()
    assert tidy.frame.width > wide
    assert float(tidy.settings.value("textPoints")) == before + 3
    assert tidy.frame.widget().width <= tidy.frame.viewport().width, "nothing is cut at the side"
    tidy.actions_by_name["usualText"].trigger()
    hands.wait()
    assert tidy.frame.width == wide


def test_a_large_screen_gets_larger_text() -> None:
    from medquant_desktop.theme import points_for

    assert points_for(0) == points_for(800) == points_for(1080) == 10
    assert 11 <= points_for(1440) <= 13
    assert points_for(2160) > points_for(1440)


def test_about_says_what_it_is_not_for(tidy, hands) -> None:
    from PySide6.QtWidgets import QDialog, QLabel

    for name, words in (("about", "Not for clinical use"), ("shortcuts", "flip FP32 and quantized")):
        tidy.actions_by_name[name].trigger()
        hands.wait()
        box = tidy.findChildren(QDialog)[-1]
        assert any(words in label.text for label in box.findChildren(QLabel))
        box.close()
        hands.wait()
    assert any(label.text == "Not for clinical use." for label in tidy.statusBar().findChildren(QLabel))


def test_every_key_of_the_list_is_a_key_of_the_window(tidy) -> None:
    from medquant_desktop.about import SHORTCUTS

    listed = {
        key
        for keys, _ in SHORTCUTS
        for key in keys.replace("Page Up", "PgUp").replace("Page Down", "PgDown").split(", ")
    }
    there = {keys.toString() for action in tidy.actions_by_name.values() for keys in action.shortcuts()}
    there |= set(tidy.frame.module.panel.keys())
    for key in ("Up", "Down", "PgUp", "PgDown", "B", "S", "D", "Space", "R", "1", "2", "3"):
        assert key in there
        assert any(key in one for one in listed)


def test_no_key_means_two_things(tidy) -> None:
    from PySide6.QtGui import QShortcut

    keys = [key.toString() for action in tidy.actions_by_name.values() for key in action.shortcuts()]
    keys += [shortcut.key.toString() for shortcut in tidy.findChildren(QShortcut)]
    assert len(keys) == len(set(keys))


def test_comparing_side_by_side_keeps_the_keys(tidy, hands) -> None:
    """A view that comes must not take the keys away, not even for a moment."""
    assert tidy.isActiveWindow
    tidy.views.show_pair()
    tidy.views.show_optional("MedQuantDifference", True)
    hands.wait()
    assert tidy.isActiveWindow


def test_a_box_is_drawn_by_two_clicks_and_dragged(tidy, hands) -> None:
    from MedQuantSlicerLib import boxes

    view = tidy.views.left
    hands.press(tidy, "B")
    hands.click(view, 0.3, 0.3)
    hands.click(view, 0.6, 0.7)
    hands.wait(0.3)
    (node,) = boxes.boxes_of(tidy.views.volume)
    size = node.GetSize()
    low = [min(corner[axis] for corner in boxes.corners_of(node)) for axis in range(3)]
    width, height = view.node.GetDimensions()[:2]
    field = view.node.GetFieldOfView()
    assert size[0] == pytest.approx(0.3 * field[0], abs=2 * field[0] / width)
    assert size[1] == pytest.approx(0.4 * field[1], abs=2 * field[1] / height)
    assert tidy.frame.presenter.shown.boxes
    # Its edge lies over its handles: the middle moves all of it.
    hands.drag(view, (0.45, 0.5), (0.5, 0.5))
    hands.wait(0.3)
    moved = [min(corner[axis] for corner in boxes.corners_of(node)) for axis in range(3)]
    assert node.GetSize() == pytest.approx(size)
    assert abs(moved[0] - low[0]) == pytest.approx(0.05 * field[0], abs=3 * field[0] / width)
    assert moved[1:] == pytest.approx(low[1:], abs=3 * field[1] / height)


def test_after_a_box_left_drag_changes_the_window_again(tidy, hands) -> None:
    view = tidy.views.left
    hands.press(tidy, "B")
    hands.click(view, 0.4, 0.4)
    hands.click(view, 0.5, 0.5)
    hands.wait(0.3)
    display = tidy.views.volume.GetDisplayNode()
    before = display.GetWindow()
    hands.drag(view, (0.7, 0.7), (0.9, 0.7))
    assert display.GetWindow() != pytest.approx(before)


def test_the_difference_gets_a_view_and_a_profile(tidy, hands, tmp_path) -> None:
    import numpy as np
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.host import DIFFERENCE, FP32_ONLY, Masks

    from medquant_desktop.difference_profile import profile

    labels = np.zeros((12, 60, 80), np.uint8)
    labels[2, 30, 30:34] = labels[7, 20, 20] = FP32_ONLY
    np.save(tmp_path / "d.npy", labels)
    host = tidy.frame.module.host
    host.show_masks(DIFFERENCE, Masks(str(tmp_path / "d.npy"), {FP32_ONLY: "FP32 only"}), partial=False)
    host.show_results("FP32", "4-bit", True)
    hands.wait()
    assert tidy.views.panes["MedQuantDifference"].isVisible()
    node = masks.segmentation_of(DIFFERENCE, tidy.views.volume)
    tags = ("MedQuantFP32", "MedQuantQuantized", "MedQuantDifference")
    shown = [node.GetDisplayNode().IsDisplayableInView(f"vtkMRMLSliceNode{tag}") for tag in tags]
    assert shown == [False, False, True]
    per_slice = [np.count_nonzero(labels, axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
    assert profile(per_slice, tidy.views.left) == (0, 0, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0)
    tidy.views.set_orientation("Coronal")
    # From the back to the front, as the view counts.
    counts = profile(per_slice, tidy.views.left)
    assert len(counts) == 60
    assert counts[60 - 1 - 30] == 4
    assert counts[60 - 1 - 20] == 1
    host.remove_masks(DIFFERENCE)
    host.show_results("", "", False)
    assert not tidy.views.panes["MedQuantDifference"].isVisible()


def test_the_surface_shows_where_the_models_differ() -> None:
    import numpy as np

    from medquant_desktop.surface_maker import surface_of
    from medquant_desktop.surfaces import colors_of
    from medquant_desktop.theme import AGREED, FP32, QUANTIZED, channels

    fp32, quantized = np.zeros((2, 12, 30, 40), np.uint8)
    fp32[2:9, 5:25, 5:30] = quantized[2:9, 5:25, 10:35] = 1
    spacing = np.diag([1.5, 1.0, 3.0, 1.0])
    points, triangles, normals, apart = surface_of(fp32, quantized, spacing)
    assert len(points) == len(normals) == len(apart) > triangles.max()
    left, right = points[:, 0] < 5.5 * 1.5, points[:, 0] > 33.5 * 1.5
    assert apart[left].max() < -6, "five voxels of 1.5 mm that only FP32 has"
    assert apart[right].min() > 6
    inner = (points[:, 0] > 18) & (points[:, 0] < 40)
    assert not apart[inner].any()
    colors = colors_of(apart)
    for where, color in ((left, FP32), (right, QUANTIZED), (inner, AGREED)):
        assert (colors[where] == channels(color)).all()
    nothing = np.zeros_like(fp32)
    assert len(surface_of(nothing, nothing, spacing)[0]) == 0
    assert np.isposinf(surface_of(nothing, quantized, spacing)[3]).all()


def test_surfaces_appear_in_3d(tidy, hands, tmp_path) -> None:
    import numpy as np
    import slicer
    from MedQuantSlicerLib.host import QUANTIZED, Masks

    labels = np.zeros((12, 60, 80), np.uint8)
    labels[3:8, 20:40, 30:50] = 1
    np.save(tmp_path / "m.npy", labels)
    tidy.frame.module.host.show_masks(QUANTIZED, Masks(str(tmp_path / "m.npy"), {1: "block"}), partial=False)
    tidy.bar.three_d.click()
    hands.until(lambda: not tidy.views.panes["MedQuant3D"].view.words)
    surface = slicer.util.getNode("MedQuant surface").GetPolyData()
    # voxels 30..49, 20..39, 3..7 of 2 x 2 x 5 mm from (-80, -60, 100) in LPS, here in RAS
    assert surface.GetBounds() == pytest.approx((-19, 21, -19, 21, 112.5, 137.5), abs=1.5)
    hands.wait(0.2)
    picture = tidy.views.panes["MedQuant3D"].view._picture
    middle = picture.pixelColor(picture.width() // 2, picture.height() // 2)
    corner = picture.pixelColor(3, 3)
    assert middle.red() > corner.red() + 60, "the amber of the quantized model stands in the middle"
    hands.drag(tidy.views.panes["MedQuant3D"].view, (0.4, 0.5), (0.6, 0.6))
    assert tidy.views.panes["MedQuant3D"].view._picture != picture


def test_scrolling_the_panel_changes_no_choice(tidy, hands) -> None:
    """A list or a slider under the pointer stays as it was; one that was clicked turns."""
    from PySide6.QtCore import QPoint, QPointF, Qt
    from PySide6.QtGui import QWheelEvent
    from PySide6.QtWidgets import QAbstractSlider, QAbstractSpinBox, QApplication, QComboBox, QScrollBar

    def wheel(widget: object) -> bool:
        middle = QPointF(widget.rect.center())
        event = QWheelEvent(
            middle, QPointF(widget.mapToGlobal(middle.toPoint())), QPoint(), QPoint(0, -120),
            Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
        )  # fmt: skip
        QApplication.sendEvent(widget, event)
        return event.isAccepted()

    inside = tidy.frame.widget()
    kinds = (QComboBox, QAbstractSpinBox, QAbstractSlider)
    found = [one for kind in kinds for one in inside.findChildren(kind) if not isinstance(one, QScrollBar)]
    assert len(found) > 5
    before = tidy.frame.module.parameters.opacity
    for widget in found:
        widget.clearFocus()
        wheel(widget)
    hands.wait()
    assert tidy.frame.module.parameters.opacity == before
    assert all(not widget.hasFocus() for widget in found)

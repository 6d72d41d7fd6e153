"""The linked views by wheel, mouse and keys."""

from __future__ import annotations

import re

import pytest


def number(view) -> int:
    """The slice that is shown, from 0."""
    return view.place()[0][0]


@pytest.fixture
def pair(tidy, hands):
    """Both views of the window, side by side."""
    tidy.views.set_titles("FP32  7.7 MB", "4-bit  2.5 MB")
    tidy.views.show_pair()
    hands.wait()
    return tidy.views.left, tidy.views.right


def pixel(view, x: float, y: float) -> int:
    """Brightness of the picture at a place given as parts of its width and height."""
    picture = view._picture
    return picture.pixelColor(round(x * picture.width()), round(y * picture.height())).lightness()


def test_the_wheel_turns_both_views(pair, hands) -> None:
    left, right = pair
    begin = number(left)
    hands.wheel(left, 2)
    assert (number(left), number(right)) == (begin + 2, begin + 2)
    hands.wheel(right, -1)
    assert (number(left), number(right)) == (begin + 1, begin + 1)


def test_a_wheel_step_draws_each_view_once(pair, hands) -> None:
    left, right = pair
    before = left.pictures, right.pictures
    hands.wheel(left, 1)
    assert (left.pictures, right.pictures) == (before[0] + 1, before[1] + 1)


def test_views_of_one_plane_share_its_image_and_others_have_their_own(pair, hands, tidy) -> None:
    def image(view):
        return view._mapper.GetInputConnection(0, 0).GetProducer()

    left, right = pair
    hands.wheel(left, -20)
    assert image(left) is image(right)
    assert (left._picture.size(), pixel(left, 0.5, 0.5)) == (right._picture.size(), pixel(right, 0.5, 0.5))
    first = right._picture.copy()
    tidy.bar.linked.click()
    hands.wheel(left, 6)
    assert image(left) is not image(right)
    assert right._picture == first, "the other view stays where it was"
    tidy.bar.linked.click()
    hands.wheel(left, 1)
    assert image(left) is image(right)
    assert right._picture != first


def test_shift_jumps_ten_and_stops_at_the_end(pair, hands) -> None:
    left, right = pair
    hands.wheel(left, -20)
    assert number(left) == 0
    hands.wheel(left, 1, "ShiftModifier")
    assert (number(left), number(right)) == (10, 10)
    hands.wheel(left, 1, "ShiftModifier")
    assert number(left) == 11


def test_half_notches_add_up(pair, hands, application) -> None:
    from PySide6.QtCore import QPoint, QPointF, Qt
    from PySide6.QtGui import QWheelEvent

    left, _ = pair
    begin, at = number(left), QPointF(50, 50)
    for _ in range(4):
        none, phase = Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase
        event = QWheelEvent(at, at, QPoint(), QPoint(0, 60), Qt.MouseButton.NoButton, none, phase, False)
        application.sendEvent(left, event)
    assert number(left) == begin + 2


def test_unlinked_views_go_their_own_ways(pair, hands, tidy) -> None:
    left, right = pair
    tidy.bar.linked.click()
    begin = number(right)
    hands.wheel(left, 3)
    assert number(right) == begin
    assert number(left) == begin + 3


def test_left_drag_changes_the_window_of_both(pair, hands) -> None:
    left, right = pair
    display = left.volume().GetDisplayNode()
    before = display.GetWindow(), display.GetLevel()
    hands.drag(left, (0.4, 0.4), (0.7, 0.4))
    assert display.GetWindow() != pytest.approx(before[0])
    assert right.corners().width == pytest.approx(display.GetWindow())


@pytest.mark.parametrize(("button", "modifier"), [("MiddleButton", "NoModifier"), ("LeftButton", "ShiftModifier")])
def test_drags_pan_both(pair, hands, button: str, modifier: str) -> None:
    left, right = pair
    before = left.node.GetXYZOrigin()[:2]
    hands.drag(left, (0.4, 0.4), (0.6, 0.5), button, modifier)
    assert left.node.GetXYZOrigin()[:2] != pytest.approx(before)
    assert right.node.GetXYZOrigin()[:2] == pytest.approx(left.node.GetXYZOrigin()[:2])


def test_right_drag_and_control_wheel_zoom_and_fit_undoes_it(pair, hands, tidy) -> None:
    left, right = pair
    whole = left.node.GetFieldOfView()[0]
    hands.drag(left, (0.5, 0.3), (0.5, 0.7), "RightButton")
    zoomed = left.node.GetFieldOfView()[0]
    assert zoomed != pytest.approx(whole)
    assert right.node.GetFieldOfView()[0] == pytest.approx(zoomed)
    hands.wheel(left, 2, "ControlModifier")
    assert left.node.GetFieldOfView()[0] != pytest.approx(zoomed)
    hands.press(tidy, "R")
    assert left.node.GetFieldOfView()[0] == pytest.approx(whole)
    assert right.node.GetFieldOfView()[0] == pytest.approx(whole)


def test_the_picture_lies_as_the_letters_say(pair, hands) -> None:
    """The spot is at the patient's right, front and feet."""
    left, _ = pair
    hands.wheel(left, -20)
    assert left.corners().edges == ("R", "A", "L", "P")
    matrix = left.node.GetXYToRAS()
    matrix.Invert()
    # voxel (22, 23, 0), in RAS
    x, y = matrix.MultiplyPoint([-(-80 + 44.0), -(-60 + 46.0), 100.0, 1.0])[:2]
    width, height = left.node.GetDimensions()[:2]
    assert x < width / 2
    assert y > height / 2
    assert pixel(left, x / width, 1 - y / height) > 240
    assert 80 < pixel(left, 1 - x / width, 1 - y / height) < 200


def test_resizing_keeps_the_whole_scan_or_the_zoom(pair, hands, tidy) -> None:
    left, _ = pair
    hands.wheel(left, 3)
    before = number(left)
    tidy.resize(900, 700)
    hands.wait()
    whole = left.node.GetFieldOfView()
    assert whole[0] >= 64 * 2
    assert whole[1] >= 48 * 2
    assert number(left) == before
    hands.wheel(left, 4, "ControlModifier")
    zoomed = left.node.GetFieldOfView()[0]
    tidy.resize(1280, 800)
    hands.wait()
    assert left.node.GetFieldOfView()[0] < 1.5 * zoomed < 128


def test_keys_turn_and_step(pair, hands, tidy) -> None:
    left, right = pair
    hands.press(tidy, "2")
    assert left.corners().orientation == right.corners().orientation == "Coronal"
    assert left.place()[0][1] == 60
    begin = number(left)
    hands.press(left, "Up")
    hands.press(left, "PageUp")
    assert number(right) == begin + 11
    hands.press(tidy, "3")
    assert left.place()[0][1] == 80
    hands.press(tidy, "1")
    assert left.place()[0][1] == 12


def test_the_slider_follows_and_leads(pair, hands, tidy) -> None:
    left, _ = pair
    slider = tidy.views.slider
    hands.click(slider, 0.999, 0.6)
    assert number(left) == 11
    hands.click(slider, 0.0, 0.6)
    assert number(left) == 0
    hands.wheel(left, 4)
    assert (slider.number, slider.count) == (4, 12)


def test_the_mouse_tells_where_it_is_and_what_is_there(pair, hands, tidy) -> None:
    left, _ = pair
    hands.click(left, 0.5, 0.5)
    assert re.search(r"voxel 4[01], 3[01], 6 ", tidy._probe.text)
    assert "40 HU" in tidy._probe.text


@pytest.mark.usefixtures("pair")
def test_flipping_swaps_the_places(hands, tidy) -> None:
    first, second = tidy.views.panes["MedQuantFP32"], tidy.views.panes["MedQuantQuantized"]
    assert first.x < second.x
    hands.press(tidy, "Space")
    assert first.x > second.x
    hands.press(tidy, "Space")
    assert first.x < second.x


@pytest.mark.usefixtures("pair")
def test_a_double_click_on_a_title_enlarges_the_view(hands, tidy) -> None:
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    pane = tidy.views.panes["MedQuantQuantized"]
    narrow = pane.width
    QTest.mouseDClick(pane.strip, Qt.MouseButton.LeftButton)
    hands.wait()
    assert pane.width > 1.8 * narrow
    assert not tidy.views.panes["MedQuantFP32"].isVisible()
    QTest.mouseDClick(pane.strip, Qt.MouseButton.LeftButton)
    hands.wait()
    assert pane.width == narrow


@pytest.mark.usefixtures("pair")
def test_titles_and_the_single_view(tidy, hands) -> None:
    assert tidy.views.panes["MedQuantFP32"]._title.text == "FP32  7.7 MB"
    tidy.views.show_single()
    hands.wait()
    assert not tidy.views.panes["MedQuantQuantized"].isVisible()
    assert not tidy.views.panes["MedQuantFP32"].strip.isVisible()


@pytest.mark.usefixtures("pair")
def test_the_crosshair_is_drawn_on_demand(tidy) -> None:
    import slicer

    node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    tidy.bar.crosshair.click()
    assert node.GetCrosshairMode() == node.ShowBasic
    tidy.bar.crosshair.click()
    assert node.GetCrosshairMode() == node.NoCrosshair

"""The panel and what lies in the views: boxes, a scan that is moved, masks, the layout, and the keys for them."""

from __future__ import annotations

import numpy as np
import panel_geometries as geometries
import pytest
from panel_hands import choose_scan, click, draw_box, settle, show


@pytest.fixture
def widget(widget):
    """The panel on the screen."""
    return show(widget)


def _leave_the_panel():
    """Nothing of the panel has the focus, as after a click into a view."""
    import qt

    focused = qt.QApplication.focusWidget()
    if focused is not None:
        focused.clearFocus()


def test_a_box_is_named_and_removed_in_the_list(widget):
    volume = choose_scan(widget)
    box = draw_box(volume, "Structure 1")
    draw_box(volume, "Structure 2")
    item = widget.ui.boxList.topLevelItem(0)
    item.setText(0, "spleen")
    settle()
    assert box.GetName() == "spleen"
    assert [one.name for one in widget.host.boxes()] == ["spleen", "Structure 2"]
    widget.ui.boxList.itemClicked.emit(widget.ui.boxList.topLevelItem(0), 1)
    settle(250)
    assert [one.name for one in widget.host.boxes()] == ["Structure 2"]
    assert widget.ui.boxList.topLevelItemCount == 1


def test_a_box_from_a_segment(widget):
    from MedQuantSlicerLib import masks

    volume = choose_scan(widget, "oblique")
    labels = np.zeros((9, 12, 16), np.uint8)
    labels[3:6, 2:8, 5:9] = 1
    node = masks.show("fp32", labels, {1: "liver"}, volume, title="drawn")
    node.SetAttribute(masks.KIND_ATTRIBUTE, "")
    menu = widget.ui.boxFromSegmentButton.menu()
    menu.aboutToShow.emit()
    menu.actions()[0].trigger()
    settle(250)
    (box,) = widget.host.boxes()
    assert box.name == "liver"
    inverse = np.linalg.inv(np.array(widget.host.volume().ijk_to_lps))
    corners = np.array([inverse @ [*corner, 1.0] for corner in box.corners])[:, :3]
    np.testing.assert_allclose(corners.min(axis=0), [4.5, 1.5, 2.5], atol=1e-4)
    np.testing.assert_allclose(corners.max(axis=0), [8.5, 7.5, 5.5], atol=1e-4)


def test_a_moved_scan_is_noticed(widget):
    volume = choose_scan(widget)
    before = widget.panel.presenter.shown
    volume.SetAndObserveTransformNodeID(geometries.add_transform(geometries.moved()).GetID())
    settle(250)
    assert widget.panel.presenter.facts.volume.key == widget.host.volume().key
    assert before.scan == widget.panel.presenter.shown.scan


def test_opacity_and_fill_reach_the_masks(widget):
    from MedQuantSlicerLib import masks

    volume = choose_scan(widget)
    node = masks.show("fp32", np.ones((9, 12, 16), np.uint8), {1: "liver"}, volume, title="FP32")
    widget.ui.opacitySlider.setValue(0.4)
    widget.ui.filledBox.setChecked(True)
    settle()
    display = node.GetDisplayNode()
    assert display.GetOpacity2DOutline() == pytest.approx(0.4)
    assert display.GetVisibility2DFill()


def test_keys(widget, engine):
    from MedQuantSlicerLib import masks

    volume = choose_scan(widget)
    draw_box(volume)
    widget.parameters.run = type(widget.parameters.run).FP32
    keys = widget.panel.keys()
    keys["S"]()
    settle()
    assert engine.last("segment").params["of"] == "embedded"
    labels = np.ones((9, 12, 16), np.uint8)
    node = masks.show("fp32", labels, {1: "liver"}, volume, title="FP32")
    _leave_the_panel()
    keys["Space"]()
    assert node.GetDisplayNode().IsDisplayableInView("vtkMRMLSliceNodeMedQuantQuantized")
    keys["Space"]()
    assert not node.GetDisplayNode().IsDisplayableInView("vtkMRMLSliceNodeMedQuantQuantized")
    assert node.GetDisplayNode().IsDisplayableInView("vtkMRMLSliceNodeMedQuantFP32")


def test_the_space_bar_belongs_to_what_has_the_focus(widget):
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    choose_scan(widget)
    flips = []
    widget.host.flip = lambda: flips.append(1)
    widget.root.window().activateWindow()
    widget.ui.windowSelector.setFocus()
    settle()
    QTest.keyClick(widget.ui.windowSelector, Qt.Key_Space)
    settle()
    assert widget.ui.windowSelector.view().isVisible(), "the list opens"
    assert not flips
    widget.ui.windowSelector.hidePopup()
    widget.ui.filledBox.setVisible(True)
    widget.ui.filledBox.setFocus()
    QTest.keyClick(widget.ui.filledBox, Qt.Key_Space)
    assert widget.ui.filledBox.checked
    assert not flips
    click(widget.ui.bits8Button)
    assert not widget.ui.bits8Button.hasFocus(), "a click leaves the space bar to the masks"
    _leave_the_panel()
    widget.panel.keys()["Space"]()
    assert flips == [1]


def test_leaving_gives_the_layout_back_and_cleanup_observes_nothing(widget, slicer):
    widget.exit()
    assert ("restore",) in widget.host.calls

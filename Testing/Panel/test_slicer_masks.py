"""In which of Slicer's views masks are drawn, with stand-ins for its layout manager."""

from __future__ import annotations

import numpy as np
import panel_geometries as geometries
import pytest
from layout_fakes import LEFT, RIGHT, THIRD, choose_with_masks, show_pair, shown_in, views_of


def test_outside_the_pair_masks_are_ordinary_segmentations(host, manager):
    volume = choose_with_masks(host)
    assert views_of("fp32", volume) == [], "before the pair is shown every view draws them"
    show_pair(host, "FP32", "4-bit")
    assert (shown_in("fp32", volume), shown_in("quantized", volume)) == ([LEFT], [RIGHT])
    manager.setLayout(6)
    assert (views_of("fp32", volume), views_of("quantized", volume)) == ([], [])
    show_pair(host, "FP32", "4-bit")
    assert (shown_in("fp32", volume), shown_in("quantized", volume)) == ([LEFT], [RIGHT])
    host.restore_layout()
    assert (views_of("fp32", volume), views_of("quantized", volume)) == ([], [])


def test_what_the_user_binds_to_a_view_stays_bound(host, manager):
    from MedQuantSlicerLib import masks

    volume = choose_with_masks(host)
    show_pair(host, "FP32", "4-bit")
    host.restore_layout()
    masks.segmentation_of("fp32", volume).GetDisplayNode().SetViewNodeIDs(["vtkMRMLSliceNodeRed"])
    manager.setLayout(6)
    assert views_of("fp32", volume) == ["vtkMRMLSliceNodeRed"]


def test_masks_that_come_while_another_layout_is_shown_are_drawn_everywhere(host, manager, tmp_path):
    from MedQuantSlicerLib.host import Masks

    volume = geometries.add_volume()
    host.parameters.inputVolume = volume
    np.save(tmp_path / "m.npy", np.ones((9, 12, 16), np.uint8))
    host.show_masks("fp32", Masks(str(tmp_path / "m.npy"), {1: "liver"}, shown_as="FP32"), True)
    assert views_of("fp32", volume) == []


def test_a_scene_saved_beside_the_pair_shows_its_masks_anywhere(host, manager, slicer, scene, tmp_path):
    """Nothing tells a module that Slicer saves: what is in the scene must do as it is."""
    volume = choose_with_masks(host)
    show_pair(host, "FP32", "4-bit")
    path = tmp_path / "scene.mrml"
    scene.SetURL(str(path))
    scene.Commit()
    other = slicer.vtkMRMLScene()
    other.SetURL(str(path))
    other.Import()
    assert other.GetNumberOfNodesByClass("vtkMRMLLayoutNode") == 0, "whoever opens it keeps the layout there is"
    displays = [
        other.GetNthNodeByClass(n, "vtkMRMLSegmentationDisplayNode")
        for n in range(other.GetNumberOfNodesByClass("vtkMRMLSegmentationDisplayNode"))
    ]
    assert len(displays) == 2
    for display in displays:
        for view in ("SliceNodeRed", "SliceNodeYellow", "SliceNodeGreen", "ViewNode1"):
            assert display.IsDisplayableInView(f"vtkMRML{view}")
    assert shown_in("fp32", volume) == [LEFT], "and here nothing has changed"
    host.restore_layout()
    scene.Commit()
    assert 'currentViewArrangement="3"' in path.read_text(encoding="utf-8")


def test_flipping_takes_the_titles_along(host, manager):
    volume = choose_with_masks(host)
    show_pair(host, "FP32  7.7 MB", "4-bit  2.5 MB")

    def seen():
        views = [manager.sliceWidget(tag) for tag in (LEFT, RIGHT)]
        labels = [view.logic.GetSliceNode().GetLayoutLabel() for view in views]
        return [view.title for view in views], labels, shown_in("fp32", volume), shown_in("quantized", volume)

    before = seen()
    assert before == (["FP32  7.7 MB", "4-bit  2.5 MB"], ["FP32", "Quantized"], [LEFT], [RIGHT])
    host.flip()
    assert seen() == (["4-bit  2.5 MB", "FP32  7.7 MB"], ["Quantized", "FP32"], [RIGHT], [LEFT])
    color = manager.sliceWidget(LEFT).logic.GetSliceNode().GetLayoutColor()
    assert color == pytest.approx((0xF2 / 255, 0xA3 / 255, 0x3A / 255))
    host.flip()
    assert seen() == before


@pytest.mark.parametrize("change", ["masks", "removed", "layout", "scan"])
def test_a_flip_ends_when_something_else_comes(host, manager, tmp_path, change):
    from MedQuantSlicerLib.host import Masks
    from MedQuantSlicerLib.slicer_layouts import TRIPLE

    volume = choose_with_masks(host)
    show_pair(host, "FP32", "4-bit")
    host.flip()
    assert shown_in("fp32", volume) == [RIGHT]
    if change == "masks":
        np.save(tmp_path / "m.npy", np.ones((9, 12, 16), np.uint8))
        host.show_masks("quantized", Masks(str(tmp_path / "m.npy"), {1: "liver"}, shown_as="4-bit"), False)
    elif change == "removed":
        host.remove_masks("quantized")
    elif change == "layout":
        manager.setLayout(TRIPLE)
    else:
        volume = choose_with_masks(host, "sagittal")
    assert shown_in("fp32", volume) == [LEFT]
    assert [manager.sliceWidget(tag).title for tag in (LEFT, RIGHT)] == ["FP32", "4-bit"]
    if change != "removed":
        assert shown_in("quantized", volume) == [RIGHT]


def test_the_difference_has_a_view_of_its_own(host, manager, tmp_path):
    from MedQuantSlicerLib.host import Masks
    from MedQuantSlicerLib.slicer_layouts import PAIR, TRIPLE

    volume = choose_with_masks(host)
    show_pair(host, "FP32", "4-bit")
    left = manager.sliceWidget(LEFT).logic
    left.SetSliceOffset(left.GetSliceOffset() + 5)
    left.GetSliceNode().SetFieldOfView(20, 15, 1)
    np.save(tmp_path / "difference.npy", np.ones((9, 12, 16), np.uint8))
    told = Masks(str(tmp_path / "difference.npy"), {1: "FP32 only", 2: "4-bit only"}, shown_as="Difference")
    host.show_masks("difference", told, False)
    host.show_results("FP32", "4-bit", True)
    assert manager.layout == TRIPLE
    assert shown_in("difference", volume, (LEFT, RIGHT, THIRD)) == [THIRD]
    assert [manager.sliceWidget(tag).title for tag in (LEFT, RIGHT, THIRD)] == ["FP32", "4-bit", "Difference"]
    assert left.GetSliceNode().GetFieldOfView()[0] == 20, "the views that were there stay as they are"
    third = manager.sliceWidget(THIRD).logic
    assert third.GetSliceOffset() == pytest.approx(left.GetSliceOffset())
    host.remove_masks("difference")
    host.show_results("FP32", "4-bit", False)
    assert manager.layout == PAIR
    manager.setLayout(3)
    host.show_results("FP32", "4-bit", True)
    assert manager.layout == 3, "the user looks at something else"


def test_surfaces_stand_in_the_layout_that_has_3d(host, manager):
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.slicer_layouts import QUAD

    volume = choose_with_masks(host)
    show_pair(host, "FP32", "4-bit")
    nodes = [masks.segmentation_of(kind, volume) for kind in ("fp32", "quantized")]
    assert not any(node.GetSegmentation().ContainsRepresentation("Closed surface") for node in nodes)
    manager.setLayout(QUAD)
    for node in nodes:
        assert node.GetSegmentation().ContainsRepresentation("Closed surface")
        assert node.GetDisplayNode().IsDisplayableInView("vtkMRMLViewNodeMedQuant3D")
    assert manager.fitted_3d == 1
    fp32, quantized = (node.GetDisplayNode() for node in nodes)
    host.style()
    assert fp32.GetOpacity3D() < quantized.GetOpacity3D()


def test_closing_leaves_ordinary_segmentations(host, manager):
    volume = choose_with_masks(host)
    show_pair(host, "FP32", "4-bit")
    host.close()
    assert views_of("fp32", volume) == []
    manager.setLayout(6)  # nobody hears it
    host.close = lambda: None

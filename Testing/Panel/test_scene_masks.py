"""Masks and references in real MRML, in every orientation, under transforms and piece by piece."""

from __future__ import annotations

import numpy as np
import panel_geometries as geometries
import pytest


def _segment_mask(slicer, node, volume, segment="MedQuant_1"):
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume).astype(bool)


@geometries.every_geometry
@pytest.mark.parametrize("transformed", [False, True])
def test_masks_return_on_the_same_voxels(slicer, scene, geometry, transformed, rng):
    from MedQuantSlicerLib import masks

    volume = geometries.add_volume(geometry)
    before = slicer.util.arrayFromVolume(volume).copy()
    if transformed:
        volume.SetAndObserveTransformNodeID(geometries.add_transform(geometries.moved()).GetID())
    labels = rng.integers(0, 3, (9, 12, 16)).astype(np.uint8)
    node = masks.show("fp32", labels, {1: "liver", 2: "spleen"}, volume, title="FP32")
    for value in (1, 2):
        np.testing.assert_array_equal(_segment_mask(slicer, node, volume, f"MedQuant_{value}"), labels == value)
    array, names = masks.labels_on(node, volume)
    np.testing.assert_array_equal(array, labels)
    assert names == {1: "liver", 2: "spleen"}
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), before)


def test_masks_sit_in_the_world_where_the_scan_does(slicer, scene):
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib import scene as mrml

    volume = geometries.add_volume("oblique")
    volume.SetAndObserveTransformNodeID(geometries.add_transform(geometries.moved()).GetID())
    labels = np.zeros((9, 12, 16), np.uint8)
    labels[4, 6, 8] = 1
    node = masks.show("fp32", labels, {1: "dot"}, volume, title="FP32")
    center = node.GetSegmentCenter("MedQuant_1")  # in the node's own coordinates
    world = mrml.node_to_world(node).MultiplyPoint([*center, 1.0])
    expected = np.array(mrml.describe_volume(volume).ijk_to_lps) @ [8, 6, 4, 1] * [-1, -1, 1, 1]
    np.testing.assert_allclose(world, expected, atol=1e-4)


def test_names_terminology_and_colours(scene):
    import vtk
    from MedQuantSlicerLib import masks

    volume = geometries.add_volume()
    labels = np.ones((9, 12, 16), np.uint8)
    alone = masks.show("fp32", labels, {1: "liver"}, volume, title="FP32").GetSegmentation().GetSegment("MedQuant_1")
    assert alone.GetName() == "liver"
    assert alone.GetColor() == pytest.approx((0x4C / 255, 0x9B / 255, 0xE8 / 255))
    entry = vtk.reference("")
    assert alone.GetTag(alone.GetTerminologyEntryTagName(), entry)
    assert "SCT^10200004^Liver" in str(entry)
    several = masks.show("quantized", labels, {1: "a", 2: "b", 3: "c"}, volume, title="4-bit").GetSegmentation()
    colors = {several.GetNthSegment(n).GetColor() for n in range(3)}
    assert len(colors) == 3
    assert all(red > green > blue for red, green, blue in colors), "shades of amber"


def test_partial_results_fill_in(slicer, scene, rng):
    from MedQuantSlicerLib import masks

    volume = geometries.add_volume("left-handed")
    whole = rng.integers(0, 2, (9, 12, 16)).astype(np.uint8)
    shown = np.zeros_like(whole)
    for k in (4, 2, 7, 2):
        shown[k] = whole[k]
        node = masks.show(
            "quantized", whole[k : k + 1], {1: "liver"}, volume, title="4-bit", offset=(k, 0, 0), partial=True
        )
        np.testing.assert_array_equal(_segment_mask(slicer, node, volume), shown)
    emptied = np.zeros((1, 12, 16), np.uint8)
    masks.show("quantized", emptied, {1: "liver"}, volume, title="4-bit", offset=(4, 0, 0), partial=True)
    shown[4] = 0
    np.testing.assert_array_equal(_segment_mask(slicer, node, volume), shown)
    masks.show("quantized", whole, {1: "liver"}, volume, title="4-bit")
    np.testing.assert_array_equal(_segment_mask(slicer, node, volume), whole)
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1


def test_an_empty_mask_is_an_empty_segment(slicer, scene):
    from MedQuantSlicerLib import masks

    volume = geometries.add_volume()
    node = masks.show("fp32", np.zeros((9, 12, 16), np.uint8), {1: "liver"}, volume, title="FP32")
    assert not _segment_mask(slicer, node, volume).any()
    masks.show(
        "fp32", np.ones((1, 12, 16), np.uint8), {1: "liver"}, volume, title="FP32", offset=(3, 0, 0), partial=True
    )
    assert _segment_mask(slicer, node, volume).sum() == 12 * 16


def test_each_kind_in_its_own_view(scene):
    from MedQuantSlicerLib import mask_views, masks

    volume = geometries.add_volume()
    labels = np.ones((9, 12, 16), np.uint8)
    fp32 = masks.show("fp32", labels, {1: "liver"}, volume, title="FP32").GetDisplayNode()
    quantized = masks.show("quantized", labels, {1: "liver"}, volume, title="4-bit").GetDisplayNode()
    left, right = "vtkMRMLSliceNodeMedQuantFP32", "vtkMRMLSliceNodeMedQuantQuantized"
    mask_views.keep_apart(volume)
    assert (fp32.IsDisplayableInView(left), fp32.IsDisplayableInView(right)) == (True, False)
    assert (quantized.IsDisplayableInView(left), quantized.IsDisplayableInView(right)) == (False, True)
    mask_views.keep_apart(volume, flipped=True)
    assert (fp32.IsDisplayableInView(left), fp32.IsDisplayableInView(right)) == (False, True)
    assert (quantized.IsDisplayableInView(left), quantized.IsDisplayableInView(right)) == (True, False)
    for display in (fp32, quantized):
        assert display.IsDisplayableInView("vtkMRMLSliceNodeRed")
        assert display.IsDisplayableInView("vtkMRMLViewNode1")
    mask_views.keep_apart(geometries.add_volume())
    for display in (fp32, quantized):
        assert not display.IsDisplayableInView(left), "masks of another scan"
        assert not display.IsDisplayableInView(right)
        assert display.IsDisplayableInView("vtkMRMLSliceNodeRed")
    mask_views.release()
    assert [list(display.GetViewNodeIDs()) for display in (fp32, quantized)] == [[], []]


def test_a_reference_on_another_grid(slicer, scene):
    """A reference drawn on a finer, shifted grid under a transform comes to the scan's voxels."""
    from MedQuantSlicerLib import masks

    volume = geometries.add_volume("axial")
    fine = geometries.add_volume("axial", np.zeros((18, 24, 32), np.int16))
    spacing = np.array(geometries.SPACING) / 2
    fine.SetSpacing(*spacing)
    # The first fine voxel lies a quarter of a coarse one before the first coarse one's middle, along every axis.
    directions = geometries.DIRECTIONS["axial"]
    fine.SetOrigin(*(np.array(geometries.ORIGIN) - directions @ (spacing / 2)))
    drawn = np.zeros((18, 24, 32), np.uint8)
    drawn[4:10, 6:14, 8:20] = 1
    node = masks.show("fp32", drawn, {1: "liver"}, fine, title="reference")
    array, names = masks.labels_on(node, volume)
    expected = np.zeros((9, 12, 16), bool)
    expected[2:5, 3:7, 4:10] = True
    assert names == {1: "liver"}
    np.testing.assert_array_equal(array.astype(bool), expected)
    with pytest.raises(ValueError):
        masks.labels_on(scene.AddNewNodeByClass("vtkMRMLSegmentationNode"), volume)
    assert not slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeNode")


@geometries.every_geometry
@pytest.mark.parametrize("above", ["nothing", "both", "the reference", "the scan"])
def test_a_reference_comes_piece_by_piece_as_all_at_once(scene, geometry, above, monkeypatch):
    from MedQuantSlicerLib import masks, turns
    from MedQuantSlicerLib.segment_labels import SegmentLabels

    monkeypatch.setattr(turns, "PIECE_BYTES", 2 * 2 * 12 * 16)  # two slices
    volume, drawn = geometries.add_volume(geometry), np.zeros((9, 12, 16), np.uint8)
    drawn[2:7, 3:9, 4:12] = 1
    drawn[5:8, 3:5, 4:9] = 2
    node = masks.show("fp32", drawn, {1: "liver", 2: "vessel"}, volume, title="drawn")
    if above != "nothing":
        transform = geometries.add_transform(geometries.moved()).GetID()
        if above in ("both", "the scan"):
            volume.SetAndObserveTransformNodeID(transform)
        node.SetAndObserveTransformNodeID(transform if above in ("both", "the reference") else None)
    labels = SegmentLabels(node, volume)
    blocks = list(labels.blocks())
    assert [len(block) for block in blocks] == [2, 2, 2, 2, 1]
    expected, names = masks.labels_on(node, volume)
    assert labels.names == names
    np.testing.assert_array_equal(np.concatenate(blocks), expected)
    node.GetSegmentation().SeparateSegmentLabelmap("MedQuant_2")
    np.testing.assert_array_equal(np.concatenate(list(labels.blocks())), expected)


def test_a_reference_of_surfaces_is_put_on_the_grid_too(scene):
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.segment_labels import SegmentLabels

    volume, drawn = geometries.add_volume(), np.zeros((9, 12, 16), np.uint8)
    drawn[2:7, 3:9, 4:12] = 1
    node = masks.show("fp32", drawn, {1: "liver"}, volume, title="drawn")
    segmentation = node.GetSegmentation()
    assert segmentation.CreateRepresentation("Closed surface")
    segmentation.SetSourceRepresentationName("Closed surface")
    segmentation.RemoveRepresentation("Binary labelmap")
    found = np.concatenate(list(SegmentLabels(node, volume).blocks()))
    assert 0.8 < found.sum() / drawn.sum() < 1.2
    with pytest.raises(ValueError):
        SegmentLabels(scene.AddNewNodeByClass("vtkMRMLSegmentationNode"), volume)


def test_all_survives_a_saved_session(slicer, scene, tmp_path, rng):
    from MedQuantSlicerLib import boxes, masks

    volume = geometries.add_volume("left-handed oblique")
    labels = rng.integers(0, 3, (9, 12, 16)).astype(np.uint8)
    masks.show("quantized", labels, {1: "liver", 2: "spleen"}, volume, title="4-bit")
    boxes.fit_box(boxes.new_box(volume, "liver"), volume, (2, 3, 4), (7, 9, 6))
    corners = boxes.describe_boxes(volume)[0].corners
    path = tmp_path / "session.mrb"
    assert scene.WriteToMRB(str(path))
    scene.Clear(0)
    reader = slicer.vtkMRMLApplicationLogic()
    reader.SetMRMLScene(scene)
    (tmp_path / "unpacked").mkdir()
    assert reader.OpenSlicerDataBundle(str(path), str(tmp_path / "unpacked"))
    (volume,) = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    node = masks.segmentation_of("quantized", volume)
    array, names = masks.labels_on(node, volume)
    # MRML reads a left-handed volume with its slices in the other order: a voxel is known by its value, not its index.
    np.testing.assert_array_equal(array, labels.ravel()[slicer.util.arrayFromVolume(volume)])
    assert names == {1: "liver", 2: "spleen"}
    np.testing.assert_allclose(boxes.describe_boxes(volume)[0].corners, corners, atol=1e-4)


def test_partial_results_reach_a_segmentation_that_was_edited(slicer, scene):
    """The Segment Editor may have put a segment into a layer of its own, with a label of its own."""
    from MedQuantSlicerLib import masks

    volume = geometries.add_volume("oblique")
    labels = np.zeros((9, 12, 16), np.uint8)
    labels[2:4, 3:6, 3:6] = 1
    labels[2:4, 7:9, 8:12] = 2
    node = masks.show("fp32", labels, {1: "liver", 2: "spleen"}, volume, title="FP32")
    node.GetSegmentation().SeparateSegmentLabelmap("MedQuant_2")
    assert node.GetSegmentation().GetNumberOfLayers() == 2
    more = np.zeros((1, 12, 16), np.uint8)
    more[0, 5:8, 2:9] = 2
    masks.show("fp32", more, {1: "liver", 2: "spleen"}, volume, title="FP32", offset=(5, 0, 0), partial=True)
    labels[5] = more[0]
    for value in (1, 2):
        np.testing.assert_array_equal(_segment_mask(slicer, node, volume, f"MedQuant_{value}"), labels == value)
    assert node.GetSegmentation().GetNumberOfLayers() == 1


def test_segments_that_the_user_adds_stay(slicer, scene):
    from MedQuantSlicerLib import masks

    volume = geometries.add_volume()
    labels = np.zeros((9, 12, 16), np.uint8)
    labels[2:4, 3:6, 3:6] = 1
    node = masks.show("fp32", labels, {1: "liver"}, volume, title="FP32")
    drawn = np.zeros((9, 12, 16), np.uint8)
    drawn[3:6, 4:9, 2:5] = 1  # overlaps the mask
    identifier = node.GetSegmentation().AddEmptySegment("mine", "mine")
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, node, identifier, volume)
    labels[6] = 1
    masks.show("fp32", labels[6:7], {1: "liver"}, volume, title="FP32", offset=(6, 0, 0), partial=True)
    np.testing.assert_array_equal(_segment_mask(slicer, node, volume), labels == 1)
    np.testing.assert_array_equal(_segment_mask(slicer, node, volume, "mine"), drawn == 1)
    masks.show("fp32", labels[:1], {1: "spleen"}, volume, title="FP32")
    np.testing.assert_array_equal(_segment_mask(slicer, node, volume, "mine"), drawn == 1)

"""Volumes and boxes in real MRML, in every orientation and under transforms."""

from __future__ import annotations

import numpy as np
import panel_geometries as geometries
import pytest

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _points(matrix, voxels):
    return [tuple(np.asarray(matrix) @ [*voxel, 1.0])[:3] for voxel in voxels]


@geometries.every_geometry
def test_volume_description(scene, geometry):
    from MedQuantSlicerLib import scene as mrml

    info = mrml.describe_volume(geometries.add_volume(geometry))
    assert info.shape == (9, 12, 16)
    assert info.spacing == pytest.approx(geometries.SPACING)
    np.testing.assert_allclose(info.ijk_to_lps, LPS @ geometries.ijk_to_ras(geometry), atol=1e-9)
    assert info.problem == ""


@geometries.every_geometry
def test_volume_under_two_transforms(scene, geometry):
    from MedQuantSlicerLib import scene as mrml

    volume = geometries.add_volume(geometry)
    before = mrml.describe_volume(volume)
    outer = geometries.add_transform(geometries.moved())
    inner = geometries.add_transform(
        np.diag([1.0, 1.0, 1.0, 1.0]) + np.array([[0, 0, 0, 3.0]] + [[0] * 4] * 3), above=outer
    )
    volume.SetAndObserveTransformNodeID(inner.GetID())
    shift = np.eye(4)
    shift[0, 3] = 3.0
    expected = LPS @ geometries.moved() @ shift @ geometries.ijk_to_ras(geometry)
    info = mrml.describe_volume(volume)
    np.testing.assert_allclose(info.ijk_to_lps, expected, atol=1e-9)
    assert info.key != before.key


def test_the_key_follows_voxels_and_nothing_else(scene):
    from MedQuantSlicerLib import scene as mrml

    volume = geometries.add_volume()
    first = mrml.describe_volume(volume).key
    volume.SetName("another name")
    volume.CreateDefaultDisplayNodes()
    assert mrml.describe_volume(volume).key == first
    changed = mrml.volume_array(volume).copy() + 1
    import slicer

    slicer.util.updateVolumeFromArray(volume, changed)
    assert mrml.describe_volume(volume).key != first


def test_voxels_cannot_be_written(scene):
    from MedQuantSlicerLib import scene as mrml

    array = mrml.volume_array(geometries.add_volume())
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0, 0] = 1


def test_what_cannot_be_used_says_why(scene):
    import slicer
    from MedQuantSlicerLib import scene as mrml

    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert "no voxels" in mrml.describe_volume(empty).problem
    colour = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode")
    slicer.util.updateVolumeFromArray(colour, np.zeros((2, 3, 4, 3), np.uint8))
    assert "several values" in mrml.describe_volume(colour).problem
    bent = geometries.add_volume()
    bent.SetAndObserveTransformNodeID(scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode").GetID())
    grid = scene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    bent.SetAndObserveTransformNodeID(grid.GetID())
    problem = mrml.describe_volume(bent).problem
    assert "not linear" in problem


def test_modality(scene):
    from MedQuantSlicerLib import scene as mrml

    told = geometries.add_volume()
    told.SetAttribute(mrml.MODALITY_ATTRIBUTE, "MR")
    assert mrml.describe_volume(told).modality == "MR"
    hounsfield = np.zeros((4, 5, 6), np.int16)
    hounsfield[0] = -1000
    hounsfield[1] = 300
    assert mrml.describe_volume(geometries.add_volume(array=hounsfield)).modality == "CT"
    assert mrml.describe_volume(geometries.add_volume()).modality == ""


@geometries.every_geometry
@pytest.mark.parametrize("transformed", [False, True])
def test_box_around_voxels(scene, geometry, transformed):
    from MedQuantSlicerLib import boxes
    from MedQuantSlicerLib import scene as mrml

    volume = geometries.add_volume(geometry)
    if transformed:
        volume.SetAndObserveTransformNodeID(geometries.add_transform(geometries.moved()).GetID())
    box = boxes.new_box(volume, "liver")
    boxes.fit_box(box, volume, (2, 3, 4), (7, 9, 6))
    (info,) = boxes.describe_boxes(volume)
    assert (info.name, info.label) == ("liver", 1)
    matrix = mrml.describe_volume(volume).ijk_to_lps
    expected = _points(matrix, [(i, j, k) for i in (1.5, 7.5) for j in (2.5, 9.5) for k in (3.5, 6.5)])
    found = np.array(sorted(np.round(info.corners, 6).tolist()))
    np.testing.assert_allclose(found, np.array(sorted(np.round(expected, 6).tolist())), atol=1e-5)


def test_box_under_its_own_transform(scene):
    from MedQuantSlicerLib import boxes

    volume = geometries.add_volume()
    plain, moved = boxes.new_box(volume, "a"), boxes.new_box(volume, "b")
    for box in (plain, moved):
        boxes.fit_box(box, volume, (2, 3, 4), (7, 9, 6))
    moved.SetAndObserveTransformNodeID(geometries.add_transform(geometries.moved()).GetID())
    first, second = boxes.describe_boxes(volume)
    into_ras = [np.array([*corner, 1.0]) * [-1, -1, 1, 1] for corner in first.corners]
    expected = [(geometries.moved() @ corner * [-1, -1, 1, 1])[:3] for corner in into_ras]
    np.testing.assert_allclose(second.corners, expected, atol=1e-6)


def test_boxes_of_one_name_are_one_structure(scene):
    from MedQuantSlicerLib import boxes

    volume, other = geometries.add_volume(), geometries.add_volume("coronal")
    for name, of in (("liver", volume), ("spleen", volume), ("liver", volume), ("liver", other)):
        boxes.fit_box(boxes.new_box(of, name), of, (1, 1, 1), (2, 2, 2))
    boxes.new_box(volume)  # not drawn yet
    scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")  # not ours
    assert [(box.name, box.label) for box in boxes.describe_boxes(volume)] == [
        ("liver", 1),
        ("spleen", 2),
        ("liver", 1),
    ]


def test_a_flat_box_gets_the_depth_of_a_slice(scene):
    from MedQuantSlicerLib import boxes

    volume = geometries.add_volume()
    box = boxes.new_box(volume)
    boxes.fit_box(box, volume, (2, 3, 4), (7, 9, 4))
    box.SetSize(10.0, 12.0, 0.0)
    boxes.deepen_flat_box(box, volume)
    assert box.GetSize() == (10.0, 12.0, 2.5)
    boxes.deepen_flat_box(box, volume)
    assert box.GetSize() == (10.0, 12.0, 2.5)

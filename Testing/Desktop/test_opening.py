"""Opening: dropped, chosen among series, refused, cancelled, remembered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")


def test_a_dropped_dicom_folder_is_shown(window, hands, test_data: Path) -> None:
    import slicer

    assert hands.drop(window, test_data / "ct_abdomen_dicom")
    hands.until(lambda: window.views.volume is not None)
    hands.wait()
    volume = window.views.volume
    assert volume.GetImageData().GetDimensions() == (512, 512, 20)
    assert volume.GetAttribute("DICOM.Modality") == "CT"
    assert slicer.util.arrayFromVolume(volume).min() >= -1024
    assert window.stack.currentIndex == 2
    assert window.views.left.corners().edges == ("R", "A", "L", "P")
    assert window.frame.volume is volume
    assert window.documents.recent.paths() == [(test_data / "ct_abdomen_dicom").resolve()]


def test_many_dropped_slices_mean_their_folder(tmp_path: Path) -> None:
    from medquant_desktop.opening import what_to_open

    slices = [tmp_path / "series" / f"{n}.dcm" for n in range(3)]
    assert what_to_open(slices) == [tmp_path / "series"]
    assert what_to_open([tmp_path / "a_seg.nrrd", tmp_path / "b.nrrd"]) == [
        tmp_path / "b.nrrd",
        tmp_path / "a_seg.nrrd",
    ]
    assert what_to_open([tmp_path / "a.dcm"]) == [tmp_path / "a.dcm"]
    assert what_to_open([tmp_path / "a.nrrd", tmp_path / "b.mrb"]) == [tmp_path / "b.mrb"]
    assert what_to_open([]) == []


def test_a_folder_with_two_series_asks_which(window, hands, test_data: Path) -> None:
    from PySide6.QtWidgets import QPushButton

    window.documents.open_path(test_data)
    hands.until(lambda: window.stack.currentIndex == 1)
    entries = [b for b in window.choice.findChildren(QPushButton) if b.objectName == "entry"]
    assert [b.text.splitlines()[1] for b in entries] == ["CT, 20 images of 512 x 512", "CT, 41 images of 512 x 512"]
    entries[1].click()
    hands.until(lambda: window.views.volume is not None)
    assert window.views.volume.GetImageData().GetDimensions()[2] == 41


def test_what_cannot_be_opened_is_told_over_the_views(window, hands, tmp_path: Path) -> None:
    (tmp_path / "letter.docx").write_text("hello")
    window.documents.open_path(tmp_path / "letter.docx")
    hands.until(lambda: "letter.docx" in window.notice.said and "Reading" not in window.notice.said)
    assert window.views.volume is None
    assert window.stack.currentIndex == 0
    window.notice._button.click()
    assert window.notice.said == ""


def test_reading_can_be_stopped_and_started_again(window, hands, scan_file: Path) -> None:
    window.documents.open_path(scan_file)
    window.documents.cancel()
    hands.wait(0.3)
    assert window.views.volume is None
    window.documents.open_path(scan_file)
    hands.until(lambda: window.views.volume is not None)


def test_a_reader_that_dies_is_told_and_replaced(window, hands, scan_file: Path) -> None:
    window.documents.reader.start()
    hands.wait(0.2)
    window.documents.open_path(scan_file)
    window.documents.reader._process.kill()
    hands.until(lambda: "memory" in window.notice.said)
    window.documents.open_path(scan_file)
    hands.until(lambda: window.views.volume is not None)


def test_the_input_is_not_copied_and_not_changed(opened, hands) -> None:
    import slicer

    before = slicer.util.arrayFromVolume(opened.views.volume).copy()
    hands.wheel(opened.views.left, 3)
    hands.drag(opened.views.left, (0.3, 0.3), (0.6, 0.6))
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(opened.views.volume), before)


def test_a_second_scan_takes_the_views_and_the_first_stays(opened, hands, scan_file: Path, tmp_path: Path) -> None:
    import slicer

    first = opened.views.volume
    other = tmp_path / "other.nrrd"
    other.write_bytes(scan_file.read_bytes())
    opened.documents.open_path(other)
    hands.until(lambda: opened.views.volume is not first)
    hands.wait()
    assert opened.views.volume.GetName() == "other"
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 2
    opened.frame.choose(first)
    hands.wait()
    assert opened.views.volume is first


def _labels_of(scan_file: Path) -> Path:
    import SimpleITK as sitk

    image = sitk.ReadImage(str(scan_file))
    labels = sitk.GetImageFromArray((sitk.GetArrayFromImage(image) > 500).astype(np.uint8) * 5)
    labels.CopyInformation(image)
    path = scan_file.with_name("small ct labels.nrrd")
    sitk.WriteImage(labels, str(path))
    return path


@pytest.mark.parametrize("meanwhile", ["another scan", "no scan", "another place"])
def test_labels_of_one_scan_are_never_those_of_another(opened, hands, scan_file: Path, meanwhile: str) -> None:
    """They were read on the grid of the scan that was open then."""
    import slicer
    import vtk

    first = opened.views.volume
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "other")
    slicer.util.updateVolumeFromArray(other, np.zeros((7, 20, 30), np.int16))
    opened.documents.open_path(_labels_of(scan_file))
    if meanwhile == "another scan":
        opened.frame.choose(other)
    elif meanwhile == "no scan":
        opened.frame.choose(None)
    else:
        matrix = vtk.vtkMatrix4x4()
        matrix.SetElement(0, 3, 12.0)
        first.SetIJKToRASMatrix(matrix)
    hands.until(lambda: "was open before" in opened.notice.said)
    assert opened.frame.module.parameters.referenceSegmentation is None
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def test_labels_of_another_shape_are_no_reference(opened) -> None:
    import slicer

    from medquant_desktop.reference import add_reference

    with pytest.raises(ValueError, match="voxels"):
        add_reference(np.zeros((60, 12, 80), np.uint8), {1: "spot"}, opened.views.volume, "turned")
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def test_labels_become_the_reference(opened, hands, scan_file: Path) -> None:
    import slicer

    opened.documents.open_path(_labels_of(scan_file))
    hands.until(lambda: "reference" in opened.notice.said)
    node = opened.frame.module.parameters.referenceSegmentation
    identifier = node.GetSegmentation().GetNthSegmentID(0)
    found = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, opened.views.volume)
    np.testing.assert_array_equal(found > 0, slicer.util.arrayFromVolume(opened.views.volume) > 500)
    assert opened.documents.recent.paths() == [scan_file]


def test_a_scan_and_its_labels_may_be_dropped_together(window, hands, test_data: Path) -> None:
    folder = test_data / "ct_spleen_5mm"
    assert hands.drop(window, folder / "sub-spleen2_ct_seg-manual.nii.gz", folder / "sub-spleen2_ct.nii.gz")
    hands.until(lambda: "reference" in window.notice.said)
    assert window.views.volume.GetImageData().GetDimensions() == (164, 166, 26)


def test_the_sample_needs_no_network_and_brings_its_reference(window, hands) -> None:
    from PySide6.QtWidgets import QPushButton

    window.welcome.findChild(QPushButton, "openSample").click()
    hands.until(lambda: window.views.volume is not None)
    assert "phantom" in window.views.volume.GetName()
    assert window.frame.module.parameters.referenceSegmentation.GetSegmentation().GetNumberOfSegments() > 5


def test_recent_files_are_the_latest_that_exist(settings, tmp_path: Path, application) -> None:
    from medquant_desktop.opening import KEPT_RECENT, Recent

    recent = Recent(settings)
    files = [tmp_path / f"{n}.nrrd" for n in range(KEPT_RECENT + 2)]
    for file in files:
        file.touch()
        recent.add(file)
    recent.add(files[5])
    files[6].unlink()
    paths = recent.paths()
    assert paths[0] == files[5]
    assert len(paths) == KEPT_RECENT - 1
    assert files[6] not in paths
    recent.clear()
    assert recent.paths() == []


def test_recent_scans_open_from_the_welcome(window, hands, scan_file: Path) -> None:
    from PySide6.QtWidgets import QPushButton

    window.welcome.show_recent([scan_file])
    entry = window.welcome.findChild(QPushButton, "entry")
    assert entry.text.splitlines()[0] == scan_file.name
    entry.click()
    hands.until(lambda: window.views.volume is not None)


def test_an_empty_window_teaches(window) -> None:
    from PySide6.QtWidgets import QLabel, QPushButton

    assert window.stack.currentIndex == 0
    said = " ".join(label.text for label in window.welcome.findChildren(QLabel))
    assert "Drop a DICOM folder" in said
    assert "Nothing leaves this machine" in said
    filled = [b.text for b in window.findChildren(QPushButton) if b.property("primary") and b.isVisible()]
    assert len(filled) == 1, "the next step is the only filled button"


def test_what_cannot_be_opened_does_not_cost_the_rest_of_what_was_dropped(
    window, hands, scan_file: Path, tmp_path: Path
) -> None:
    for name in ("a.docx", "b.docx"):
        (tmp_path / name).write_text("hello")
    assert hands.drop(window, tmp_path / "a.docx", scan_file, tmp_path / "b.docx")
    hands.until(lambda: "a.docx" in window.notice.said and "b.docx" in window.notice.said)
    assert window.views.volume is not None


def test_what_was_stopped_leaves_nothing_waiting(window, hands, scan_file: Path, tmp_path: Path) -> None:
    import slicer

    other = tmp_path / "other.nrrd"
    other.write_bytes(scan_file.read_bytes())
    window.documents.open_paths([scan_file, other])
    window.documents.cancel()
    window.documents.open_path(scan_file)
    hands.until(lambda: window.views.volume is not None)
    hands.wait(0.5)
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 1

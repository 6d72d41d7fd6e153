"""Two scans in a real scene: what was computed of one of them is never said, shown or kept of the other."""

from __future__ import annotations

import numpy as np
import panel_geometries as geometries
import pytest
from panel_hands import settle


@pytest.fixture
def scans(slicer, scene):
    """Two scans on one grid."""
    first, second = geometries.add_volume("oblique"), geometries.add_volume("oblique")
    slicer.util.updateVolumeFromArray(second, slicer.util.arrayFromVolume(second) + 1)
    return first, second


def _choose(widget, volume) -> None:
    """The user chooses a scan, with a box on it."""
    from MedQuantSlicerLib import boxes

    widget.parameters.inputVolume = volume
    if not boxes.boxes_of(volume):
        boxes.fit_box(boxes.new_box(volume, "liver"), volume, (2, 3, 2), (9, 9, 5))
    settle(250)


def _quantize(widget, engine, bits: int = 4) -> None:
    """The user quantizes, and it works."""
    widget.parameters.bits = bits
    widget.panel.presenter.quantize()
    settle(50)
    handle = engine.folder / f"w{bits}.mq.safetensors"
    handle.touch()
    engine.answer("quantize", {"handle": str(handle), "bits": bits, "text": "2.5 MB", "pieces": 8})


def _labels(value: int = 1, size: int = 5) -> np.ndarray:
    made = np.zeros((9, 12, 16), np.uint8)
    made[2:5, 3 : 3 + size, 4:9] = value
    return made


def _segmenting(widget, engine):
    """The user presses Segment; the request of FP32, which the engine stops later than it is told to."""
    widget.panel.presenter.segment()
    settle(50)
    request = engine.last("segment")
    request.answers_later = True
    return request


def _partial(engine, request, name: str = "part.npy") -> None:
    """One slice has come."""
    np.save(engine.folder / name, _labels(1, 2)[2:3])
    told = {"array": name, "offset": [2, 0, 0], "labels": {"1": "liver"}}
    request.callbacks["on_partial"]({"masks": told})


def _whole(engine, labels: np.ndarray, size: str) -> None:
    """The masks that are being computed have come."""
    name = f"whole-{len(engine.asked)}.npy"
    np.save(engine.folder / name, labels)
    mask = {"array": name, "offset": [0, 0, 0], "labels": {"1": "liver"}}
    engine.answer("segment", {"mask": mask, "size_text": size, "seconds_text": "1.0 s"})
    settle(50)


def _compared(engine, headline: str) -> None:
    difference = {"array": "difference.npy", "offset": [0, 0, 0], "labels": {"1": "FP32 only", "2": "4-bit only"}}
    np.save(engine.folder / "difference.npy", _labels())
    table = {"columns": ["Dice"], "tooltips": [""], "rows": [], "headline": headline}
    engine.answer("compare", {"table": table, "worst": None, "difference": difference})
    settle(50)


def _computed(widget, engine, labels: np.ndarray, size: str, headline: str) -> None:
    """Both masks and their comparison on the chosen scan."""
    _segmenting(widget, engine)
    _whole(engine, labels, size)
    _whole(engine, labels, size)
    _compared(engine, headline)


def _scene_state(volume) -> list[tuple]:
    """All that the scene holds of a scan's results."""
    from MedQuantSlicerLib import masks

    found = []
    for kind in ("fp32", "quantized"):
        node = masks.segmentation_of(kind, volume)
        if node is not None:
            texts = [(name, node.GetAttribute(name)) for name in ("MedQuant.Result", "MedQuant.Comparison")]
            found.append((kind, node.GetName(), texts, masks.labels_on(node, volume)[0].tobytes()))
    return found


@pytest.mark.parametrize("had_masks", [False, True])
@pytest.mark.parametrize("answered", [False, True])
def test_a_scan_chosen_while_masks_come_keeps_its_own_and_so_does_the_former(
    widget, engine, scans, had_masks: bool, answered: bool
) -> None:
    first, second = scans
    _choose(widget, second)
    _quantize(widget, engine)
    _computed(widget, engine, _labels(size=6), "second", "of the second")
    if had_masks:
        _choose(widget, first)
        _computed(widget, engine, _labels(size=4), "first", "of the first")
    else:
        _choose(widget, first)
    before = _scene_state(first), _scene_state(second)
    assert bool(before[0]) is had_masks and len(before[1]) == 2
    request = _segmenting(widget, engine)
    _partial(engine, request)
    assert _scene_state(first) != before[0]
    _choose(widget, second)
    assert request.cancelled
    assert (_scene_state(first), _scene_state(second)) == before, "put back before the engine answers"
    _partial(engine, request, "late.npy")
    if answered:
        request.stopped()
    else:
        _whole(engine, _labels(size=7), "late")
    settle(250)
    assert (_scene_state(first), _scene_state(second)) == before
    assert "second" in widget.panel.presenter.shown.left_title
    assert widget.panel.presenter.shown.table.headline == "of the second"
    _choose(widget, first)
    shown = widget.panel.presenter.shown
    assert ("first" in shown.left_title, shown.table is not None) == (had_masks, had_masks)


def test_titles_and_the_view_of_the_difference_are_those_of_the_chosen_scan(widget, engine, scans) -> None:
    first, second = scans

    def over_views() -> tuple:
        return next(call[1:] for call in reversed(widget.host.calls) if call[0] == "results")

    _choose(widget, first)
    _quantize(widget, engine)
    _computed(widget, engine, _labels(), "2.5 MB", "of the first")
    widget.panel.presenter.difference()
    mine = ("FP32  2.5 MB  1.0 s", "4-bit  2.5 MB  1.0 s", True)
    assert over_views() == mine
    _choose(widget, second)
    assert over_views() == ("", "", False)
    _choose(widget, first)
    assert over_views() == mine


def test_bits_that_are_chosen_while_it_segments_are_of_the_next_time(widget, engine, scans) -> None:
    from MedQuantSlicerLib import masks

    first, _second = scans
    _choose(widget, first)
    for bits in (8, 4):
        _quantize(widget, engine, bits)
    _segmenting(widget, engine)
    widget.parameters.bits = 8
    _whole(engine, _labels(), "7.7 MB")
    assert engine.last("segment").params["model"].endswith("w4.mq.safetensors")
    _whole(engine, _labels(), "2.5 MB")
    assert masks.segmentation_of("quantized", first).GetName().endswith("4-bit")
    assert widget.panel.presenter.shown.right_title == "4-bit  2.5 MB  1.0 s"


def test_what_a_model_was_calibrated_on_is_known_in_another_session(
    slicer, scene, widget, engine, scans, tmp_path
) -> None:
    first, second = scans
    first.SetName("first")
    _choose(widget, first)
    _quantize(widget, engine)
    here, elsewhere = "calibrated on 8 pieces of this scan", "calibrated on another scan"
    presenter = widget.panel.presenter
    assert here in presenter.shown.quantized
    _choose(widget, second)
    assert elsewhere in presenter.shown.quantized and not presenter.shown.quantized_fits
    assert scene.WriteToMRB(str(tmp_path / "session.mrb"))
    scene.Clear(0)
    presenter.facts.made.clear()
    reader = slicer.vtkMRMLApplicationLogic()
    reader.SetMRMLScene(scene)
    (tmp_path / "unpacked").mkdir()
    assert reader.OpenSlicerDataBundle(str(tmp_path / "session.mrb"), str(tmp_path / "unpacked"))
    settle(250)
    assert elsewhere in presenter.shown.quantized
    _choose(widget, slicer.util.getNode("first"))
    assert here in presenter.shown.quantized and presenter.shown.quantized_fits


def test_the_digest_of_a_scan_is_of_its_voxels(slicer, scans) -> None:
    from MedQuantSlicerLib.scene import describe_volume

    first, second = scans
    before = describe_volume(first).digest
    assert before and before != describe_volume(second).digest
    first.SetOrigin(1, 2, 3)
    assert describe_volume(first).digest == before
    array = slicer.util.arrayFromVolume(first).copy()
    array[4, 5, 6] += 1
    slicer.util.updateVolumeFromArray(first, array)
    assert describe_volume(first).digest != before


def test_a_reference_goes_with_its_scan(slicer, scans, widget) -> None:
    first, second = scans
    _choose(widget, first)
    drawn, free = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name) for name in ("drawn", "free"))
    drawn.SetReferenceImageGeometryParameterFromVolumeNode(first)
    for reference, left in ((drawn, None), (free, free)):
        _choose(widget, first)
        widget.parameters.referenceSegmentation = reference
        _choose(widget, second)
        assert widget.parameters.referenceSegmentation is left
        assert widget.panel.presenter.facts.reference == (left.GetName() if left is not None else "")


def test_sensitivity_and_safe_model_are_of_the_scan_that_they_were_measured_on(widget, engine, scans) -> None:
    first, second = scans
    first.SetName("first")
    _choose(widget, first)
    presenter = widget.panel.presenter
    presenter.find_sensitivity()
    settle(50)
    cell = {"layer": "a.0", "kind": "Linear", "shape": [4, 8], "share": 1.0, "bits": 2, "effect": 0.4, "view": "proxy"}
    histogram = {"minimum": 0.0, "maximum": 1.0, "counts": [1, 2]}
    told = {"histograms": [{"layer": "a.0", "weights": histogram, "inputs": histogram}]}
    engine.last("sensitivity").callbacks["on_partial"](told)
    engine.answer("sensitivity", {"cells": [cell], "agreement": []})
    presenter.find_safe()
    settle(50)
    handle = engine.folder / "safe.mq.safetensors"
    handle.touch()
    found = {"safe": True, "handle": str(handle), "bits": 0, "text": "2.0 MB", "pieces": 5, "found": "Dice .99"}
    engine.answer("find_safe", {**found, "precise": ["a.0"]})
    presenter.layer_chosen("a.0")
    assert presenter.shown.heatmap.layers[0].precise and presenter.shown.layer.weights.counts == (1, 2)
    _choose(widget, second)
    shown = presenter.shown
    assert shown.heatmap is None and shown.layer is None and not shown.safe_found and not shown.quantized_fits
    presenter.find_safe()
    settle(50)
    request = engine.last("find_safe")
    request.answers_later = True
    _choose(widget, first)
    assert request.cancelled
    request.callbacks["on_result"]({**found, "precise": [], "found": "late"})
    shown = presenter.shown
    assert shown.heatmap is not None and "late" not in shown.safe_found
    presenter.layer_chosen("a.0")
    assert presenter.shown.layer.inputs.counts == (1, 2)

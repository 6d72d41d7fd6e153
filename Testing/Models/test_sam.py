"""The box-prompted adapter: boxes in every plane, the embedding cache, orientation, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medquant.errors import Cancelled, UserError
from medquant.imaging.boxes import boxes_from_labels
from medquant.imaging.reading import read_volume
from medquant.imaging.volume import Volume
from medquant.models.catalogue import EMBEDDED_PROMPTABLE
from medquant.models.prompt_images import SlicePreprocessing, grey_window, pixel_values
from medquant.models.registry import load_model
from medquant.models.sam import SamModelAdapter
from medquant.models.slice_view import SliceView
from medquant.progress import Progress
from medquant.prompts import Box, BoxPrompt
from medquant.segmentation import Structure

SETTINGS = SlicePreprocessing(image_size=64)
MakeVolume = Callable[..., Volume]
BOX = Box((8, 9, 1), (30, 25, 3), label=3, name="organ", plane="axial")


class Counting(nn.Module):
    """Wraps a module and counts its calls."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.calls = module, 0

    def forward(self, *args: object, **options: object) -> object:
        self.calls += 1
        return self.module(*args, **options)


def counting_encoder(model: SamModelAdapter) -> Counting:
    model.network.vision_encoder = Counting(model.network.vision_encoder)
    return model.network.vision_encoder


@pytest.fixture
def model(small_adapter: Callable[..., SamModelAdapter]) -> SamModelAdapter:
    return small_adapter(SETTINGS)


@torch.inference_mode()
def by_hand(model: SamModelAdapter, picture: np.ndarray, box: tuple[float, ...], grey: object) -> np.ndarray:
    """One slice through transformers' own forward, as MedSAM's published inference does it."""
    size, (rows, columns) = SETTINGS.image_size, picture.shape
    scaled = torch.tensor(box) / torch.tensor([columns, rows, columns, rows]) * size
    pixels = pixel_values(grey.apply(picture), SETTINGS)
    out = model.network(pixel_values=pixels, input_boxes=scaled[None, None].float(), multimask_output=False)
    probability = torch.nn.functional.interpolate(out.pred_masks[:, 0].sigmoid(), size=(rows, columns), mode="bilinear")
    return (probability[0, 0] > 0.5).numpy()


def test_every_slice_that_the_box_crosses_is_segmented(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    volume = blob_ct()
    result = model.segment(volume, BoxPrompt((BOX,)))
    grey = grey_window(volume, SETTINGS)
    for k in range(volume.shape[0]):
        if 1 <= k <= 3:
            expected = by_hand(model, volume.array[k], (8, 9, 30, 25), grey)
            assert 0 < expected.sum() < expected.size
            np.testing.assert_array_equal(result.labels[k] == 3, expected)
        else:
            assert not result.labels[k].any()
    assert [(s.label, s.name) for s in result.structures] == [(3, "organ")]
    assert set(result.stages) == {"preprocess", "encoder", "decoder"}


@pytest.mark.parametrize(("plane", "axis"), [("coronal", 1), ("sagittal", 2)])
def test_boxes_in_the_other_planes(model: SamModelAdapter, plane: str, axis: int, blob_ct: MakeVolume) -> None:
    volume = blob_ct()
    result = model.segment(volume, BoxPrompt((replace(BOX, plane=plane),)))
    grey = grey_window(volume, SETTINGS)
    crossed = range(9, 26) if plane == "coronal" else range(8, 31)
    # head up: k runs upwards in the picture, so the rows are flipped, and k = 1..3 of 0..4 stays 1..3
    box = (8, 1, 30, 3) if plane == "coronal" else (9, 1, 25, 3)
    for index in range(volume.shape[axis]):
        found = np.take(result.labels, index, axis) == 3
        if index in crossed:
            picture = np.take(volume.array, index, axis)[::-1]
            np.testing.assert_array_equal(found[::-1], by_hand(model, picture, box, grey))
        else:
            assert not found.any()


def test_a_world_box_means_the_same_as_its_index_box(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    affine = np.array([[0.8, 0.1, 0.0, -30.0], [-0.1, 0.8, 0.0, 12.0], [0.0, 0.0, 4.0, 7.0], [0, 0, 0, 1.0]])
    volume = blob_ct(
        affine=np.diag([0.8, 0.9, 4.0, 1.0]) + np.array([[0, 0, 0, -30], [0, 0, 0, 12], [0, 0, 0, 7], [0] * 4])
    )
    corners = [tuple((volume.affine @ [*corner, 1])[:3]) for corner in (BOX.lower, BOX.upper)]
    world = Box(*corners, space="world", label=3, name="organ", plane="axial")
    np.testing.assert_array_equal(
        model.segment(volume, BoxPrompt((world,))).labels, model.segment(volume, BoxPrompt((BOX,))).labels
    )
    oblique = blob_ct(affine=affine)
    assert model.segment(oblique, BoxPrompt((BOX,))).labels.any()


@pytest.mark.parametrize("flips", [(), (0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_one_patient_gives_one_mask_however_stored(
    model: SamModelAdapter, flips: tuple[int, ...], order: tuple[int, ...], blob_ct: MakeVolume
) -> None:
    """Array axes flipped and exchanged, the matrix with them: the same mask, voxel for voxel, from a world box."""
    volume = blob_ct()
    corners = [tuple((volume.affine @ [*corner, 1])[:3]) for corner in (BOX.lower, BOX.upper)]
    prompt = BoxPrompt((Box(*corners, space="world", label=3, plane="axial"),))
    expected = model.segment(volume, prompt).labels
    columns = volume.affine[:, [2, 1, 0]]  # of k, j, i
    offset = volume.affine[:, 3].copy()
    for axis in flips:
        offset += columns[:, axis] * (volume.shape[axis] - 1)
    signs = [-1 if axis in flips else 1 for axis in range(3)]
    moved = np.stack([columns[:, a] * signs[a] for a in order], axis=1)
    affine = np.column_stack([moved[:, ::-1], offset])
    stored = Volume(np.flip(volume.array, flips).transpose(order), affine, modality="CT")
    found = model.segment(stored, prompt).labels
    np.testing.assert_array_equal(np.flip(found.transpose(np.argsort(order)), flips), expected)


def test_embeddings_are_computed_once_per_slice(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    volume, encoder = blob_ct(), counting_encoder(model)
    model.segment(volume, BoxPrompt((BOX, replace(BOX, lower=(20, 15, 2), upper=(45, 35, 4), label=4))))
    assert encoder.calls == 4  # slices 1 to 4, two boxes on some
    model.segment(volume, BoxPrompt((replace(BOX, lower=(2, 2, 0), upper=(30, 30, 4)),)))
    assert encoder.calls == 5
    model.segment(volume.with_array(volume.array + np.int16(9)), BoxPrompt((BOX,)))
    assert encoder.calls == 8  # other voxels, other embeddings
    model.with_network(model.network).segment(volume, BoxPrompt((BOX,)))
    assert encoder.calls == 11  # another network must not see this one's embeddings
    model.segment(volume, BoxPrompt((BOX,)))
    assert encoder.calls == 11


def test_the_cache_stays_within_its_bound(
    model: SamModelAdapter, monkeypatch: pytest.MonkeyPatch, blob_ct: MakeVolume
) -> None:
    one = 32 * 8 * 8 * 4
    monkeypatch.setattr("medquant.models.sam._CACHE_BYTES", 2 * one)
    encoder = counting_encoder(model)
    model.segment(blob_ct(), BoxPrompt((BOX,)))
    model.segment(blob_ct(), BoxPrompt((replace(BOX, lower=(8, 9, 2)),)))
    assert encoder.calls == 3  # the last two slices were kept
    model.segment(blob_ct(), BoxPrompt((replace(BOX, upper=(30, 25, 1)),)))
    assert encoder.calls == 4


def test_the_later_box_wins(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    volume = blob_ct()
    first, second = BOX, replace(BOX, lower=(10, 10, 0), upper=(40, 34, 2), label=7, name="other")
    alone = {b.label: model.segment(volume, BoxPrompt((b,))).labels > 0 for b in (first, second)}
    assert (alone[3] & alone[7]).any()
    together = model.segment(volume, BoxPrompt((first, second))).labels
    np.testing.assert_array_equal(together, np.where(alone[7], 7, np.where(alone[3], 3, 0)))
    other_way = model.segment(volume, BoxPrompt((second, first))).labels
    np.testing.assert_array_equal(other_way, np.where(alone[3], 3, np.where(alone[7], 7, 0)))


def test_the_later_box_wins_across_planes(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    volume = blob_ct()
    sagittal = replace(BOX, label=5, plane="sagittal")
    alone = model.segment(volume, BoxPrompt((sagittal,))).labels > 0
    together = model.segment(volume, BoxPrompt((sagittal, BOX))).labels
    axial = model.segment(volume, BoxPrompt((BOX,))).labels > 0
    np.testing.assert_array_equal(together, np.where(axial, 3, np.where(alone, 5, 0)))


def test_many_boxes_on_one_slice(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    boxes = [replace(BOX, lower=(n, n, 2), upper=(n + 12, n + 10, 2), label=n + 1) for n in range(25)]
    volume = blob_ct()
    together = model.segment(volume, BoxPrompt(tuple(boxes))).labels
    expected = np.zeros(volume.shape, dtype=np.uint8)
    for box in boxes:
        alone = model.segment(volume, BoxPrompt((box,))).labels
        expected[alone > 0] = box.label
    differing = (together != expected).mean()
    assert differing < 1e-3  # batched matrix products round differently


def test_a_small_box_is_cut_out_and_encoded_anew(
    blob_ct: MakeVolume, small_adapter: Callable[..., SamModelAdapter]
) -> None:
    settings = replace(SETTINGS, zoom_below=0.5, zoom_factor=2.0, clip_margin=0.1)
    model = small_adapter(settings)
    volume, encoder = blob_ct(), counting_encoder(model)
    small = replace(BOX, lower=(12, 10, 2), upper=(21, 17, 2))
    found = model.segment(volume, BoxPrompt((small,))).labels[2] > 0
    assert encoder.calls == 1
    x0, y0, side = 7, 4, 20  # twice the longer side of 10, around the box
    part = grey_window(volume, settings).apply(volume.array[2])[y0 : y0 + side, x0 : x0 + side]
    with torch.inference_mode():
        out = model.network(
            pixel_values=pixel_values(part, settings),
            input_boxes=torch.tensor([[[5.0, 6.0, 14.0, 13.0]]]) / side * 64,
            multimask_output=False,
        )
        mask = torch.nn.functional.interpolate(out.pred_masks[:, 0].sigmoid(), size=(side, side), mode="bilinear")
    expected = np.zeros_like(found)
    expected[y0 : y0 + side, x0 : x0 + side] = mask[0, 0] > 0.5
    inside = np.zeros_like(found)
    inside[9:19, 11:23] = True  # the box grown by a tenth of its size
    np.testing.assert_array_equal(found, expected & inside)


def test_a_missing_prompt_is_explained(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    for prompt in (None, BoxPrompt(())):
        with pytest.raises(UserError, match="needs a box"):
            model.segment(blob_ct(), prompt)


def test_bad_boxes_and_voxels_are_explained(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    with pytest.raises(UserError, match="outside"):
        model.segment(blob_ct(), BoxPrompt((replace(BOX, lower=(99, 99, 99), upper=(120, 120, 120)),)))
    with pytest.raises(UserError, match="label"):
        model.segment(blob_ct(), BoxPrompt((replace(BOX, label=0),)))
    broken = blob_ct().array.astype(np.float32)
    broken[2, 3, 4] = np.nan
    with pytest.raises(UserError, match="1 voxels that are not numbers"):
        model.segment(blob_ct().with_array(broken), BoxPrompt((BOX,)))


def test_cancel_stops_between_slices(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    encoder, seen = counting_encoder(model), []
    progress = Progress(seen.append, lambda: len(seen) >= 2)
    with pytest.raises(Cancelled):
        model.segment(blob_ct(), BoxPrompt((BOX,)), progress)
    assert encoder.calls == 1  # asked while the second slice was being prepared
    assert [event.fraction for event in seen] == sorted(event.fraction for event in seen)


def test_cancel_stops_within_a_slice(model: SamModelAdapter, blob_ct: MakeVolume) -> None:
    """The first slice of a large encoder takes many seconds; the wish to stop is heard before every layer."""
    ran: list[int] = []
    for layer in model.network.vision_encoder.layers:
        layer.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(Cancelled):
        model.segment(blob_ct(), BoxPrompt((BOX,)), Progress(None, lambda: bool(ran)))
    assert len(ran) == 1
    model.segment(blob_ct(), BoxPrompt((BOX,)))  # nothing of the stopped run is left behind
    assert len(ran) == 1 + 2 * 3


def test_views_are_upright() -> None:
    """In an LPS scan with k to the head: axial as stored; coronal and sagittal with the head up."""
    volume = Volume(np.arange(24).reshape(2, 3, 4), np.eye(4))
    array = volume.array
    np.testing.assert_array_equal(SliceView.of(volume, 0).picture(array, 1), array[1])
    np.testing.assert_array_equal(SliceView.of(volume, 1).picture(array, 2), array[::-1, 2])
    np.testing.assert_array_equal(SliceView.of(volume, 2).picture(array, 3), array[::-1, :, 3])


def test_the_embedded_model_on_a_manual_spleen(test_data: Path) -> None:
    """Boxes from the manual mask, slice by slice: far better than chance, on weights that never saw a scan."""
    assert EMBEDDED_PROMPTABLE.is_dir(), "the embedded weights are a part of this checkout"
    volume = read_volume(test_data / "ct_spleen_5mm" / "sub-spleen2_ct.nii.gz")
    volume = replace(volume, modality="CT")
    reference = read_volume(test_data / "ct_spleen_5mm" / "sub-spleen2_ct_seg-manual.nii.gz").array > 0
    boxes = boxes_from_labels(reference.astype(np.uint8), volume, [Structure(1, "spleen")], per_slice=True)
    some = BoxPrompt(boxes.boxes[::6])
    result = load_model("embedded").segment(volume, some)
    slices = [box.lower[2] for box in some.boxes]
    found, wanted = result.labels[slices] > 0, reference[slices]
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.85
    assert not np.delete(result.labels, slices, axis=0).any()

"""The part of a `Host` that is MRML alone, the same in Slicer and in the window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt
import slicer

from MedQuantSlicerLib import boxes, mask_views, masks, scene
from MedQuantSlicerLib.host import FP32, QUANTIZED, BoxInfo, Masks, Point, Stop, VolumeInfo
from MedQuantSlicerLib.mask_states import SegmentationWatch
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.results_host import ResultsHost
from MedQuantSlicerLib.segment_labels import SegmentLabels
from MedQuantSlicerLib.turns import Turns, pieces_of, writing

BOX_EVENTS = ("PointModifiedEvent", "PointEndInteractionEvent", "PointPositionDefinedEvent", "PointRemovedEvent")
SETTLE_MS = 150
"""A drag tells every millimetre; the presenter hears of the box once it rests."""
WINDOWS = {
    "soft": (40.0, 400.0),
    "lung": (-600.0, 1500.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
}
"""Level and width of the usual CT windows, in HU."""


class SceneHost(ResultsHost):
    """Scans, boxes and masks of the scene. `parameters` is the parameter node; `boxes_changed`, `volume_changed` and
    `masks_changed` are called when the boxes, the voxels and transforms of the scan, or segmentations have changed in
    the scene."""

    def __init__(self, parameters: Any) -> None:
        super().__init__()
        self.parameters = parameters
        self.masks_changed: Callable[[], None] = lambda: None
        self.is_busy: Callable[[], bool] = lambda: False
        """Whether masks are in the making: nobody asks then in what state they are."""
        self.boxes_changed: Callable[[], None] = lambda: None
        self.volume_changed: Callable[[], None] = lambda: None
        self.chosen_segment: tuple[Any, str] | None = None
        """Segmentation node and segment id for a box from a segment."""
        self._stop_measuring: Stop = lambda: None
        """Of the segment that gets a box."""
        self._stop_looking: Stop = lambda: None
        """At the masks that have changed."""
        self._observed: dict[Any, list[int]] = {}
        self._watched: tuple[Any, list[int]] = (None, [])
        self._flipped = self._volume_moved = False
        self._settle = qt.QTimer()
        self._settle.setSingleShot(True)
        self._settle.setInterval(SETTLE_MS)
        self._settle.timeout.connect(self._boxes_rest)
        self._scene_tags = [
            (observed, observed.AddObserver(event, self._scene_changed)) for observed, event in self._scene_events()
        ]
        self._observe_boxes()
        self._segmentations = SegmentationWatch(self._scene_changed)

    def close(self) -> None:
        """Observe nothing any longer."""
        self._settle.stop()
        self._stop_measuring()
        self._stop_looking()
        for observed, tag in self._scene_tags:
            observed.RemoveObserver(tag)
        self._scene_tags = []
        for node in list(self._observed):
            self._forget(node)
        self._segmentations.close()
        self._watch(None)
        boxes.end_placing()
        mask_views.release()

    def watch_volume(self, node: Any) -> None:
        """This volume is chosen: tell of its changes, and of no other's, and show its masks."""
        self._watch(node)
        self._end_flip()
        self.place_masks()

    def _watch(self, node: Any) -> None:
        watched, tags = self._watched
        for tag in tags:
            watched.RemoveObserver(tag)
        events = (
            (slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent, self._voxels_event),
            (slicer.vtkMRMLTransformableNode.TransformModifiedEvent, self._volume_event),
        )
        tags = [node.AddObserver(*event) for event in events] if node is not None else []
        self._watched = (node, tags)

    # -- what the scene holds

    @property
    def node(self) -> Any:
        """The volume that is chosen, or None."""
        return self.parameters.inputVolume if self.parameters is not None else None

    def has_masks(self) -> bool:
        """Whether there are results on the chosen scan."""
        return self.node is not None and any(masks.segmentation_of(kind, self.node) for kind in (FP32, QUANTIZED))

    def volume(self) -> VolumeInfo | None:
        """See `Host`."""
        return scene.describe_volume(self.node) if self.node is not None else None

    def write_volume(self, path: str, on_done: Callable[[], None], on_error: Callable[[Exception], None]) -> Stop:
        """See `Host`."""
        array = scene.volume_array(self.node)
        parts = (array[part] for part in pieces_of(array.shape, array.itemsize))
        return Turns(writing(path, array.shape, array.dtype, parts), lambda _: on_done(), on_error).stop

    def boxes(self) -> Sequence[BoxInfo]:
        """See `Host`."""
        return boxes.describe_boxes(self.node) if self.node is not None else ()

    def is_placing(self) -> bool:
        """See `Host`."""
        return boxes.box_being_placed() is not None

    def box_nodes(self) -> list[Any]:
        """The boxes themselves, for the panel's list."""
        return boxes.boxes_of(self.node) if self.node is not None else []

    def write_reference(
        self, path: str, on_done: Callable[[dict[int, str]], None], on_error: Callable[[Exception], None]
    ) -> Stop:
        """See `Host`."""
        reference = self.parameters.referenceSegmentation
        if reference is None:
            raise ValueError(_("No reference is chosen. Choose a segmentation that an expert drew."))
        if masks.is_own(reference):
            raise ValueError(_("The reference is a result of this panel. Choose a segmentation that an expert drew."))
        nothing = ValueError(_("The reference has no segments on this scan. Choose another one."))
        try:
            labels = SegmentLabels(reference, self.node)
        except ValueError:
            raise nothing from None
        return Turns(
            writing(path, labels.shape, labels.dtype, labels.blocks()),
            lambda _: on_done(labels.names),
            lambda error: on_error(nothing if isinstance(error, ValueError) else error),
        ).stop

    # -- what the scene is given

    def start_box(self, from_segment: bool = False) -> None:
        """See `Host`."""
        boxes.end_placing()
        if not from_segment:
            boxes.begin_placing(boxes.new_box(self.node))
        elif self.chosen_segment is not None:
            self._box_around(*self.chosen_segment)

    def _box_around(self, segmentation: Any, segment: str) -> None:
        """A box around a segment, a moment later."""
        volume, labels = self.node, SegmentLabels(segmentation, self.node, [segment])

        def place(ends: Any) -> None:
            if ends is not None and volume.GetScene() is not None:
                boxes.fit_box(boxes.new_box(volume, labels.names[1]), volume, *ends)
            self.boxes_changed()

        self._stop_measuring()
        self._stop_measuring = Turns(labels.ends(), place, lambda _: self.boxes_changed()).stop

    def remove_box(self, node: Any) -> None:
        """Take a box away."""
        slicer.mrmlScene.RemoveNode(node)

    def show_masks(self, kind: str, result: Masks, partial: bool) -> None:
        """See `Host`."""
        import numpy as np

        self._end_flip()
        labels = np.load(result.file, mmap_mode="r")
        masks.show(
            kind,
            labels,
            result.labels,
            self.node,
            title=result.shown_as or kind,
            offset=result.offset,
            partial=partial,
        )
        self.place_masks()
        self.style()

    def remove_masks(self, kind: str) -> None:
        """See `Host`."""
        self._end_flip()
        if self.node is not None:
            masks.remove(kind, self.node)

    def jump_to(self, position: Point) -> None:
        """See `Host`."""
        for tag in (scene.FP32_VIEW, scene.QUANTIZED_VIEW, scene.DIFFERENCE_VIEW):
            view = slicer.mrmlScene.GetNodeByID(scene.view_id(tag))
            if view is not None:
                view.JumpSliceByOffsetting(*scene.flipped(position))

    # -- how it looks

    def style(self) -> None:
        """Draw all masks as the panel's opacity and fill say."""
        if self.parameters is None:
            return
        mask_views.style(opacity=self.parameters.opacity, filled=self.parameters.filled)

    def flip(self) -> None:
        """Swap the masks of the two views in place: the eye sees a flicker better than two pictures."""
        self._flipped = not self._flipped
        self.place_masks()

    def _end_flip(self) -> None:
        """Other masks begin in their own views."""
        if self._flipped:
            self.flip()

    def shows_pair(self) -> bool:
        """Whether the views are shown in which the masks are kept apart."""
        return True

    def place_masks(self) -> None:
        """Keep the masks in their own views while these are shown; otherwise all views draw them."""
        if self.shows_pair():
            mask_views.keep_apart(self.node, self._flipped)
        else:
            mask_views.release()

    def set_window(self, name: str) -> None:
        """Show the scan in one of `WINDOWS`, or "" for a window that its values suggest."""
        display = self.node.GetDisplayNode() if self.node is not None else None
        if display is None:
            return
        if name:
            level, width = WINDOWS[name]
            display.SetAutoWindowLevel(False)
            display.SetWindowLevel(width, level)
        else:
            display.SetAutoWindowLevel(True)

    # -- inside

    @staticmethod
    def _scene_events() -> list[tuple[Any, int]]:
        """Nodes that come and go, and the end of drawing a box."""
        events = [(slicer.mrmlScene, slicer.vtkMRMLScene.NodeAddedEvent)]
        events.append((slicer.mrmlScene, slicer.vtkMRMLScene.NodeRemovedEvent))
        interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
        if interaction is not None:
            events.append((interaction, interaction.InteractionModeChangedEvent))
        return events

    def _scene_changed(self, caller: Any = None, event: Any = None) -> None:
        self._settle.start()

    def _voxels_event(self, caller: Any = None, event: Any = None) -> None:
        self._forget_kept()
        self._volume_event()

    def _volume_event(self, caller: Any = None, event: Any = None) -> None:
        self._volume_moved = True
        self._settle.start()

    def _boxes_rest(self) -> None:
        self._observe_boxes()
        self._segmentations.look()
        if self._volume_moved:
            self._volume_moved = False
            self.volume_changed()
        boxes.drop_undrawn()
        for node in self.box_nodes():
            boxes.deepen_flat_box(node, self.node)
        self.boxes_changed()
        self._look_at_masks()

    def _look_at_masks(self) -> None:
        """Large masks take a moment to look at: once that is done, their state is known at once."""
        self._stop_looking()
        if self.is_busy():
            return
        nodes = [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if masks.is_own(node)]
        reference = self.parameters.referenceSegmentation if self.parameters is not None else None
        nodes += [reference] if reference is not None else []
        told = lambda _: self.masks_changed()  # noqa: E731
        self._stop_looking = Turns(self._states.finding(nodes), told, told).stop

    def _observe_boxes(self) -> None:
        present = [
            node
            for node in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")
            if node.GetAttribute(boxes.BOX_ATTRIBUTE) is not None
        ]
        for node in [known for known in self._observed if known not in present]:
            self._forget(node)
        for node in present:
            if node not in self._observed:
                events = [getattr(node, name) for name in BOX_EVENTS]
                events.append(slicer.vtkMRMLTransformableNode.TransformModifiedEvent)
                self._observed[node] = [node.AddObserver(event, self._scene_changed) for event in events]

    def _forget(self, node: Any) -> None:
        for tag in self._observed.pop(node, []):
            node.RemoveObserver(tag)

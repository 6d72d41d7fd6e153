"""The part of a `Host` that keeps results: the state that masks are in, how they are handed over, what is saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import slicer

from MedQuantSlicerLib import masks
from MedQuantSlicerLib.host import CHOICES, COMPARISON, FP32, QUANTIZED, Stop
from MedQuantSlicerLib.mask_states import MaskStates
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.segment_labels import SegmentLabels
from MedQuantSlicerLib.turns import Turns, writing

KEPT_ATTRIBUTES = {COMPARISON: "MedQuant.Comparison"}
KEPT_ATTRIBUTE = "MedQuant.Result"


class ResultsHost:
    """Mixed into `SceneHost`, which has `parameters` and `node`."""

    parameters: Any
    node: Any

    def __init__(self) -> None:
        self._states = MaskStates()

    def masks_state(self, kind: str) -> str:
        """See `Host`."""
        node = self._masks(kind)
        return self._states.of(node) if node is not None else ""

    def reference_state(self) -> str:
        """See `Host`."""
        reference = self.parameters.referenceSegmentation if self.parameters is not None else None
        return self._states.of(reference) if reference is not None else ""

    def write_masks(
        self, kind: str, path: str, on_done: Callable[[dict[int, str]], None], on_error: Callable[[Exception], None]
    ) -> Stop:
        """See `Host`."""
        node = self._masks(kind)
        if node is None:
            raise ValueError(_("The masks are not in the scene any more. Segment again."))
        labels = SegmentLabels(node, self.node)
        written = writing(path, labels.shape, labels.dtype, labels.blocks())
        return Turns(written, lambda _: on_done(labels.names), on_error).stop

    def set_aside(self, kind: str) -> Callable[[], None]:
        """See `Host`."""
        # All of it by node: another scan may be chosen by the time they are put back.
        volume, node = self.node, self._masks(kind)
        if node is None:
            return lambda: masks.remove(kind, volume)
        copy = slicer.vtkSegmentation()
        copy.DeepCopy(node.GetSegmentation())
        name, places = node.GetName(), [self._place(what) for what in (kind, COMPARISON)]
        kept = [(place, attribute, place.GetAttribute(attribute)) for place, attribute in places if place is not None]

        def put_back() -> None:
            if node.GetScene() is not None:
                node.GetSegmentation().DeepCopy(copy)
                node.SetName(name)
                for place, attribute, text in kept:
                    place.SetAttribute(attribute, text)

        return put_back

    def keep(self, what: str, text: str) -> None:
        """See `Host`."""
        if what == CHOICES:
            if self.parameters is not None and self.parameters.kept != text:
                self.parameters.kept = text
            return
        node, attribute = self._place(what)
        if node is not None:
            # Quoted: MRML writes all attributes of a node into one, with separators of its own.
            node.SetAttribute(attribute, quote(text) or None)

    def kept(self, what: str) -> str:
        """See `Host`."""
        if what == CHOICES:
            return self.parameters.kept if self.parameters is not None else ""
        node, attribute = self._place(what)
        return unquote(node.GetAttribute(attribute) or "") if node is not None else ""

    def _forget_kept(self) -> None:
        """The voxels of the scan are others now: its masks stay, but nothing is known of them any more."""
        for what in (FP32, QUANTIZED, COMPARISON):
            self.keep(what, "")

    def _place(self, what: str) -> tuple[Any, str]:
        """The segmentation of the chosen scan beside which a text is kept, and the attribute that holds it."""
        kind = QUANTIZED if what == COMPARISON else what
        return self._masks(kind), KEPT_ATTRIBUTES.get(what, KEPT_ATTRIBUTE)

    def _masks(self, kind: str) -> Any:
        return masks.segmentation_of(kind, self.node) if self.node is not None else None

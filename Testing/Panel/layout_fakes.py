"""A stand-in for Slicer's layout manager, with real slice logics behind views that draw nothing; what they show."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import panel_geometries as geometries

LEFT, RIGHT, THIRD = "MedQuantFP32", "MedQuantQuantized", "MedQuantDifference"


class FakeSignal:
    """A signal of Qt, by its two ends."""

    def __init__(self):
        self._connected = []
        self.connect, self.disconnect = self._connected.append, self._connected.remove

    def emit(self, *told):
        for function in list(self._connected):
            function(*told)


class FakeView:
    """A real slice logic and a real slice node behind a view that draws nothing."""

    def __init__(self, slicer, node):
        import vtk

        self.logic, self.annotation = slicer.vtkMRMLSliceLogic(), vtk.vtkCornerAnnotation()
        self.logic.SetMRMLScene(slicer.mrmlScene)
        node.SetDimensions(400, 300, 1)
        self.logic.SetSliceNode(node)

    def sliceLogic(self):
        return self.logic

    def sliceView(self):
        return SimpleNamespace(cornerAnnotation=lambda: self.annotation, scheduleRender=lambda: None)

    @property
    def title(self):
        return self.annotation.GetText(self.annotation.UpperEdge)


class FakeLayoutManager:
    """With Slicer's own layout logic, which makes the views that a layout describes."""

    def __init__(self, slicer):
        from MedQuantSlicerLib.slicer_layouts import LAYOUTS

        self._slicer, self._logic, self._views = slicer, slicer.vtkMRMLLayoutLogic(), {}
        self._logic.SetMRMLScene(slicer.mrmlScene)
        node = self._logic.GetLayoutNode()
        node.SetViewArrangement(3)
        for number in LAYOUTS:  # the node outlives the scenes of other tests
            if node.IsLayoutDescription(number):
                node.SetLayoutDescription(number, "")
        self.fitted_3d = 0
        self.layoutChanged = FakeSignal()
        self.setLayout(3)

    def layoutLogic(self):
        return self._logic

    @property
    def layout(self):
        return self._logic.GetLayoutNode().GetViewArrangement()

    def setLayout(self, layout):
        self._logic.GetLayoutNode().SetViewArrangement(layout)
        self.layoutChanged.emit(layout)

    def resetThreeDViews(self):
        self.fitted_3d += 1

    def sliceWidget(self, tag):
        node = self._slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNode{tag}")
        if tag not in self._views and node is not None:
            self._views[tag] = FakeView(self._slicer, node)
        return self._views.get(tag)


def choose_with_masks(host, name="axial"):
    """Another scan in the panel, with its own masks of both kinds."""
    from MedQuantSlicerLib import masks

    volume = geometries.add_volume(name)
    host.parameters.inputVolume = volume
    host.watch_volume(volume)
    for kind in ("fp32", "quantized"):
        masks.show(kind, np.ones((9, 12, 16), np.uint8), {1: "liver"}, volume, title=kind)
    host.place_masks()
    return volume


def shown_in(kind, volume, tags=(LEFT, RIGHT)):
    """Which of the views draw the masks of a kind."""
    from MedQuantSlicerLib import masks

    display = masks.segmentation_of(kind, volume).GetDisplayNode()
    return [tag for tag in tags if display.IsDisplayableInView(f"vtkMRMLSliceNode{tag}")]


def views_of(kind, volume):
    """The views that the masks of a kind are bound to; none where every view draws them."""
    from MedQuantSlicerLib import masks

    return list(masks.segmentation_of(kind, volume).GetDisplayNode().GetViewNodeIDs())


def show_pair(host, left, right):
    """Both views beside each other, with their titles."""
    host.show_pair()
    host.show_results(left, right, False)


def background(manager, tag):
    """The scan that a view shows."""
    return manager.sliceWidget(tag).logic.GetSliceCompositeNode().GetBackgroundVolumeID()

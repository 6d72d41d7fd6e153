"""3D Slicer as the application around the panel: its layout, its dialogs, its Python."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import qt
import slicer
import vtk

from MedQuantSlicerLib import masks, slicer_layouts
from MedQuantSlicerLib.host import DIFFERENCE, FP32, QUANTIZED, Masks, Missing
from MedQuantSlicerLib.mask_views import VIEWS, view_of
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.scene_host import SceneHost
from MedQuantSlicerLib.slicer_layouts import KINDS, LABELS, LAYOUTS, PAIR, QUAD, TRIPLE
from MedQuantSlicerLib.slicer_packages import EnginePackages


class SlicerHost(SceneHost):
    """See `Host`. `requirements` is the path of the module's `requirements.txt`."""

    def __init__(self, parameters: Any, requirements: str) -> None:
        super().__init__(parameters)
        self._packages = EnginePackages(requirements)
        self._former_layout: int | None = None
        self._titles = {FP32: "", QUANTIZED: "", DIFFERENCE: _("Difference")}
        self._with_difference = False
        self._manager = slicer.app.layoutManager()
        """None where Slicer runs without a window."""
        # Views that were just laid out get their size only when Qt comes round to it.
        self._unfitted: list[Any] = []
        self._sized = qt.QTimer()
        self._sized.setSingleShot(True)
        self._sized.setInterval(0)
        self._sized.timeout.connect(self._fit)
        if self._manager is not None:
            slicer_layouts.register(self._manager)
            self._manager.layoutChanged.connect(self._layout_changed)

    def close(self) -> None:
        """Observe nothing any longer."""
        self._sized.stop()
        if self._manager is not None:
            self._manager.layoutChanged.disconnect(self._layout_changed)
            self._save_layout(True)
        super().close()

    # -- views

    def shows_pair(self) -> bool:
        """Whether one of our layouts is shown: only then the masks are kept apart."""
        return self._manager is not None and self._manager.layout in LAYOUTS

    def show_pair(self) -> None:
        """See `Host`."""
        if self._manager is None:
            return
        if not self.shows_pair():
            self._former_layout = self._manager.layout
            self._manager.setLayout(PAIR)
        self._layout_changed()

    def show_results(self, left_title: str, right_title: str, difference: bool) -> None:
        """See `Host`. The difference comes with a view of its own, unless the user looks at something else."""
        self._titles |= {FP32: left_title, QUANTIZED: right_title}
        if self._manager is None:
            return
        layout, into = (PAIR, TRIPLE) if difference else (TRIPLE, PAIR)
        if difference != self._with_difference and self._manager.layout == layout:
            self._manager.setLayout(into)
        self._with_difference = difference
        self._show_titles()

    def restore_layout(self) -> None:
        """See `Host`."""
        if self.shows_pair():
            # There is none where a scene has brought our layout along.
            four_up = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
            self._manager.setLayout(four_up if self._former_layout is None else self._former_layout)
        self._former_layout = None

    def watch_volume(self, node: Any) -> None:
        """Show another scan too."""
        super().watch_volume(node)
        self._show_scan()

    def show_masks(self, kind: str, result: Masks, partial: bool) -> None:
        """See `Host`."""
        super().show_masks(kind, result, partial)
        if kind != DIFFERENCE and not partial:
            self._make_surfaces()

    def start_box(self, from_segment: bool = False) -> None:
        """See `Host`."""
        self.show_pair()
        super().start_box(from_segment)

    def flip(self) -> None:
        """Titles go with the masks."""
        if self.shows_pair():
            super().flip()
            self._show_titles()

    def _layout_changed(self, layout: Any = None) -> None:
        """Called by Slicer too, whoever has changed the layout."""
        self._flipped = False
        # Where this extension is not installed, a scene that remembers our layout would open without any view.
        self._save_layout(not self.shows_pair())
        self.place_masks()
        self._show_scan()
        self._show_titles()
        self._make_surfaces()

    def _save_layout(self, saved: bool) -> None:
        """Whether a scene that is saved now remembers its layout."""
        node = self._manager.layoutLogic().GetLayoutNode()
        if bool(node.GetSaveWithScene()) != saved:
            node.SetDisableModifiedEvent(1)  # Slicer would lay all views out anew
            node.SetSaveWithScene(saved)
            node.SetDisableModifiedEvent(0)

    def _slice_widgets(self) -> dict[str, Any]:
        """Those of our layout that is shown, by the kind of masks that they are for."""
        kinds = KINDS[self._manager.layout] if self.shows_pair() else ()
        found = {kind: self._manager.sliceWidget(VIEWS[kind]) for kind in kinds}
        return {kind: widget for kind, widget in found.items() if widget is not None}

    def _show_scan(self) -> None:
        """The chosen scan, or none, in every view, linked. Where it is shown already the user's zoom stays."""
        scan = self.node.GetID() if self.node is not None else None
        logics = [widget.sliceLogic() for widget in self._slice_widgets().values()]
        # Before anything is changed: linked views follow each other.
        news = [one for one in logics if one.GetSliceCompositeNode().GetBackgroundVolumeID() != scan]
        shown = next((one for one in logics if one not in news), None)
        for logic in news:
            composite, view = logic.GetSliceCompositeNode(), logic.GetSliceNode()
            composite.SetLinkedControl(True)
            composite.SetHotLinkedControl(True)
            composite.SetBackgroundVolumeID(scan)
            if scan is None:
                continue
            if shown is None:
                # Models see the scan's own slices: boxes are drawn in these.
                view.SetOrientationToDefault()
                view.RotateToVolumePlane(self.node)
            else:
                view.GetSliceToRAS().DeepCopy(shown.GetSliceNode().GetSliceToRAS())
                view.UpdateMatrices()
            logic.FitSliceToBackground()
            if shown is not None:
                logic.SetSliceOffset(shown.GetSliceOffset())
            logic.SnapSliceOffsetToIJK()
        self._unfitted += news
        self._sized.start()

    def _fit(self) -> None:
        """The whole scan, at the slice that is shown."""
        for logic in self._unfitted:
            offset = logic.GetSliceOffset()
            logic.FitSliceToBackground()
            logic.SetSliceOffset(offset)
        self._unfitted = []

    def _show_titles(self) -> None:
        """Each over the masks that it is about."""
        widgets = self._slice_widgets()
        for kind in widgets:
            widget = self._manager.sliceWidget(view_of(kind, self._flipped))
            widget.sliceView().cornerAnnotation().SetText(vtk.vtkCornerAnnotation.UpperEdge, self._titles[kind])
            label, color = LABELS[kind]
            view = widget.sliceLogic().GetSliceNode()
            view.SetLayoutLabel(label)
            view.SetLayoutColor(*(int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)))
            widget.sliceView().scheduleRender()

    def _make_surfaces(self) -> None:
        """For the 3-D view, as Slicer's "Show 3D" makes them; only there, as Slicer waits for them."""
        if self.node is None or not self.shows_pair() or self._manager.layout != QUAD:
            return
        nodes = [masks.segmentation_of(kind, self.node) for kind in (FP32, QUANTIZED)]
        bare = [n for n in nodes if n is not None and not n.GetSegmentation().ContainsRepresentation("Closed surface")]
        for node in bare:
            node.CreateClosedSurfaceRepresentation()
        if bare:
            self._manager.resetThreeDViews()

    # -- dialogs

    def confirm(self, text: str) -> bool:
        """See `Host`."""
        return bool(slicer.util.confirmYesNoDisplay(text, windowTitle="MedQuant"))

    def open_folder(self, path: str) -> None:
        """See `Host`."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(path))

    # -- packages

    def missing(self) -> Missing | None:
        """See `Host`."""
        return self._packages.missing()

    def install(self, on_progress: Callable, on_done: Callable, on_error: Callable) -> None:
        """See `Host`."""
        self._packages.install(on_progress, on_done, on_error)

    def cancel_install(self) -> None:
        """See `Host`."""
        self._packages.cancel()

    def restarted(self) -> None:
        """See `Host`."""
        logging.getLogger("medquant.panel").info("the engine was started again")

"""The section "Segment": boxes with the names of structures, what to run, the button."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from MedQuantSlicerLib import boxes, masks, style
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.state import Shown
from MedQuantSlicerLib.widgets import Fold, row_height, show_action


class SegmentSection:
    """Boxes and Segment."""

    def __init__(self, ui: Any, presenter: Any, host: Any) -> None:
        self._ui, self._presenter, self._host = ui, presenter, host
        self._filling = False
        self._nodes: list[Any] = []
        self._row = 0
        self._resting: tuple[Any, ...] = ()
        ui.placeBoxButton.clicked.connect(lambda *_: presenter.place_box())
        self._menu = qt.QMenu(ui.boxFromSegmentButton)
        self._menu.aboutToShow.connect(self._list_segments)
        ui.boxFromSegmentButton.setMenu(self._menu)
        ui.boxList.setColumnCount(2)
        ui.boxList.header().setStretchLastSection(False)
        ui.boxList.header().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        ui.boxList.header().setSectionResizeMode(1, qt.QHeaderView.Fixed)
        ui.boxList.setColumnWidth(1, 30)
        ui.boxList.itemChanged.connect(self._renamed)
        ui.boxList.itemClicked.connect(self._clicked)
        self._fold = Fold(ui.segmentFold, ui.segmentBody)
        style.mark(ui.noBoxLabel, "quiet")
        ui.segmentButton.clicked.connect(lambda *_: presenter.segment())

    def show(self, shown: Shown) -> None:
        """Paint."""
        ui = self._ui
        ui.boxWidget.setVisible(shown.needs_box)
        ui.noBoxLabel.setVisible(not shown.needs_box)
        show_action(ui.placeBoxButton, shown.actions.get("place_box"))
        show_action(ui.boxFromSegmentButton, shown.actions.get("box_from_segment"), text=False)
        show_action(ui.segmentButton, shown.actions.get("segment"))
        self._list_boxes()
        self._rest_boxes(shown)

    def _rest_boxes(self, shown: Shown) -> None:
        """Boxes step back behind the masks that come of them; a click on a name brings that box forward again."""
        segment = shown.actions.get("segment")
        segmenting = shown.waiting is not None and shown.waiting.section == "segment"
        there = bool(shown.left_title or shown.right_title) and not (segment is not None and segment.primary)
        done = segmenting or there
        chosen = self._ui.boxList.currentItem() if self._ui.boxList.hasFocus() else None
        row = self._ui.boxList.indexOfTopLevelItem(chosen) if chosen is not None else -1
        resting = (*self._nodes, done, row)
        if resting != self._resting:
            self._resting = resting
            for number, node in enumerate(self._nodes):
                boxes.rest(node, done and number != row)

    def _list_boxes(self) -> None:
        tree, nodes = self._ui.boxList, self._host.box_nodes()
        names = [tree.topLevelItem(row).text(0) for row in range(tree.topLevelItemCount)]
        tree.setVisible(bool(nodes))
        tree.setFixedHeight(min(5, max(1, len(nodes))) * row_height(tree) + 6)
        row = row_height(tree)
        if (nodes, row) == (self._nodes, self._row) and names == [node.GetName() for node in nodes]:
            return
        self._nodes, self._row, self._filling = nodes, row, True
        tree.clear()
        for node in nodes:
            item = qt.QTreeWidgetItem([node.GetName(), "\N{MULTIPLICATION SIGN}"])
            item.setFlags(item.flags() | qt.Qt.ItemIsEditable)
            item.setToolTip(0, _("Double-click to name the structure, for example liver"))
            item.setToolTip(1, _("Remove this box"))
            item.setTextAlignment(1, qt.Qt.AlignCenter)
            item.setSizeHint(0, qt.QSize(0, row_height(tree)))
            tree.addTopLevelItem(item)
        self._filling = False

    def _renamed(self, item: Any, column: int) -> None:
        row = self._ui.boxList.indexOfTopLevelItem(item)
        name = item.text(0).strip()
        if self._filling or column != 0 or not 0 <= row < len(self._nodes):
            return
        if name:
            self._nodes[row].SetName(name)
        self._presenter.boxes_changed()

    def _clicked(self, item: Any, column: int) -> None:
        row = self._ui.boxList.indexOfTopLevelItem(item)
        if column == 1 and 0 <= row < len(self._nodes):
            self._host.remove_box(self._nodes[row])
            self._presenter.boxes_changed()
        self._rest_boxes(self._presenter.shown)

    def _list_segments(self) -> None:
        self._menu.clear()
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            if masks.is_own(node):
                continue
            segmentation = node.GetSegmentation()
            for identifier in segmentation.GetSegmentIDs():
                name = f"{node.GetName()}: {segmentation.GetSegment(identifier).GetName()}"
                self._menu.addAction(name).triggered.connect(self._take(node, identifier))
        if self._menu.isEmpty():
            self._menu.addAction(_("No segmentation in the scene")).setEnabled(False)

    def _take(self, node: Any, identifier: str) -> Any:
        def take(*_: Any) -> None:
            self._host.chosen_segment = (node, identifier)
            self._presenter.box_from_segment()

        return take

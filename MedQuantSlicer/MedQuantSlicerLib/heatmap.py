"""The sensitivity of the layers as a tree that folds: blocks, their layers, and a coloured cell for each bit-width."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

import qt

from MedQuantSlicerLib.colormap import color_of, is_light, percent
from MedQuantSlicerLib.messages import _
from MedQuantSlicerLib.state import HeatLayer, Heatmap

NAME_ROLE = 0x0100  # Qt.UserRole, as a plain number for both bindings
FOLD_FROM = 60
"""With more layers than this, blocks begin folded."""
ROW_HEIGHT = 20
CELL_WIDTH = 46


class HeatmapTree:
    """`chosen(name)` is called when a layer is clicked."""

    def __init__(self, tree: Any, chosen: Callable[[str], None]) -> None:
        self._tree, self._map = tree, Heatmap((), (), ())
        self._items: dict[str, Any] = {}
        self._blocks: dict[str, Any] = {}
        tree.itemClicked.connect(lambda item, column=0: chosen(item.data(0, NAME_ROLE) or ""))
        tree.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        tree.setTextElideMode(qt.Qt.ElideMiddle)
        tree.setVisible(False)

    @property
    def largest(self) -> float:
        """The largest effect that was measured."""
        return max((cell.effect for cell in self._map.cells if isfinite(cell.effect)), default=0.0)

    def show(self, heatmap: Heatmap | None) -> None:
        """Paint; cells that came since the last time are added, folds stay as the user left them."""
        self._tree.setVisible(heatmap is not None and bool(heatmap.layers))
        if heatmap is None or heatmap is self._map:
            return
        known = [layer.name for layer in self._map.layers], self._map.bits
        self._map = heatmap
        if ([layer.name for layer in heatmap.layers], heatmap.bits) != known:
            self._build()
        self._paint()

    def _build(self) -> None:
        tree = self._tree
        tree.clear()
        self._items, self._blocks = {}, {}
        columns = len(self._map.bits)
        tree.setColumnCount(columns + 1)
        tree.setHeaderLabels([_("Layer"), *(_("{bits} bits").format(bits=bits) for bits in self._map.bits)])
        header = tree.header()
        header.setStretchLastSection(False)
        header.setMinimumSectionSize(30)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for place in range(1, columns + 1):
            header.setSectionResizeMode(place, qt.QHeaderView.Fixed)
            tree.setColumnWidth(place, CELL_WIDTH)
            tree.headerItem().setTextAlignment(place, qt.Qt.AlignCenter)
            tree.headerItem().setToolTip(place, _("Change of the model's output in per cent"))
        for layer in self._map.layers:
            parent = self._block(layer.block)
            item = qt.QTreeWidgetItem([short_name(layer)])
            item.setSizeHint(0, qt.QSize(0, ROW_HEIGHT))
            item.setData(0, NAME_ROLE, layer.name)
            item.setToolTip(0, about(layer))
            (parent or tree.invisibleRootItem()).addChild(item)
            self._items[layer.name] = item
        for block in self._blocks.values():
            block.setExpanded(len(self._map.layers) < FOLD_FROM)

    def _block(self, name: str) -> Any:
        if not name:
            return None
        if name not in self._blocks:
            item = qt.QTreeWidgetItem([name])
            item.setSizeHint(0, qt.QSize(0, ROW_HEIGHT))
            item.setToolTip(0, name)
            font = item.font(0)
            font.setBold(True)
            item.setFont(0, font)
            self._tree.addTopLevelItem(item)
            self._blocks[name] = item
        return self._blocks[name]

    def _paint(self) -> None:
        places = {bits: place for place, bits in enumerate(self._map.bits, 1)}
        layers = {layer.name: layer for layer in self._map.layers}
        largest, worst = self.largest, {}
        for cell in self._map.cells:
            layer, place = layers.get(cell.layer), places.get(cell.bits)
            if layer is None or place is None:
                continue
            self._cell(self._items[cell.layer], place, cell.effect, largest)
            if layer.block:
                worst[layer.block, place] = max(cell.effect, worst.get((layer.block, place), 0.0))
        # A folded block shows its worst layer.
        for (block, place), effect in worst.items():
            self._cell(self._blocks[block], place, effect, largest)
        for layer in self._map.layers:
            item = self._items[layer.name]
            kept = "\N{BLACK DIAMOND} " if layer.kept is not None else ""
            rank = f"   #{self._map.worst.index(layer.name) + 1}" if layer.name in self._map.worst else ""
            item.setText(0, f"{kept}{short_name(layer)}{rank}")
            font = item.font(0)
            font.setBold(layer.name in self._map.worst)
            item.setFont(0, font)

    @staticmethod
    def _cell(item: Any, place: int, effect: float, largest: float) -> None:
        color = color_of(effect, largest)
        item.setText(place, percent(effect))
        item.setTextAlignment(place, qt.Qt.AlignCenter)
        item.setBackground(place, qt.QBrush(qt.QColor(*color)))
        item.setForeground(place, qt.QBrush(qt.QColor("black" if is_light(color) else "white")))


def short_name(layer: HeatLayer) -> str:
    """The name inside its block."""
    prefix = f"{layer.block}."
    return layer.name[len(prefix) :] if layer.block and layer.name.startswith(prefix) else layer.name


def about(layer: HeatLayer) -> str:
    """What hovering tells."""
    shape = " \N{MULTIPLICATION SIGN} ".join(str(length) for length in layer.shape)
    kept = "" if layer.kept is None else "\n" + _("kept more precise by your wish")
    return (
        _("{name}\n{kind} {shape}, {share:.1f} % of the weights").format(
            name=layer.name, kind=layer.kind, shape=shape, share=100 * layer.share
        )
        + kept
    )

"""The sensitivity of the layers as a tree that folds: blocks, their layers, and a coloured cell for each bit-width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt

from MedQuantSlicerLib.colormap import color_of, is_light, percent
from MedQuantSlicerLib.layer_state import HeatCell, HeatLayer, Heatmap, TypeCell
from MedQuantSlicerLib.layer_words import OF_VIEW
from MedQuantSlicerLib.messages import _, difference, score
from MedQuantSlicerLib.widgets import row_height

NAME_ROLE = 0x0100  # Qt.UserRole, as a plain number for both bindings
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
FOLD_FROM = 60
"""With more layers than this, blocks begin folded."""
MOST_ROWS = 16
"""As many are seen at once; the rest is scrolled to."""
CELL_TEXT = "8 bits"
MARGINS = 10
"""Pixels beside a name that the style keeps free."""


class HeatmapTree:
    """`chosen(name)` is called when a layer is clicked, or a cell of a block, which shows its worst layer; `title` says
    what a row is."""

    def __init__(self, tree: Any, chosen: Callable[[str], None], title: str = _("Layer")) -> None:
        self._tree, self._map, self._title = tree, Heatmap((), (), ()), title
        self._row, self._largest = 0, 0.0
        self._items: dict[str, Any] = {}
        self._blocks: dict[str, Any] = {}
        self._painted: dict[tuple[bool, str, int], tuple[HeatCell, float]] = {}
        """What stands in each cell of blocks and layers, and the largest of all when it was painted."""
        self._worst: dict[tuple[str, int], HeatCell] = {}
        """By block and column."""
        self._chosen = chosen
        tree.itemClicked.connect(lambda item, column=0: self._clicked(item, column))
        tree.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        # What is selected is a name: the colour of a selected row would hide those of its numbers.
        tree.setSelectionBehavior(qt.QAbstractItemView.SelectItems)
        tree.itemSelectionChanged.connect(lambda *_: self._select_name())
        tree.header().sectionResized.connect(lambda *_: self._name_rows())
        for changed in (tree.itemExpanded, tree.itemCollapsed):
            changed.connect(lambda *_: self._fit())
        tree.setVisible(False)

    def show(self, heatmap: Heatmap | None, largest: float) -> None:
        """Paint, `largest` the darkest; cells that came since the last time are added, folds stay as the user left
        them."""
        self._tree.setVisible(heatmap is not None and bool(heatmap.layers))
        row = row_height(self._tree)
        if heatmap is None or (heatmap is self._map and (row, largest) == (self._row, self._largest)):
            return
        known, before = self._columns(), [layer.name for layer in self._map.layers]
        self._map, self._row, self._largest = heatmap, row, largest
        names = [layer.name for layer in heatmap.layers]
        grown = names[: len(before)] == before and (len(before) < FOLD_FROM) == (len(names) < FOLD_FROM)
        if self._columns() != known or not grown:
            opened = {name: block.isExpanded() for name, block in self._blocks.items()} if names == before else {}
            self._build()
            for name, is_open in opened.items():
                self._blocks[name].setExpanded(is_open)
        elif names != before:
            self._add(heatmap.layers[len(before) :])
        self._paint()

    def _columns(self) -> tuple[Any, ...]:
        """What decides how the rows look."""
        return self._map.bits, self._map.view, self._map.what, self._row

    def _build(self) -> None:
        tree = self._tree
        tree.clear()
        self._items, self._blocks, self._painted = {}, {}, {}
        columns = len(self._map.bits)
        tree.setColumnCount(columns + 1)
        tree.setHeaderLabels([self._title, *(_("{bits} bits").format(bits=bits) for bits in self._map.bits)])
        header = tree.header()
        header.setStretchLastSection(False)
        header.setMinimumSectionSize(30)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for place in range(1, columns + 1):
            header.setSectionResizeMode(place, qt.QHeaderView.Fixed)
            tree.setColumnWidth(place, tree.fontMetrics().horizontalAdvance(CELL_TEXT) + 10)
            tree.headerItem().setTextAlignment(place, qt.Qt.AlignCenter)
            tree.headerItem().setToolTip(place, _("{about}, per cent").format(about=OF_VIEW[self._map.view].legend))
        self._add(self._map.layers)

    def _add(self, layers: Sequence[HeatLayer]) -> None:
        for layer in layers:
            parent = self._block(layer.block)
            item = qt.QTreeWidgetItem([short_name(layer)])
            item.setSizeHint(0, qt.QSize(0, row_height(self._tree)))
            item.setData(0, NAME_ROLE, layer.name)
            (parent or self._tree.invisibleRootItem()).addChild(item)
            self._items[layer.name] = item
            if parent is not None and parent.childCount() == 1:
                parent.setExpanded(len(self._map.layers) < FOLD_FROM)
        self._fit()

    def _fit(self) -> None:
        """As high as its rows, and no row is cut."""
        tree, rows = self._tree, 0
        for number in range(tree.topLevelItemCount):
            item = tree.topLevelItem(number)
            rows += 1 + (item.childCount() if item.isExpanded() else 0)
        high = tree.header().sizeHint.height() + min(rows, MOST_ROWS) * row_height(tree)
        tree.setFixedHeight(high + 2 * tree.frameWidth)

    def find(self, name: str) -> None:
        """Show and mark the row of a layer."""
        item = self._items.get(name)
        if item is not None:
            self._tree.scrollToItem(item)
            self._tree.setCurrentItem(item, 0)

    def _select_name(self) -> None:
        if self._tree.currentItem() is not None and self._tree.currentColumn() > 0:
            self._tree.setCurrentItem(self._tree.currentItem(), 0)

    def _clicked(self, item: Any, column: int) -> None:
        name = item.data(0, NAME_ROLE) or ""
        worst = None if name else self._worst.get((item.toolTip(0), column))
        if worst is not None:
            name = worst.layer
            self.find(name)
        self._chosen(name)

    def _block(self, name: str) -> Any:
        if not name:
            return None
        if name not in self._blocks:
            item = qt.QTreeWidgetItem([name])
            item.setSizeHint(0, qt.QSize(0, row_height(self._tree)))
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
        largest, worst = self._largest, self._worst
        worst.clear()
        for cell in self._map.cells:
            layer, place = layers.get(cell.layer), places.get(cell.bits)
            if layer is None or place is None:
                continue
            self._cell(self._items, cell.layer, place, cell, largest)
            if layer.block:
                known = worst.get((layer.block, place), cell)
                worst[layer.block, place] = cell if cell.harm > known.harm else known
        # A folded block shows its worst layer.
        for (block, place), cell in worst.items():
            self._cell(self._blocks, block, place, cell, largest)
        for layer in self._map.layers:
            item = self._items[layer.name]
            item.setToolTip(0, about(layer))
            font = item.font(0)
            font.setBold(bool(self._rank([layer.name])))
            item.setFont(0, font)
        self._name_rows()

    def _name_rows(self) -> None:
        """Names as far as there is room for them: their ends tell layers apart."""
        inside: dict[str, list[str]] = {}
        for layer in self._map.layers:
            inside.setdefault(layer.block, []).append(layer.name)
            if layer.name in self._items:
                kept = "\N{BLACK DIAMOND} " if layer.kept is not None or layer.precise else ""
                depth = 2 if layer.block else 1
                self._name(self._items[layer.name], kept, short_name(layer), self._rank([layer.name]), depth)
        for block, item in self._blocks.items():
            self._name(item, "", block, self._rank(inside.get(block, [])), 1)

    def _name(self, item: Any, before: str, name: str, after: str, depth: int) -> None:
        tree, font = self._tree, qt.QFont(self._tree.font)
        font.setBold(item.font(0).bold())
        metrics = qt.QFontMetrics(font)
        room = tree.columnWidth(0) - depth * tree.indentation - MARGINS
        text = ending(name, lambda end: metrics.horizontalAdvance(f"{before}{end}{after}") <= room)
        item.setText(0, f"{before}{text}{after}")

    def _rank(self, names: list[str]) -> str:
        """The places of layers among the most sensitive ones, after their name or their block's: "  #1 #3"."""
        return "".join(f"  #{place}" for place, name in enumerate(self._map.worst, 1) if name in names)

    def _cell(self, items: dict[str, Any], name: str, place: int, cell: HeatCell, largest: float) -> None:
        key, now = (items is self._blocks, name, place), (cell, largest)
        if self._painted.get(key) == now:
            return
        self._painted[key], item = now, items[name]
        color = color_of(cell.harm, largest)
        item.setText(place, percent(cell.harm))
        item.setTextAlignment(place, qt.Qt.AlignCenter)
        item.setBackground(place, qt.QBrush(qt.QColor(*color)))
        item.setForeground(place, qt.QBrush(qt.QColor("black" if is_light(color) else "white")))
        item.setToolTip(place, about_cell(cell, self._map.view))


def about_cell(cell: HeatCell, view: str) -> str:
    """What hovering over a number tells."""
    head = _("{name} at {bits} bits").format(name=cell.layer, bits=cell.bits)
    effect = percent(cell.effect)
    if cell.dsc is None or cell.dsc_loss is None:
        return f"{head}\n" + _("its own output changes by {effect} %; masks were not looked at").format(effect=effect)
    loss, dice = percent(cell.dsc_loss), score(cell.dsc)
    if isinstance(cell, TypeCell):
        words = _(
            "Dice against FP32 {dice} with all layers of this type spared and the others rounded: {loss} % more than "
            "with all of them"
        )
    elif view == "incremental":
        words = _("Dice against FP32 {dice} with all layers but this one rounded: {loss} % more than with all of them")
    else:
        words = _("Dice against FP32 {dice} with this layer alone rounded: {loss} % less")
    more = _("the network's output: {effect} %").format(effect=effect)
    lines = [head, words.format(dice=dice, loss=loss), more]
    if cell.reference_loss is not None:
        gained = view == "incremental"
        words = _("Dice against the reference: {loss} more") if gained else _("Dice against the reference: {loss} less")
        lines.append(words.format(loss=difference(cell.reference_loss)))
    return "\n".join(lines)


def worst_of(heatmap: Heatmap, color: str) -> str:
    """The most sensitive layers as rich text, each a link of this colour that names it."""
    fewest = min(heatmap.bits)
    effects = {cell.layer: cell.harm for cell in heatmap.cells if cell.bits == fewest}
    blocks = {layer.name: layer for layer in heatmap.layers}
    lines = "".join(
        f"<tr><td>#{place}&nbsp;</td><td align='right'><b>{percent(effects[name])}&nbsp;%</b>&nbsp;&nbsp;</td>"
        f"<td><a href='{name}' style='color:{color}'>{within(name, blocks[name].block)}</a></td></tr>"
        for place, name in enumerate(heatmap.worst, 1)
        if name in effects and name in blocks
    )
    head = _("Most sensitive at {bits} bits").format(bits=fewest)
    return f"{head}<table cellspacing='0' cellpadding='1'>{lines}</table>"


def breakable(name: str, most: int = 44) -> str:
    """A long name that a line may break after its dots and underscores."""
    if len(name) <= most:
        return name
    return name.replace(".", ".\N{ZERO WIDTH SPACE}").replace("_", "_\N{ZERO WIDTH SPACE}")


def unbroken(name: str) -> str:
    """A shortened name that no line breaks after its ellipses."""
    return name.replace(ELLIPSIS, f"{ELLIPSIS}\N{WORD JOINER}")


def within(name: str, block: str, most: int = 34) -> str:
    """A layer's name in little room: the last of its words, with the number of its block, which tells alike ones
    apart."""
    end = ending(name, lambda text: len(text) <= most)
    number = block.rpartition(".")[2]
    inside = name[len(block) + 1 :] if block else name
    if end == name or not number.isdigit() or len(end) > len(inside) + 1:
        return end
    head = f"{ELLIPSIS}{'.'.join(block.split('.')[-2:])}."
    return head + ending(inside, lambda text: len(head) + len(text) <= most)


def ending(name: str, fits: Callable[[str], bool]) -> str:
    """A name or, where it does not fit, as many of its last words as do, one at least; a word is never cut."""
    if fits(name):
        return name
    ends = [ELLIPSIS + name[at + 1 :] for at, letter in enumerate(name[:-1]) if letter in "._"]
    return next(filter(fits, ends), ends[-1] if ends else name)


def short_name(layer: HeatLayer) -> str:
    """The name inside its block."""
    prefix = f"{layer.block}."
    return layer.name[len(prefix) :] if layer.block and layer.name.startswith(prefix) else layer.name


def about(layer: HeatLayer) -> str:
    """What hovering tells."""
    if not layer.kind:
        return _("{name}\n{share:.1f} % of the weights").format(name=layer.name, share=100 * layer.share)
    shape = " \N{MULTIPLICATION SIGN} ".join(str(length) for length in layer.shape)
    kept = "" if layer.kept is None else "\n" + _("kept more precise by your wish")
    kept += "\n" + _("kept most precise in the smallest safe model") if layer.precise else ""
    return (
        _("{name}\n{kind} {shape}, {share:.1f} % of the weights").format(
            name=layer.name, kind=layer.kind, shape=shape, share=100 * layer.share
        )
        + kept
    )

"""The widgets of Slicer that show MRML, for `.ui` files: a container and a node selector."""

from __future__ import annotations

from functools import partial
from typing import Any

import slicer
import vtk
from PySide6.QtCore import Property, QSignalBlocker, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QSizePolicy, QWidget


class qMRMLWidget(QWidget):
    """Hands its scene on to every widget inside that shows one."""

    mrmlSceneChanged = Signal(object)

    def setMRMLScene(self, scene: Any) -> None:
        """Show this scene."""
        self._scene = scene
        for child in self.findChildren(QWidget):
            if hasattr(child, "setMRMLScene"):
                child.setMRMLScene(scene)
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        """The scene that is shown."""
        return getattr(self, "_scene", None)


class qMRMLNodeComboBox(QWidget):
    """A list of the scene's nodes of some classes, kept up to date as they come, go and are renamed."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._box = QComboBox(self)
        self._box.setSizeAdjustPolicy(QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self._box.setMinimumContentsLength(12)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._box)
        self.setSizePolicy(QSizePolicy.Expanding, QSizePolicy.Fixed)
        self.setFocusProxy(self._box)
        self._scene: Any = None
        self._scene_tags: list[tuple[Any, int]] = []
        self._node_tags: dict[Any, int] = {}
        # The lists themselves, not the widget, which is no more when this is called.
        self.destroyed.connect(partial(_observe_no_longer, self._scene_tags, self._node_tags))
        self._types: list[str] = []
        self._current: Any = None
        self._flags = {"noneEnabled": False, "showHidden": False, "showChildNodeTypes": True}
        self._words = {"noneDisplay": "None", "baseName": ""}
        self._box.currentIndexChanged.connect(self._picked)

    # -- properties, as Designer and PythonQt see them

    def _get_types(self) -> list[str]:
        return list(self._types)

    def _set_types(self, types: Any) -> None:
        self._types = [types] if isinstance(types, str) else [name for name in types if name]
        self._fill()

    nodeTypes = Property("QStringList", _get_types, _set_types)

    def _kept(name: str, kind: type, store: str):
        def write(self, value):
            getattr(self, store)[name] = value
            self._fill()

        return Property(kind, lambda self: getattr(self, store).get(name, kind()), write)

    noneEnabled = _kept("noneEnabled", bool, "_flags")
    addEnabled = _kept("addEnabled", bool, "_flags")
    removeEnabled = _kept("removeEnabled", bool, "_flags")
    renameEnabled = _kept("renameEnabled", bool, "_flags")
    editEnabled = _kept("editEnabled", bool, "_flags")
    showHidden = _kept("showHidden", bool, "_flags")
    showChildNodeTypes = _kept("showChildNodeTypes", bool, "_flags")
    selectNodeUponCreation = _kept("selectNodeUponCreation", bool, "_flags")
    noneDisplay = _kept("noneDisplay", str, "_words")
    baseName = _kept("baseName", str, "_words")
    del _kept

    def _get_id(self) -> str:
        return self._current.GetID() if self._current is not None else ""

    def _set_id(self, identifier: str) -> None:
        self.setCurrentNode(self._scene.GetNodeByID(identifier) if self._scene and identifier else None)

    currentNodeID = Property(str, _get_id, _set_id)

    # -- invokables

    def setMRMLScene(self, scene: Any) -> None:
        """List the nodes of this scene."""
        if scene is self._scene:
            return
        _observe_no_longer(self._scene_tags, {})
        self._scene = scene
        events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent) if scene else ()
        self._scene_tags += [(scene, scene.AddObserver(event, self._scene_changed)) for event in events]
        self._fill()

    def mrmlScene(self) -> Any:
        """The scene that is listed."""
        return self._scene

    def currentNode(self) -> Any:
        """The node that is chosen, or None."""
        return self._current

    def setCurrentNode(self, node: Any) -> None:
        """Choose a node; one that is not listed chooses none."""
        nodes = self._listed()
        self._choose(node if node in nodes else None)

    def nodeCount(self) -> int:
        """How many nodes are listed."""
        return len(self._listed())

    # -- inside

    def _scene_changed(self, caller: Any = None, event: Any = None) -> None:
        if not self._scene.IsBatchProcessing():
            self._fill()

    def _listed(self) -> list[Any]:
        if self._scene is None:
            return []
        found: list[Any] = []
        for name in self._types:
            collection = self._scene.GetNodesByClass(name)
            collection.UnRegister(None)
            nodes = [collection.GetItemAsObject(index) for index in range(collection.GetNumberOfItems())]
            exact = [node for node in nodes if self._flags["showChildNodeTypes"] or node.GetClassName() == name]
            found += [node for node in exact if node not in found]
        return [node for node in found if self._flags["showHidden"] or not node.GetHideFromEditors()]

    def _fill(self) -> None:
        nodes = self._listed()
        self._watch(nodes)
        blocker = QSignalBlocker(self._box)
        self._box.clear()
        if self._flags["noneEnabled"] or not nodes:
            self._box.addItem(self._words["noneDisplay"], "")
        for node in nodes:
            self._box.addItem(node.GetName(), node.GetID())
        blocker.unblock()
        # As in Slicer: without "None" in the list, something is chosen as soon as there is something.
        kept = self._current if self._current in nodes else None
        self._choose(kept or (nodes[0] if nodes and not self._flags["noneEnabled"] else None))

    def _watch(self, nodes: list[Any]) -> None:
        for node in [known for known in self._node_tags if known not in nodes]:
            node.RemoveObserver(self._node_tags.pop(node))
        for node in nodes:
            if node not in self._node_tags:
                self._node_tags[node] = node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._renamed)

    def _renamed(self, node: Any, event: Any) -> None:
        row = self._box.findData(node.GetID())
        if row >= 0 and self._box.itemText(row) != node.GetName():
            self._box.setItemText(row, node.GetName())

    def _picked(self, row: int) -> None:
        identifier = self._box.itemData(row)
        self._choose(self._scene.GetNodeByID(identifier) if self._scene and identifier else None)

    def _choose(self, node: Any) -> None:
        blocker = QSignalBlocker(self._box)
        row = self._box.findData(node.GetID() if node is not None else "")
        self._box.setCurrentIndex(row)
        if row < 0:
            self._box.setCurrentText("")
        blocker.unblock()
        if node is not self._current:
            self._current = node
            self.currentNodeChanged.emit(node)
            self.currentNodeIDChanged.emit(self._get_id())


def _observe_no_longer(pairs: list[tuple[Any, int]], nodes: dict[Any, int], *_: Any) -> None:
    for observed, tag in (*pairs, *nodes.items()):
        observed.RemoveObserver(tag)
    pairs.clear()
    nodes.clear()


WIDGETS = {cls.__name__: cls for cls in (qMRMLWidget, qMRMLNodeComboBox)}


def offer() -> None:
    """Put the classes where Slicer has them."""
    for name, cls in WIDGETS.items():
        setattr(slicer, name, cls)

"""The four classes that a scripted module derives from, as `slicer.ScriptedLoadableModule` offers them."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path
from typing import Any

import qt
import slicer


class ScriptedLoadableModule:
    """Describes a module: title, icon, help, resources."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__
        for suffix in (".svg", ".png"):
            icon = Path(self.resourcePath(f"Icons/{self.moduleName}{suffix}"))
            if icon.is_file():
                parent.icon = qt.QIcon(str(icon))
                break

    def resourcePath(self, filename: str) -> str:
        """Where a file of the module's `Resources` folder is."""
        return str(Path(self.parent.path).parent / "Resources" / filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        """Slicer links to its own documentation here; outside of it there is none."""
        return ""


class ScriptedLoadableModuleWidget:
    """The panel of a module; `parent` is the widget that it fills."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        if parent is None:
            parent = slicer.qMRMLWidget()
            parent.setLayout(qt.QVBoxLayout())
            parent.setMRMLScene(slicer.mrmlScene)
        self.parent = parent
        self.layout = parent.layout()

    def resourcePath(self, filename: str) -> str:
        """Where a file of the module's `Resources` folder is."""
        # A window may derive from the module's widget: the resources lie beside the module.
        files = (getattr(sys.modules[cls.__module__], "__file__", None) for cls in type(self).__mro__)
        folders = [Path(file).parent / "Resources" for file in files if file]
        return str(next((folder for folder in folders if folder.is_dir()), folders[0]) / filename)

    def setup(self) -> None:
        """Overridden: builds the panel."""

    def cleanup(self) -> None:
        """Overridden: removes observers, stops timers and processes."""


class ScriptedLoadableModuleLogic:
    """The part of a module without widgets; keeps its choices in a parameter node."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self) -> Any:
        """The module's one parameter node, made on first use."""
        found = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if found is None:
            found = slicer.mrmlScene.AddNode(self.createParameterNode())
        # Closing a scene may have taken the attribute away.
        found.SetAttribute("ModuleName", self.moduleName)
        return found

    def createParameterNode(self) -> Any:
        """A parameter node, not in the scene yet."""
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        node.SetSingletonTag(self.moduleName)
        node.SetModuleName(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """A test that runs inside the application."""

    messageDelay = 0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*(arguments or ("runTest",)))

    def runTest(self) -> None:
        """Overridden: calls the tests."""

    def delayDisplay(self, message: str, msec: int = 0) -> None:
        """Slicer shows the message for a while; here it is printed."""
        print(message)


class VTKObservationMixin:
    """Keeps track of observers, so that all can be removed together."""

    def __init__(self) -> None:
        self._observed: list[tuple[Any, Any, Any, int]] = []

    def addObserver(self, object: Any, event: Any, method: Any, group: str = "none", priority: float = 0.0) -> None:
        """Call `method(caller, event)` when the object tells the event; asked twice, it stays once."""
        if not self.hasObserver(object, event, method):
            self._observed.append((object, event, method, object.AddObserver(event, method, priority)))

    def hasObserver(self, object: Any, event: Any, method: Any) -> bool:
        """Whether this method observes this event of this object."""
        return any(o is object and e == event and m == method for o, e, m, _ in self._observed)

    def removeObserver(self, object: Any, event: Any, method: Any) -> None:
        """Undo one `addObserver`."""
        for entry in list(self._observed):
            if entry[0] is object and entry[1] == event and entry[2] == method:
                object.RemoveObserver(entry[3])
                self._observed.remove(entry)

    def removeObservers(self, method: Any = None) -> None:
        """Undo every `addObserver`, or those with one method."""
        for object, event, observing, _ in list(self._observed):
            if method is None or observing == method:
                self.removeObserver(object, event, observing)

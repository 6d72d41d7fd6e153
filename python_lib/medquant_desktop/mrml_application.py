"""What Slicer's application makes before any module runs: the logics and the scene's one-of-a-kind nodes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import slicer
from vtkmodules.vtkCommonCore import vtkCollection

from medquant_desktop.slicer_compat import bootstrap

_made: Any = None


def start() -> Any:
    """The application logic of the one scene; made on the first call."""
    global _made
    if _made is not None:
        return _made
    bootstrap.start()
    scene = slicer.mrmlScene
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    logic.GetColorLogic().SetMRMLScene(scene)
    logic.GetColorLogic().AddDefaultColorNodes()
    logic.SetSliceLogics(vtkCollection())
    logic.SetViewLogics(vtkCollection())
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    crosshair.SetCrosshairBehavior(slicer.vtkMRMLCrosshairNode.OffsetJumpSlice)
    scene.AddNode(crosshair)
    for name, attribute, make in (
        ("Volumes", "volumes", slicer.vtkSlicerVolumesLogic),
        ("Markups", "markups", slicer.vtkSlicerMarkupsLogic),
        ("Segmentations", "segmentations", slicer.vtkSlicerSegmentationsModuleLogic),
        ("SubjectHierarchy", "subjecthierarchy", slicer.vtkSlicerSubjectHierarchyModuleLogic),
    ):
        _offer(name, attribute, _module_logic(name, make, logic, scene))
    _drag_windows(scene)
    _made = logic
    return logic


def _drag_windows(scene: Any) -> None:
    """Left drag changes window and level whenever nothing is being placed, as workstations do it."""
    node = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    # No closure: only the scene holds the node, and Python would collect a function that nothing but an observer holds.
    node.AddObserver(node.InteractionModeChangedEvent, _drag_window)
    _drag_window(node)


def _drag_window(node: Any, event: object = None) -> None:
    if node.GetCurrentInteractionMode() == node.ViewTransform:
        node.SetCurrentInteractionMode(node.AdjustWindowLevel)


def _module_logic(name: str, make: Callable[[], Any], application: Any, scene: Any) -> Any:
    made = make()
    made.SetMRMLApplicationLogic(application)
    made.SetMRMLScene(scene)
    application.SetModuleLogic(name, made)
    return made


def _offer(name: str, attribute: str, logic: Any) -> None:
    """`slicer.modules.segmentations.logic()`, as modules ask for it."""
    if not hasattr(slicer.modules, attribute):
        setattr(slicer.modules, attribute, SimpleNamespace(name=name, logic=lambda: logic))

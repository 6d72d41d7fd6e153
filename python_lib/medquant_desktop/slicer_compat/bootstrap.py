"""Makes this process look like Slicer to a scripted module: one call, before anything imports `qt`, `ctk` or a module.

from medquant_desktop.slicer_compat import bootstrap
bootstrap.start()
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

MODULE_FOLDER = "MedQuantSlicer"
_started = False


def start() -> None:
    """Put the stand-ins into `sys.modules` and into the package `slicer`; a second call does nothing.

    PySide6's classes behave like PythonQt's from then on, in the whole process. `slicer.mrmlScene` is made if there is
    none. Neither a `QApplication` nor the logics of Slicer's modules are made: that is for whoever shows a window.
    """
    global _started
    if _started:
        return
    _started = True
    import slicer

    from medquant_desktop.slicer_compat import pythonqt

    if getattr(slicer, "mrmlScene", None) is None:
        slicer.mrmlScene = slicer.vtkMRMLScene()
    qt = _module("qt", pythonqt.adopt())
    slicer.app = _Application()
    # In this order: each of them uses what came before.
    from medquant_desktop.slicer_compat import ctk_widgets

    _module("ctk", ctk_widgets.WIDGETS)
    from medquant_desktop.slicer_compat import qmrml_widgets

    qmrml_widgets.offer()
    _offer_modules(slicer, qt)


def add_module_path() -> Path:
    """Make the scripted module importable from the checkout, or from beside the installed package; say where it is."""
    here = Path(__file__).resolve()
    for parent in here.parents:
        folder = parent / MODULE_FOLDER
        if (folder / f"{MODULE_FOLDER}.py").is_file():
            if str(folder) not in sys.path:
                sys.path.insert(0, str(folder))
            return folder
    raise FileNotFoundError(f"The panel ({MODULE_FOLDER}.py) is not beside {here.parents[2]}.")


def _module(name: str, names: dict[str, Any]) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(names)
    sys.modules[name] = module
    return module


def _offer_modules(slicer: ModuleType, qt: ModuleType) -> None:
    from medquant_desktop.slicer_compat import module_base, parameter_node, ui_files

    bases = {name: value for name, value in vars(module_base).items() if name.startswith("ScriptedLoadable")}
    slicer.ScriptedLoadableModule = _module("slicer.ScriptedLoadableModule", bases)
    wrapper = {name: getattr(parameter_node, name) for name in ("Choice", "Default", "WithinRange")}
    wrapper["parameterNodeWrapper"] = parameter_node.parameterNodeWrapper
    slicer.parameterNodeWrapper = _module("slicer.parameterNodeWrapper", wrapper)
    slicer.i18n = _module("slicer.i18n", {"tr": lambda text, *_: text, "translate": lambda context, text, *_: text})
    slicer.util.loadUI = ui_files.load_ui
    slicer.util.childWidgetVariables = ui_files.child_widget_variables
    slicer.util.settingsValue = lambda key, default, converter=lambda value: value: (
        converter(qt.QSettings().value(key)) if qt.QSettings().contains(key) else default
    )
    slicer.util.VTKObservationMixin = module_base.VTKObservationMixin
    if not hasattr(slicer, "modules"):
        slicer.modules = SimpleNamespace()


class _Application:
    """What modules ask `slicer.app` for."""

    majorVersion, minorVersion, revision = 5, 12, ""

    def testingEnabled(self) -> bool:
        """Whether tests run: then nothing is installed."""
        return False

    def layoutManager(self) -> None:
        """There is none: the window lays its views out itself."""

    def processEvents(self) -> None:
        """Let Qt work off what has come up."""
        from PySide6.QtCore import QCoreApplication

        QCoreApplication.processEvents()

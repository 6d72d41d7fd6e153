"""Pictures of the window for the manual: the whole way with the real engine on the sample CT, one picture a step.

    MEDQUANT_PICTURES=Resources/Screenshots pytest Testing/Desktop/test_pictures.py -m heavy

writes them there (elsewhere: into the test's own folder). Boxes are drawn by clicks, then set to
the structure and named; what stands in the tables is what the engine answered.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")

SIZE, LARGE = (1280, 800), (2560, 1440)
BOXES = (("liver", (66, 113, 16), (268, 274, 36)), ("spleen", (259, 173, 12), (321, 260, 27)))
"""Structures that the demonstration model finds well: first and last voxel (i, j, k) of their boxes."""
MIDDLE = 26
"""A slice through both of them."""
PATIENCE = 300
COLORS = 240
"""Of a picture, beside those that mean something; more would cost three times the bytes and look the same."""


class Pictures:
    """Takes pictures of a window and keeps them small."""

    def __init__(self, window: object, hands: object, folder: Path) -> None:
        self._window, self._hands, self.folder = window, hands, folder
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, name: str, *, of: object = None, settle: float = 0.4) -> None:
        """The whole window, or a part `of` it, once everything is drawn."""
        from PIL import Image

        from medquant_desktop import theme

        self._hands.wait(settle)
        path = self.folder / f"{name}.png"
        assert (of or self._window).grab().save(str(path))
        with Image.open(path) as picture:
            full = picture.convert("RGB")
        palette = full.quantize(COLORS).getpalette()[: 3 * COLORS]
        for color in (theme.FP32, theme.QUANTIZED, theme.AGREED, theme.DARK.accent, theme.LIGHT.accent):
            palette += theme.channels(color)
        chosen = Image.new("P", (1, 1))
        chosen.putpalette(palette)
        small = full.quantize(palette=chosen, dither=Image.Dither.NONE)
        small.save(path, optimize=True)


@pytest.fixture
def pictures(whole_window, hands, tmp_path: Path) -> Pictures:
    """Where they are written is told by the environment."""
    return Pictures(whole_window, hands, Path(os.environ.get("MEDQUANT_PICTURES", tmp_path / "pictures")))


def draw(window: object, hands: object, box: tuple) -> None:
    """Draw a box by two clicks in the axial view, give it its depth and its name."""
    from MedQuantSlicerLib import boxes

    name, lower, upper = box
    before = boxes.boxes_of(window.views.volume)
    view = window.views.left
    view.go_to_number((lower[2] + upper[2]) // 2)
    hands.wait()
    hands.push(window.frame.module.ui.placeBoxButton)
    for corner in (lower, upper):
        hands.click(view, *place_of(view, corner))
    hands.until(lambda: len(boxes.boxes_of(window.views.volume)) > len(before))
    hands.wait(0.3)
    node = next(node for node in boxes.boxes_of(window.views.volume) if node not in before)
    boxes.fit_box(node, window.views.volume, lower, upper)
    row = window.frame.module.ui.boxList.topLevelItem(len(before))
    row.setText(0, name)
    hands.wait(0.3)


def place_of(view: object, voxel: tuple[int, int, int]) -> tuple[float, float]:
    """Where a voxel lies in a view, as parts of its width and height."""
    import vtk

    to_world, to_pixel = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    view.volume().GetIJKToRASMatrix(to_world)
    vtk.vtkMatrix4x4.Invert(view.node.GetXYToRAS(), to_pixel)
    x, y = to_pixel.MultiplyPoint(to_world.MultiplyPoint([*voxel, 1.0]))[:2]
    width, height = view.node.GetDimensions()[:2]
    return x / width, 1 - y / height


def open_sample(window: object, hands: object) -> None:
    """The sample CT, and all that the engine tells of the chosen model."""
    presenter = window.frame.presenter
    window.resize(*SIZE)
    hands.push(window.welcome.findChild(type(window.frame.module.ui.quantizeButton), "openSample"))
    hands.until(lambda: window.views.volume is not None and presenter.shown.actions["quantize"].enabled)
    hands.until(lambda: presenter.shown.machine and presenter.shown.choices[0].size)
    window.notice.clear()
    window.views.left.go_to_number(MIDDLE)


@pytest.mark.heavy
def test_pictures_of_the_whole_way(whole_window, hands, pictures: Pictures) -> None:
    from MedQuantSlicerLib import masks
    from MedQuantSlicerLib.host import DIFFERENCE
    from MedQuantSlicerLib.state import RESTING

    from medquant_desktop import theme

    window, ui = whole_window, whole_window.frame.module.ui
    presenter = window.frame.presenter
    window.resize(*SIZE)
    pictures.take("welcome")
    open_sample(window, hands)
    pictures.take("scan")

    hands.push(ui.quantizeButton)
    some = lambda: presenter.shown.waiting is not None and (presenter.shown.waiting.fraction or 0) > 0.3  # noqa: E731
    hands.until(lambda: some() or presenter.shown.quantized, PATIENCE)
    if some():  # else it was kept from the last time
        pictures.take("quantizing", settle=0.02)
    hands.until(lambda: presenter.shown.quantized, PATIENCE)
    for box in BOXES:
        draw(window, hands, box)
    hands.until(lambda: presenter.shown.actions["segment"].primary)
    window.views.left.go_to_number(MIDDLE)
    pictures.take("box")

    hands.push(ui.segmentButton)
    hands.until(lambda: presenter.shown.table is not None and presenter.shown.state in RESTING, PATIENCE)
    pictures.take("comparison")
    hands.push(ui.worstButton)
    hands.push(ui.differenceButton)
    hands.until(lambda: masks.segmentation_of(DIFFERENCE, window.views.volume) is not None)
    pictures.take("difference")
    pictures.take("panel", of=window.frame.widget())
    hands.push(window.bar.three_d)
    hands.until(lambda: not window.views.panes["MedQuant3D"].view.words)
    pictures.take("window")
    window.set_theme("light")
    pictures.take("window-light")
    window.set_theme("dark")
    window.resize(*LARGE)
    window.set_text(theme.points_for(LARGE[1]))
    pictures.take("window-large")


@pytest.mark.heavy
def test_picture_of_the_sensitive_layers(whole_window, hands, pictures: Pictures) -> None:
    window, ui = whole_window, whole_window.frame.module.ui
    presenter = window.frame.presenter
    open_sample(window, hands)
    for section in (ui.segmentSection, ui.compareSection):
        section.collapsed = True
    ui.layersSection.collapsed = False
    hands.wait(0.3)
    hands.push(ui.sensitivityButton)
    hands.until(lambda: presenter.shown.heatmap is not None and presenter.shown.heatmap.complete, 3 * PATIENCE)
    presenter.layer_chosen(presenter.shown.heatmap.worst[0])
    pictures.take("heatmap")

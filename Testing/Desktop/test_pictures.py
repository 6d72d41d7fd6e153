"""Pictures of the window for the manual: the whole way with the real engine on the sample CT, one picture a step.

    MEDQUANT_PICTURES=Resources/Screenshots pytest Testing/Desktop/test_pictures.py -m heavy

writes them there (elsewhere: into the test's own folder). Boxes are drawn by clicks, then set to
the structure and named; what stands in the tables is what the engine answered.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from PIL import Image

pytest.importorskip("PySide6", reason="PySide6 is not installed (pip install medquant[app])")

SIZE, LARGE = (1280, 800), (2560, 1440)
BOXES = (("liver", (66, 113, 16), (268, 274, 36)), ("spleen", (259, 173, 12), (321, 260, 27)))
"""Structures that the demonstration model finds well: first and last voxel (i, j, k) of their boxes."""
MIDDLE = 26
"""A slice through both of them."""
PATIENCE = 300
LEGEND, STEPS = 12, 34
"""Of the heatmap's colours: its legend's steps, and those in a picture's palette, the legend's among them."""
GREYS, OFTEN = 65, 48
"""Of a picture's palette: greys, and the colours that it has most of."""
TINT = 3
"""Channels that are closer than this are a grey."""


class Pictures:
    """Takes pictures of a window and keeps them small."""

    def __init__(self, window: object, hands: object, folder: Path) -> None:
        self._window, self._hands, self.folder = window, hands, folder
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, name: str, *, of: object = None, settle: float = 0.4) -> None:
        """The whole window, or a part `of` it, once everything is drawn."""
        from PIL import Image

        self._hands.wait(settle)
        path = self.folder / f"{name}.png"
        assert (of or self._window).grab().save(str(path))
        with Image.open(path) as picture:
            full = np.asarray(picture.convert("RGB"))
        with_few_colors(full).save(path, optimize=True)

    def colors_of(self, name: str) -> set[tuple[int, int, int]]:
        """All that a picture has."""
        from PIL import Image

        with Image.open(self.folder / f"{name}.png") as picture:
            return {color for _count, color in picture.convert("RGB").getcolors(2**24)}


def with_few_colors(full: np.ndarray) -> Image.Image:
    """A picture (height, width, 3; uint8) in 256 colours: it looks the same and has a third of the bytes.

    Pillow's own choice goes by how often a color is there, which is greys nearly alone, and its search for the nearest
    one by the first six bits of each channel, which may give another.
    """
    from PIL import Image

    packed = full.astype(np.int64) @ (1 << 16, 1 << 8, 1)
    found, where, counts = np.unique(packed, return_inverse=True, return_counts=True)
    colors = np.stack([found >> 16, found >> 8 & 255, found & 255], 1)
    tinted = np.ptp(colors, axis=1) > TINT
    greys = np.repeat(np.linspace(0, 255, GREYS).round()[:, None], 3, axis=1)
    often = colors[tinted][np.argsort(-counts[tinted])][:OFTEN]
    chosen = np.array([*greys, *often, *meaningful_colors()])
    coarse = np.unique(colors[tinted] // 4 * 4 + 2, axis=0).astype(np.uint8)  # each once, however rare
    others = Image.fromarray(coarse[None]).quantize(256 - len(chosen)).getpalette("RGB")
    palette = np.array([*chosen, *np.reshape(others, (-1, 3))])
    numbers = np.array([((palette - color) ** 2).sum(1).argmin() for color in colors], np.uint8)
    small = Image.fromarray(numbers[where].reshape(packed.shape), "P")
    small.putpalette(palette.astype(np.uint8).tobytes())
    return small


def meaningful_colors() -> list[tuple[int, int, int]]:
    """Those of the masks, of what is to be pressed, and of the heatmap: a picture has them as they are."""
    from MedQuantSlicerLib.colormap import color_of

    from medquant_desktop import theme

    named = [theme.FP32, theme.QUANTIZED, theme.AGREED]
    named += [color for one in (theme.DARK, theme.LIGHT) for color in (one.accent, one.bright)]
    steps = (color_of((step / (STEPS - 1)) ** 2, 1.0) for step in range(STEPS))
    return [*map(theme.channels, named), *steps]


@pytest.fixture
def pictures(whole_window, hands, tmp_path: Path) -> Pictures:
    """Where they are written is told by the environment. All have the text of a usual screen, whichever is here and
    whatever the pictures before had."""
    from medquant_desktop import theme

    whole_window.set_text(theme.POINTS)
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
    ui.scanSection.collapsed = ui.modelSection.collapsed = True  # makes room for all of the rest
    hands.wait(0.2)
    pictures.take("box")
    assert is_whole(ui.exportSection)

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


def only(window: object, hands: object, section: object) -> None:
    """Of the sections that can grow long, open this one alone, and have it at the top of the panel."""
    ui = window.frame.module.ui
    for one in (ui.scanSection, ui.modelSection, ui.quantizeSection, ui.segmentSection, ui.compareSection):
        one.collapsed = one is not section
    ui.layersSection.collapsed = section is not ui.layersSection
    hands.wait(0.4)
    to_the_top(window, section)


def to_the_top(window: object, section: object) -> None:
    """Scroll the panel until a section begins at its upper edge."""
    content = window.frame.widget()
    top = section.mapTo(content, section.rect.topLeft()).y()
    window.frame.verticalScrollBar().setValue(top)


def show_whole(window: object, hands: object, section: object) -> None:
    """Have a section at the top of the panel, the window as high as it needs to be seen whole."""
    lacks = section.height - window.frame.viewport().height
    if lacks > 0:
        window.resize(window.width, window.height + lacks)
        hands.wait(0.4)
    to_the_top(window, section)
    hands.wait(0.1)
    assert is_whole(section)


def is_whole(widget: object) -> bool:
    """Whether all of a widget is seen."""
    return widget.isVisible() and widget.visibleRegion().boundingRect() == widget.rect


@pytest.mark.heavy
def test_picture_of_the_sensitive_layers(whole_window, hands, pictures: Pictures) -> None:
    from MedQuantSlicerLib.colormap import color_of

    window, ui = whole_window, whole_window.frame.module.ui
    presenter = window.frame.presenter
    open_sample(window, hands)
    only(window, hands, ui.layersSection)
    legend = {color_of((step / (LEGEND - 1)) ** 2, 1.0) for step in range(LEGEND)}

    def measured(view: str) -> None:
        presenter.set_option("view", view)
        hands.push(ui.sensitivityButton)
        hands.until(lambda: presenter.shown.heatmap is not None and presenter.shown.heatmap.view == view, PATIENCE)
        hands.until(lambda: presenter.shown.heatmap.complete, 3 * PATIENCE)

    def take(picture: str) -> None:
        hands.wait(0.4)
        show_whole(window, hands, ui.layersSection)
        pictures.take(picture)
        assert is_whole(ui.layersSection) and legend <= pictures.colors_of(picture)

    measured("proxy")
    ui.worstLayersLabel.linkActivated.emit(presenter.shown.heatmap.worst[0])
    take("heatmap")
    presenter.layer_chosen("")
    window.resize(*SIZE)
    measured("one-at-a-time")
    assert presenter.shown.heatmap.agreement
    presenter.layer_chosen(presenter.shown.heatmap.worst[0])
    take("heatmap-masks")


@pytest.mark.heavy
def test_picture_of_the_smallest_safe_model(whole_window, hands, pictures: Pictures) -> None:
    """By rounding alone, which is the quickest search; what is found is then segmented and compared."""
    from MedQuantSlicerLib.parameters import Method, Tolerance
    from MedQuantSlicerLib.state import RESTING

    window, ui = whole_window, whole_window.frame.module.ui
    presenter = window.frame.presenter
    open_sample(window, hands)
    chosen = window.frame.module.parameters
    chosen.method, chosen.tolerance, chosen.slices = Method.RTN, Tolerance.DICE_95, 6
    only(window, hands, ui.quantizeSection)
    hands.push(ui.safeButton)
    hands.until(lambda: presenter.shown.safe_found, 3 * PATIENCE)
    draw(window, hands, BOXES[0])
    hands.push(ui.segmentButton)
    hands.until(lambda: presenter.shown.table is not None and presenter.shown.state in RESTING, PATIENCE)
    window.views.left.go_to_number(MIDDLE)
    hands.wait(1.0)  # the panel goes to the comparison by itself
    only(window, hands, ui.quantizeSection)
    show_whole(window, hands, ui.quantizeSection)
    pictures.take("safe-model")
    assert all(map(is_whole, (ui.quantizeSection, ui.safeButton, ui.safeLabel))) and ui.safeButton.property("chosen")
    assert ui.toleranceSelector.currentText == "Mean Dice at least .95" and "held-out slices" in ui.safeLabel.text
    both = [row.badges[0] for row in presenter.shown.table.rows if row.of_all]
    assert len(both) == 2 and len({arithmetic.partition("(")[2] for arithmetic in both}) == 1, "one runtime for both"

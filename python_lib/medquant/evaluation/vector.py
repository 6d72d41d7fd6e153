"""A scene as inline SVG: one grey picture for each slice, masks as vectors, sharp on screen and paper."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from medquant.evaluation.display import runs
from medquant.evaluation.scene import Scene


def view_box(scene: Scene) -> str:
    """The SVG view box of a scene, in mm."""
    return f"0 0 {scene.width_mm:.2f} {scene.height_mm:.2f}"


def grey_image(scene: Scene) -> str:
    """The grey values as a PNG data address."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(scene.grey)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def outline_path(scene: Scene, model: int) -> str:
    """The outlines of one model's structures as SVG path data, in mm."""
    return "".join("M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in line[:-1]) + "Z" for line in scene.outlines_mm(model))


def area_path(scene: Scene, mask: np.ndarray) -> str:
    """A mask voxel by voxel as SVG path data, in mm."""
    width, height = scene.view.column_mm, scene.view.row_mm
    return "".join(
        f"M{column * width:.2f} {row * height:.2f}h{count * width:.2f}v{height:.2f}h{-count * width:.2f}z"
        for row, column, count in runs(mask)
    )

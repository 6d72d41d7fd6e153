"""The folder that a network of the demonstration travels in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medquant.files import atomic_path


def write_weights_folder(network: nn.Module, options: dict[str, Any], summary: dict[str, Any], folder: Path) -> None:
    """Write `model.safetensors` (float16), `model.json` (`options`) and `training.json` (`summary`), each whole."""
    from safetensors.torch import save_file

    state = {name: value.detach().to(torch.float16).contiguous() for name, value in network.state_dict().items()}
    with atomic_path(folder / "model.safetensors") as path:
        save_file(state, path, metadata={"format": "pt"})
        path.chmod(0o644)
    for name, content in (("model.json", options), ("training.json", summary)):
        with atomic_path(folder / name) as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

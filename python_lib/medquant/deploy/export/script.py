"""The script that runs an export without this package."""

from __future__ import annotations

from collections.abc import Mapping

from medquant.models.base import Part

_OPENING = {
    "onnx": (
        "import onnxruntime",
        '{name} = onnxruntime.InferenceSession(here / "{file}", providers=["CPUExecutionProvider"])',
        "{outputs} = {name}.run(None, {inputs})",
    ),
    "openvino": (
        "import openvino",
        '{name} = openvino.Core().compile_model(here / "{file}", "CPU", {config})  # faster: without the settings',
        "{outputs} = {name}({inputs}).values()",
    ),
    "torch": (
        "import torch",
        '{name} = torch.export.load(here / "{file}").module()',
        "{outputs} = [{name}({tensors}).detach().numpy()]",
    ),
    "tensorrt": (
        "import onnxruntime  # the engines that build_engines.sh makes from these files need TensorRT's own runtime",
        '{name} = onnxruntime.InferenceSession(here / "{file}", providers=["TensorrtExecutionProvider", '
        '"CUDAExecutionProvider", "CPUExecutionProvider"])',
        "{outputs} = {name}.run(None, {inputs})",
    ),
    "artifact": (
        "import torch\n\nfrom medquant import artifact",
        '{name} = artifact.load(here / "{file}").model.parts()["{name}"].module',
        "with torch.inference_mode():\n    {outputs} = [{name}({tensors}).numpy()]",
    ),
}


def script(format_name: str, title: str, parts: Mapping[str, Part], files: Mapping[str, str], bound: float) -> str:
    """Python that runs the parts on example.npz and exits with 1 where the last output is not as expected."""
    from medquant.deploy.export.openvino_format import AS_VERIFIED

    imports, loading, running = _OPENING[format_name]
    last = next(reversed(parts.values())).outputs[0]
    lines = [
        f'"""Runs {title} on example.npz. Not for clinical use."""',
        "",
        "from pathlib import Path",
        "",
        "import numpy as np",
        imports,
        "",
        "here = Path(__file__).resolve().parent",
        'values = dict(np.load(here / "example.npz"))',
    ]
    for name, part in parts.items():
        outputs = ", ".join(f'values["{key}"]' for key in part.outputs)
        named = ", ".join(f'"{key}": values["{key}"]' for key in part.inputs)
        tensors = ", ".join(f'torch.from_numpy(values["{key}"])' for key in part.inputs)
        facts = {
            "name": name,
            "file": files[name],
            "config": AS_VERIFIED,
            "inputs": f"{{{named}}}",
            "tensors": tensors,
            "outputs": outputs if len(part.outputs) > 1 else f"[{outputs}]",
        }
        lines += [loading.format(**facts), running.format(**facts)]
    lines += [
        f'found, expected = values["{last}"], values["expected_{last}"].astype(np.float32)',
        "apart = np.linalg.norm(found - expected) / np.linalg.norm(expected)",
        f'print("{last}", found.shape, f"differ from the expected ones by {{apart:.1e}} (at most {bound:g})")',
        f"raise SystemExit(not apart <= {bound:g})",
    ]
    return "\n".join(lines) + "\n"

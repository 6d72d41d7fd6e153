"""One step of the runtime benchmark in a process of its own: `python -m medquant.bench.runtime_worker JOB.json`."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from medquant.bench.runtime_cases import Case, case_of
from medquant.memory import give_back_memory

SECONDS = 12.0
"""A network is run until so much time has passed, three times at least."""
MOST_RUNS = 15


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Do what `job["step"]` names."""
    torch.set_num_threads(job["threads"])
    data = job.get("data")
    return _STEPS[job["step"]](case_of(job["case"], data and Path(data), job.get("float_share")), job)


def _quantize(case: Case, job: dict[str, Any]) -> dict[str, Any]:
    """The case's recipe on its calibration inputs: what is timed is all that follows from them."""
    # PyTorch loads it at first use: imports are before the clock, as the peer's are.
    importlib.import_module("torch._dynamo")

    from medquant.quantize import quantize

    model = case.build()
    inputs = case.calibration(model)
    began = time.perf_counter()
    others = [] if case.part == "network" else [f"{name}.*" for name in ("mask_decoder", "prompt_encoder")]
    recipe = case.recipe(model, inputs)
    chosen = time.perf_counter() - began
    quantized = quantize(model, inputs, recipe=recipe, ignore=others)
    seconds = time.perf_counter() - began
    quantized.save(job["quantized"])
    choice = {"the choice of float inputs": chosen} if recipe.float_inputs else {}
    solver = {f"the solver {recipe.method}": quantized.report.seconds["solving"]} if recipe.method != "rtn" else {}
    return {"seconds": seconds, "beyond_peer": choice | solver}


def _export(case: Case, job: dict[str, Any]) -> dict[str, Any]:
    """The FP32 network as OpenVINO's file, and its calibration input: what NNCF takes."""
    import openvino

    from medquant.deploy.openvino_program import openvino_model

    model = case.build()
    openvino.save_model(openvino_model(case.piece(model)), job["exported"], compress_to_fp16=False)
    np.savez(job["inputs"], inputs=np.stack([one.inputs[0].numpy() for one in case.calibration(model)]))
    return {}


def _time(case: Case, job: dict[str, Any]) -> dict[str, Any]:
    run, inputs, facts = _runner(case, job)
    if job.get("prepare"):
        return facts
    with torch.inference_mode():
        output = run(*inputs)
        seconds: list[float] = []
        while len(seconds) < 3 or (sum(seconds) < SECONDS and len(seconds) < MOST_RUNS):
            began = time.perf_counter()
            run(*inputs)
            seconds.append(time.perf_counter() - began)
    np.save(job["output"], output.numpy())
    if job["device"] == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
        if job["runtime"].startswith("pytorch"):  # others have allocators of their own
            facts["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return {"seconds": statistics.median(seconds), "load": psutil.getloadavg()[0], **facts}


def _runner(case: Case, job: dict[str, Any]) -> tuple[Callable[..., torch.Tensor], list[torch.Tensor], dict[str, Any]]:
    """What is timed, its inputs, and what it says of itself."""
    if job["runtime"] == "nncf":
        return _file(case, job)
    facts: dict[str, Any] = {}
    if job["precision"] == "int8":
        from medquant.artifact import load

        # The file describes models of SAM whole; of other networks it holds the tensors only.
        quantized = load(job["quantized"], model=case.build() if case.part == "network" else None)
        model, facts["recipe"] = quantized.model, quantized.recipe.describe()
        del quantized
    else:
        model = case.build()
    if job["runtime"].startswith("pytorch") and job["precision"] != "int8":
        _own_attention(model.network)
    model.network.to(job["device"])
    part = case.piece(model)
    from medquant.deploy.runtime import RUNTIMES
    from medquant.layers import QuantizedLayer

    began = time.perf_counter()
    session = RUNTIMES[job["runtime"]].compile(
        part, precision=job["precision"], threads=job["threads"], cache=Path(job["cache"])
    )
    facts |= {"simulated": session.simulated, "start_seconds": time.perf_counter() - began}
    facts["device"] = session.device.lower()
    if job["precision"] == "int8" and hasattr(session, "integer_layers"):
        # Those that the recipe leaves out are counted too; not every session knows what it compiled.
        quantized_layers = sum(isinstance(module, QuantizedLayer) for module in part.module.modules())
        facts["layers"] = getattr(session, "layers", quantized_layers)
    for name in ("integer_layers", "quantized_layers", "integer_products", "quantized_products"):
        if hasattr(session, name):
            facts[name] = getattr(session, name)
    inputs = list(part.inputs.values())
    del model, part
    give_back_memory()
    return session, inputs, facts


def _file(case: Case, job: dict[str, Any]) -> tuple[Callable[..., torch.Tensor], list[torch.Tensor], dict[str, Any]]:
    """NNCF's model by OpenVINO, with the rest in bf16 where the processor has it."""
    from medquant.deploy.openvino_runtime import OpenVinoSession, compiled_file

    inputs = list(case.piece(case.build()).inputs.values())
    compiled = compiled_file(Path(job["peer"]), threads=job["threads"])
    session = OpenVinoSession(compiled, "int8", "CPU", 0)
    facts = {"integer_layers": session.integer_layers, "layers": session.layers}
    return session, inputs, {"simulated": not session.integer_layers, **facts}


def _own_attention(network: torch.nn.Module) -> None:
    """SAM as `transformers` runs it, so that the peer owes nothing to this package."""
    from transformers.models.sam import modeling_sam

    from medquant.models.sam_attention import ChunkedAttention

    for module in network.modules():
        if isinstance(module, ChunkedAttention):
            kind = network.config.vision_config._attn_implementation
            module.__class__ = modeling_sam.SAM_VISION_ATTENTION_CLASSES[kind]


_STEPS = {"quantize": _quantize, "export": _export, "time": _time}

if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(told["answer"]).write_text(json.dumps(main(told)), encoding="utf-8")

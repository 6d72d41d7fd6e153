"""The benchmark of runtimes: honest columns, clear refusals, and a run of its smallest network."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medquant.activation_settings import IntActivations
from medquant.bench import runtime, runtime_worker
from medquant.bench.runtime_cases import CASES, Case, case_of, quantized_file, smooth
from medquant.bench.runtime_real import W8A8
from medquant.deploy.runtime import RUNTIMES
from medquant.errors import Cancelled, UserError
from medquant.models.base import CalibrationBatch, Model
from medquant.models.torch_program import from_module
from medquant.progress import Progress
from medquant.recipe import IntWeights, Recipe

COLUMNS = ("network", "runtime", "precision", "seconds", "speedup_vs_pytorch_fp32", "speedup_vs_runtime_fp32")
COLUMNS += ("peak_memory_mb", "dsc_vs_fp32", "simulated")


def test_speedups_are_against_pytorch_and_the_runtimes_own_fp32() -> None:
    rows: list[dict] = []
    for name, precision, seconds in (
        ("pytorch", "fp32", 8.0),
        ("openvino", "fp32", 4.0),
        ("openvino", "int8", 1.0),
        ("nncf", "int8", 2.0),
        ("onnxruntime", "int8", 4.0),
        ("tensorrt", "int8", None),
    ):
        row = {"network": "n", "runtime": name, "precision": precision, "seconds": seconds}
        rows.append(runtime._with_speedups(row, rows))
    found = [(row["speedup_vs_pytorch_fp32"], row["speedup_vs_runtime_fp32"]) for row in rows]
    assert found == [(1.0, 1.0), (2.0, 1.0), (8.0, 4.0), (4.0, 2.0), (2.0, None), (None, None)]
    assert all(name in row for row in rows for name in COLUMNS)


def test_what_stays_in_floating_point_is_said_and_what_is_slower() -> None:
    row = {"speedup_vs_runtime_fp32": 0.5, "layers": 9, "integer_layers": 7, "note": "late"}
    row["quantized_layers"] = 8  # one has its input in floating point by the recipe
    row |= {"quantized_products": 12, "integer_products": 0}
    (note,) = runtime._told(row).values()
    assert note.startswith("late; slower than FP32") and "2 of 9 layers in floating point" in note
    assert note.endswith("12 of 12 products of attention in floating point")
    assert not runtime._told({"speedup_vs_runtime_fp32": None, "integer_layers": 7, "layers": 7})


@pytest.mark.parametrize("runtime_name", ["openvino", "onnxruntime"])
def test_layers_that_the_recipe_leaves_out_are_counted(
    runtime_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The steps themselves, on a small network with one input of three in floating point."""
    if RUNTIMES[runtime_name].version() is None:
        pytest.skip(f"{runtime_name} is not installed")
    monkeypatch.setattr(runtime_worker, "case_of", lambda *_: SmallCase("small", small_network))
    monkeypatch.setattr(runtime_worker, "SECONDS", 0.0)
    job = {"case": "small", "device": "cpu", "threads": 1, "runtime": runtime_name, "precision": "int8"}
    job |= {"quantized": str(tmp_path / "small.mq.safetensors"), "cache": str(tmp_path / "cache")}
    job["output"] = str(tmp_path / "output.npy")
    made = runtime_worker.main({**job, "step": "quantize"})
    assert made["seconds"] >= sum(made["beyond_peer"].values())
    assert set(made["beyond_peer"]) == {"the choice of float inputs", "the solver permutation-comq"}
    found = runtime_worker.main({**job, "step": "time"})
    assert (found["quantized_layers"], found["layers"]) == (2, 3)
    told = runtime._told({**found, "speedup_vs_runtime_fp32": None})["note"]
    assert told == f"{3 - found['integer_layers']} of 3 layers in floating point"


class SmallCase(Case):
    """As a real case is, with an input named instead of searched."""

    def recipe(self, model: Model, calibration: list[CalibrationBatch]) -> Recipe:
        return Recipe(weights=IntWeights(8), activations=IntActivations(8), float_inputs=("1",))


def small_network() -> Model:
    """Three convolutions."""
    torch.manual_seed(0)
    layers = [nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(8, 8, 3, padding=1), nn.Conv3d(8, 3, 3, padding=1)]
    return from_module(nn.Sequential(*layers).eval(), name="small", roi_size=(16, 16, 16))


def test_no_share_is_no_search(test_data: Path, tmp_path: Path) -> None:
    plain = case_of("allconvunet", test_data, 0.0)
    assert plain.recipe(None, []) == W8A8, "nothing is looked at"
    assert case_of("allconvunet", test_data).float_share == 0.15
    files = {quantized_file(tmp_path, "allconvunet", share) for share in (None, 0.0, 0.15, 0.3)}
    assert len(files) == 4, "what is kept for one share is not taken for another"
    for share in (1.0, -0.1):
        with pytest.raises(UserError, match="between 0 and 1"):
            runtime.run(networks=["allconvunet"], data=test_data, float_share=share)


@pytest.mark.parametrize("chosen", [{"networks": ["resnet"]}, {"runtimes": ["tvm"]}, {"device": "npu"}])
def test_what_is_not_known_is_named(chosen: dict) -> None:
    with pytest.raises(UserError, match="Choose among"):
        runtime.run(**chosen)


def test_a_gpu_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"finds no NVIDIA GPU.*--device cpu"):
        runtime.run(networks=["embedded"], device="cuda")


def test_rows_of_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a process that stands in: what is asked of it, and what becomes of the answer."""
    jobs: list[dict] = []

    def step(module: str, job: dict, folder: Path, check: object, *, name: str) -> tuple[dict, float]:
        jobs.append(job)
        np.save(job["output"], np.ones((1, 256, 256), np.float32))
        return {"seconds": 0.5, "simulated": False, "gpu": "GPU", "gpu_memory_mb": 900.0}, 100.0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(runtime, "run_step", step)
    rows = runtime.run(networks=["embedded-decoder"], device="cuda", folder=tmp_path)
    measured = [(row["runtime"], row["precision"]) for row in rows if row["seconds"]]
    assert measured[:2] == [("pytorch", "fp32"), ("pytorch", "bf16")]
    assert {job["device"] for job in jobs} == {row["device"] for row in rows} == {"cuda"}
    assert rows[0]["gpu_memory_mb"] == 900.0 and rows[0]["peak_memory_mb"] == 100.0
    assert not {"openvino", "nncf"} & {row["runtime"] for row in rows}
    assert all("absent" in row["note"] for row in rows if row["seconds"] is None)
    (asked,) = runtime.run(networks=["embedded-decoder"], runtimes=["openvino"], device="cuda", folder=tmp_path)[-1:]
    assert "does not run on cuda" in asked["note"] or "absent" in asked["note"]


def test_inputs_are_the_same_in_every_process() -> None:
    assert torch.equal(smooth((1, 1, 16, 16, 16), 3), smooth((1, 1, 16, 16, 16), 3))
    assert not torch.equal(smooth((1, 3, 16, 16), 0), smooth((1, 3, 16, 16), 1))


def test_the_wish_to_stop_ends_the_process_under_way(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        runtime.run(networks=["embedded-decoder"], runtimes=["pytorch"], folder=tmp_path, cancelled=lambda: True)


def test_integers_are_quantized_compiled_and_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runtime, "CONTENDERS", (("pytorch", "fp32"), ("openvino", "int8")))
    absent = tmp_path / "no-python-here"
    fp32, int8, peer = runtime.run(networks=["embedded"], threads=1, folder=tmp_path, nncf_python=absent)
    assert fp32["dsc_vs_fp32"] == 1.0 and not fp32["simulated"]
    assert int8["dsc_vs_fp32"] >= 0.995 and not int8["simulated"]
    assert int8["integer_layers"] == int8["quantized_layers"] > 20
    assert int8["recipe"].startswith("W8") and "rtn" in int8["recipe"]
    assert int8["quantize_seconds"] > 0 and int8["first_start_seconds"] > int8["start_seconds"]
    assert peer["runtime"] == "nncf" and peer["seconds"] is None and "no-python-here" in peer["note"]


def test_what_making_a_file_took_is_known_in_the_next_run_too(tmp_path: Path) -> None:
    bench = runtime._Bench("embedded", CASES["embedded"], tmp_path, "cpu", 1, None, Progress())
    target, times = tmp_path / "embedded.mq.safetensors", []

    def make() -> dict:
        times.append(1)
        target.touch()
        return {"seconds": 1.5}

    assert [bench._once(target, make) for _ in range(2)] == [{"seconds": 1.5}] * 2 and times == [1]


def test_the_network_with_real_weights_runs_on_the_real_scan(test_data: Path) -> None:
    case = case_of("allconvunet", test_data)
    model = case.build()
    part = case.piece(model)
    assert part.inputs["image"].shape == (1, 1, 144, 144, 144) and part.inputs["image"].std() > 100  # in HU
    batches = case.calibration(model)
    assert len(batches) == 6 and not torch.equal(batches[0].inputs[0], part.inputs["image"])
    logits = torch.randn(1, 9, 144, 144, 144, generator=torch.Generator().manual_seed(0))
    assert set(case.mask(model, logits).unique().tolist()) < set(range(9))  # not every organ counts


def test_real_weights_are_asked_for() -> None:
    with pytest.raises(UserError, match="--data"):
        case_of("allconvunet", None)
    with pytest.raises(UserError, match="allconvunet"):
        runtime.run(networks=["no-such-network"])


@pytest.mark.heavy
def test_integers_keep_the_masks_of_real_weights(test_data: Path) -> None:
    rows = runtime.run(networks=["allconvunet"], runtimes=["pytorch", "openvino"], data=test_data)
    found = {(row["runtime"], row["precision"]): row for row in rows}
    int8 = found["openvino", "int8"]
    assert int8["dsc_vs_fp32"] >= 0.995 and int8["speedup_vs_runtime_fp32"] > 1


@pytest.mark.heavy
@pytest.mark.parametrize(("network", "least"), [("sam-vit-b", (7.5, 3.0)), ("nnunet", (6.5, 3.5))])
def test_integers_keep_their_promises_at_full_size(network: str, least: tuple[float, float]) -> None:
    """Run by name on an idle machine; with NNCF where `MEDQUANT_NNCF_PYTHON` names an interpreter that has it."""
    python = os.environ.get("MEDQUANT_NNCF_PYTHON")
    rows = runtime.run(networks=[network], nncf_python=None if python is None else Path(python))
    found = {(row["runtime"], row["precision"]): row for row in rows}
    int8 = found["openvino", "int8"]
    assert int8["speedup_vs_pytorch_fp32"] >= least[0] and int8["speedup_vs_runtime_fp32"] >= least[1]
    assert int8["peak_memory_mb"] <= 0.5 * found["pytorch", "fp32"]["peak_memory_mb"]
    assert int8["start_seconds"] <= 2.0
    if python is not None:
        peer = found["nncf", "int8"]
        assert int8["seconds"] <= 1.05 * peer["seconds"] and int8["dsc_vs_fp32"] >= peer["dsc_vs_fp32"]
        assert int8["quantize_seconds"] <= peer["quantize_seconds"]


@pytest.mark.heavy
@pytest.mark.parametrize(("network", "most"), [("sam-vit-b-decoder", 0.08), ("embedded-decoder", 0.03)])
def test_a_box_becomes_a_mask_at_once(network: str, most: float) -> None:
    rows = runtime.run(networks=[network], runtimes=["openvino"])
    assert min(row["seconds"] for row in rows if row["seconds"]) <= most


@pytest.mark.heavy
def test_a_run_of_the_smallest_network() -> None:
    rows = runtime.run(networks=["embedded-decoder"], runtimes=["pytorch", "openvino"], threads=1)
    assert (rows[0]["runtime"], rows[0]["precision"]) == ("pytorch", "fp32")
    assert all(name in row for row in rows for name in COLUMNS)
    measured = [row for row in rows if row["seconds"]]
    assert len(measured) >= 2
    for row in measured:
        assert row["peak_memory_mb"] > 50 and row["dsc_vs_fp32"] > 0.98
    assert set(CASES) >= {"sam-vit-b", "nnunet", "swinunetr", "unetr", "segresnet", "dynunet"}

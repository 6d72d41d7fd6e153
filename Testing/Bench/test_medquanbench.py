"""MedQuanBench's protocol on a real network that is tiny, untrained, and so computed in a moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_subject import scores

from medquant.bench import identity
from medquant.bench.allconvunet import ORGANS, SIDE, AllConvUNet
from medquant.bench.identity import fingerprint
from medquant.bench.medquanbench import measure
from medquant.bench.medquanbench.measure import backbone, run_cell, scores_of
from medquant.bench.medquanbench.mini import mini_settings, subjects
from medquant.bench.medquanbench.plan import PRODUCT, Cell, cells, settings
from medquant.bench.medquanbench.results import write_rows
from medquant.bench.medquanbench.subjects import FileCase, Subject
from medquant.bench.networks import NamedNetwork
from medquant.bench.organ_case import TEST_SCAN, OrganModel
from medquant.bench.organ_case import test_cube as cube_that_tests
from medquant.bench.records import Records
from medquant.bench.running import Locally, Outcome, failures, run
from medquant.deploy.accelerate import accelerate
from medquant.deploy.runtime import RUNTIMES
from medquant.errors import Cancelled, UserError
from medquant.evaluation.metrics import dice
from medquant.imaging.reading import read_labels, read_volume
from medquant.imaging.volume import Volume
from medquant.progress import Progress
from medquant.segmentation import Segmentation, Structure


def _plan(subject: Subject, **chosen: Any) -> list[Cell]:
    return list(cells([subject], settings(**chosen)))


def _keys(plan: Iterable[Cell]) -> set[str]:
    return {key for cell in plan for key in (cell.key, cell.model_key)}


def test_the_grid_is_the_papers_with_the_product_beside_it() -> None:
    found = settings()
    assert [one.precision for one in found].count("W8A8") == 4 and len(found) == 1 + 2 * (3 + 1)
    assert len({json.dumps(one.recipe and one.recipe.to_dict(), sort_keys=True) for one in found}) == len(found)
    for one in found[1:]:
        weights, inputs = one.recipe.weights, one.recipe.activations
        assert weights.bits == inputs.bits == int(one.precision[1])
        if one.method == "rtn":  # symmetric uniform, the range of each input, the same bits everywhere
            assert weights.symmetric and inputs.symmetric and inputs.mode == "dynamic"
            assert one.recipe.ends_bits is None and one.data_free
    assert not next(one for one in found if one.method == PRODUCT).data_free
    assert {one.method for one in mini_settings()[1:]} == {"rtn", "permutation-comq", PRODUCT}


@pytest.mark.parametrize("wrong", [{"precisions": ("W2A2",)}, {"granularities": ("fine",)}, {"methods": ("magic",)}])
def test_an_unknown_choice_is_named(wrong: dict) -> None:
    with pytest.raises(UserError, match="Choose"):
        settings(**wrong)


def test_every_cell_has_a_key_of_its_own_that_stays(subject: Subject) -> None:
    plan = _plan(subject)
    assert len({cell.key for cell in plan}) == len(plan) == 2 * 9
    assert [cell.key for cell in plan] == [cell.key for cell in _plan(subject)]
    assert len({cell.model_key for cell in plan}) == 9
    other = [cell.key for cell in _plan(replace(subject, inputs=3))]
    assert [a.key == b for a, b in zip(plan, other)] == [
        cell.setting.recipe is None or cell.setting.data_free for cell in plan
    ]


def test_keys_know_the_kind_of_device(subject: Subject) -> None:
    here, there, second = (_keys(cells([subject], settings(), device=name)) for name in ("cpu", "cuda", "cuda:1"))
    assert here == _keys(_plan(subject)) and not here & there and there == second


def test_keys_know_weights_options_and_files(subject: Subject, tmp_path: Path) -> None:
    network = tmp_path / "other.pt"
    state = torch.load(subject.network.weights, weights_only=True)
    torch.save({name: value + (value.is_floating_point() and 1e-3) for name, value in state.items()}, network)
    here, models = ({getattr(cell, key) for cell in _plan(subject)} for key in ("key", "model_key"))
    assert not here & {cell.key for cell in _plan(replace(subject, network=replace(subject.network, weights=network)))}
    options = json.loads(subject.network.options)
    for name, value in {"overlap": 0.0, "preprocessing": {"intensity": "range"}}.items():
        network = replace(subject.network, options=json.dumps(options | {name: value}))
        there = list(_plan(replace(subject, network=network)))
        assert not here & {cell.key for cell in there}, f"{name} changes the figures"
        assert not models & {cell.model_key for cell in there}
    case = subject.cases[0]
    before = fingerprint(case)
    os.utime(case.labels, ns=(1, 1))
    assert fingerprint(case) != before
    with pytest.raises(UserError, match="Two networks"):
        list(cells([subject, subject], settings()))


def test_the_rows_do_not_depend_on_the_order(subject: Subject, tmp_path: Path) -> None:
    plan = _plan(subject, precisions=("W4A4",), granularities=("adaptive",))
    rows = [run_cell(cell, tmp_path / "a") for cell in plan]
    again = [run_cell(cell, tmp_path / "b") for cell in reversed(plan)][::-1]
    assert scores(rows) == scores(again)
    full, rounded, product = rows[0], rows[2], rows[4]
    assert full["bytes"] == 4 * sum(p.numel() for p in subject.network.load("cpu").network.parameters())
    assert rounded["simulated"] and rounded["runtime"] is None  # per-channel scales of inputs have no integer kernel
    assert "no scale" in rounded["no_runtime"] and product["no_runtime"] is None
    assert "int8" in product["runtime"] and product["runtime_seconds"] > 0
    assert {s["name"] for s in product["runtime_structures"]} == {s["name"] for s in product["structures"]}
    assert rounded["effective_bits"] < full["effective_bits"] == 32
    assert full["backbone"] == "CNN"


def test_scores_are_those_of_the_masks(subject: Subject, tmp_path: Path) -> None:
    cell = _plan(subject)[0]
    row = run_cell(cell, tmp_path)
    volume, reference = cell.case.volume(), cell.case.reference()
    found = subject.network.load("cpu").segment(volume)
    shown = [structure for structure in reference.structures if reference.mask(structure).any()]
    expected = {s.name: dice(found.labels == s.label, reference.labels == s.label) for s in shown}
    assert {score["name"]: score["dsc"] for score in row["structures"]} == pytest.approx(expected)
    assert row["dsc"] == pytest.approx(np.mean(list(expected.values())))


@pytest.mark.heavy
def test_a_model_that_needs_boxes_gets_those_of_the_reference(subject: Subject, tmp_path: Path) -> None:
    prompted = replace(subject, network=NamedNetwork("embedded"), cases=subject.cases[:1])
    row = run_cell(_plan(prompted, precisions=())[0], tmp_path)
    shown = np.unique(subject.cases[0].reference().labels[subject.cases[0].reference().labels > 0])
    assert len(row["structures"]) == len(shown) and row["dsc"] > 0.3  # coarse voxels, but a box tells the most


def test_a_reference_without_any_of_the_structures_is_told(subject: Subject) -> None:
    volume, reference = subject.cases[0].volume(), subject.cases[0].reference()
    found = subject.network.load("cpu").segment(volume)
    foreign = Segmentation(reference.labels, volume, tuple(Structure(s.label, "bone") for s in reference.structures))
    with pytest.raises(UserError, match="none of the structures"):
        scores_of(found, foreign)


def test_a_backbone_is_told_by_its_layers() -> None:
    convolution, linear = torch.nn.Conv3d(1, 1, 1), torch.nn.Linear(1, 1)
    assert backbone(torch.nn.Sequential(convolution)) == "CNN"
    assert backbone(torch.nn.Sequential(convolution, linear)) == "hybrid"
    assert backbone(torch.nn.Sequential(linear)) == "transformer"


@dataclass
class Stopping:
    """Runs cells until it is killed, then leaves at once as a killed process does; notes what it was asked for."""

    runner: Locally
    after: int
    asked: int = 0

    def __call__(self, plan: Sequence[Cell], progress: Progress) -> Iterator[tuple[Cell, Outcome]]:
        self.asked = len(plan)
        for number, outcome in enumerate(self.runner(plan, progress)):
            if number == self.after:
                raise KeyboardInterrupt
            yield outcome


def test_a_stopped_run_goes_on_where_it_stopped(subject: Subject, tmp_path: Path) -> None:
    plan = _plan(subject, precisions=("W8A8",), methods=("rtn",))
    records, runner = Records(tmp_path), Locally(tmp_path / "models")
    first, second = Stopping(runner, 3), Stopping(runner, 100)
    with pytest.raises(KeyboardInterrupt):
        run(plan, records, first, Progress())
    kept = {file.name: file.stat().st_mtime_ns for file in records.folder.iterdir()}
    assert len(kept) == 3
    rows, failed = run(plan, records, second, Progress())
    assert (first.asked, second.asked) == (len(plan), len(plan) - 3) and not failed
    assert kept.items() <= {file.name: file.stat().st_mtime_ns for file in records.folder.iterdir()}.items()
    whole, _ = run(plan, Records(tmp_path / "whole"), Locally(tmp_path / "other"), Progress())
    assert scores(rows) == scores(whole)


def test_a_damaged_record_is_measured_again(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.put({"key": "a", "dsc": 0.5})
    assert records.get("a") == {"key": "a", "dsc": 0.5} and records.get("b") is None
    (records.folder / "a.json").write_text('{"key": "a", "ds', encoding="utf-8")
    assert records.get("a") is None
    (records.folder / "b.json").write_text('{"key": "a"}', encoding="utf-8")
    assert records.get("b") is None


def test_a_cell_that_cannot_be_measured_does_not_stop_the_others(subject: Subject, tmp_path: Path) -> None:
    alone = replace(subject, cases=(subject.cases[0], replace(subject.cases[1], labels=None)))
    rows, failed = run(_plan(alone, precisions=()), Records(tmp_path), Locally(tmp_path), Progress())
    assert len(rows) == 1 and "has no labels" in str(*failed.values())
    assert str(*failed.values()) in str(*failures(_plan(alone, precisions=()), failed))


def test_a_failure_of_any_kind_does_not_stop_the_others(subject: Subject, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Broken(FileCase):
        def volume(self) -> Volume:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    plan = _plan(subject, precisions=())
    plan[0] = replace(plan[0], case=Broken(subject.cases[0].image, subject.cases[0].labels))
    rows, failed = run(plan, Records(tmp_path), Locally(tmp_path), Progress())
    assert len(rows) == 1 and "RuntimeError: [enforce fail" in str(*failed.values())
    with pytest.raises(Cancelled):
        run(plan, Records(tmp_path), Locally(tmp_path), Progress(cancelled=lambda: True))


def test_another_file_beside_the_scan_changes_nothing(tmp_path: Path) -> None:
    for name in TEST_SCAN:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"voxels")
    case = subjects(tmp_path)[0].cases[0]
    before = fingerprint(case)
    (tmp_path / "notes.txt").write_text("unrelated", encoding="utf-8")
    (tmp_path / TEST_SCAN[0]).with_name("notes.txt").write_text("unrelated", encoding="utf-8")
    assert fingerprint(case) == before and case.name == "ct_abdomen_3mm"
    (tmp_path / TEST_SCAN[1]).write_bytes(b"other voxels")
    assert fingerprint(case) != before


def test_small_networks_are_tested_on_three_scans_that_calibrate_none() -> None:
    for one in subjects(None):
        assert len({fingerprint(case) for case in (*one.calibration, *one.cases)}) == 4


def test_rows_are_kept_as_parquet(subject: Subject, tmp_path: Path) -> None:
    from pyarrow import parquet

    rows = [run_cell(cell, tmp_path) for cell in _plan(subject, precisions=("W8A8",))[:3]]
    assert parquet.read_table(write_rows(rows, tmp_path)).to_pylist() == rows


def test_rows_are_kept_as_csv_where_there_is_no_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    rows = [{"key": "a", "dsc": 0.5, "structures": [{"name": "liver", "dsc": 0.5}]}]
    text = write_rows(rows, tmp_path).read_text(encoding="utf-8").splitlines()
    assert text[0] == "key,dsc,structures" and '""liver""' in text[1] and len(text) == 2


def test_a_common_cause_is_told_once(subject: Subject) -> None:
    plan = _plan(subject, methods=("rtn",))
    alone = {plan[0].key: UserError("It broke. Mend it.")}
    assert list(failures(plan, alone)) == [f"{plan[0].describe()}. It broke. Mend it."]
    lost = UserError("No scan. Give one.")
    name, size = subject.network.name, len(plan)
    case = subject.cases[1].name
    assert list(failures(plan, {})) == []
    assert list(failures(plan, {cell.key: lost for cell in plan})) == [f"{name} ({size} of its {size} cells). {lost}"]
    of_case = {cell.key: lost for cell in plan if cell.case.name == case}
    assert list(failures(plan, of_case)) == [f"{name}, {case} ({size // 2} of its {size} cells). {lost}"]
    of_both = of_case | {cell.key: UserError("Other. Mend it.") for cell in plan if cell.key not in of_case}
    assert len(list(failures(plan, of_both))) == 2


@pytest.mark.skipif(RUNTIMES["openvino"].version() is None, reason="OpenVINO is not here")
@pytest.mark.parametrize(
    ("window", "told"),
    [([64, 32, 32], "PyTorch, in windows of 32 x 32 x 32"), ([32, 32, 32], "There is not enough memory")],
    ids=["smaller", "none"],
)
def test_a_runtime_without_memory_has_no_time(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: list[int], told: str
) -> None:
    """PyTorch takes smaller windows, where there are any; its time is not the runtime's, and its scores stay."""
    options = json.dumps({**json.loads(subject.network.options), "roi_size": window})
    cell = _plan(replace(subject, network=replace(subject.network, options=options)), precisions=())[0]
    twin = accelerate(cell.network.load("cpu"), "openvino", threads=1)

    def fail(kind: type[Exception], *_: object, **__: object) -> None:
        raise kind("too little")

    monkeypatch.setattr(type(twin.sessions["network"]), "__call__", partial(fail, MemoryError))
    monkeypatch.setattr(measure, "accelerate", lambda *_, **__: twin)
    monkeypatch.setattr(type(RUNTIMES["openvino"]), "compile", partial(fail, UserError))
    row = run_cell(cell, tmp_path)
    assert row["runtime"] is None and row["runtime_seconds"] is None and row["structures"]
    assert row["no_runtime"].startswith(told)


def test_keys_know_the_versions_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for version in ("2.9.0", "2.9.1+cpu", "2.9.1+cu130"):
        with monkeypatch.context() as patch:
            patch.setattr(identity.metadata, "version", lambda name, told=version: told if name == "torch" else "1")
            found[version] = identity.code_version.__wrapped__()
    assert found["2.9.1+cpu"] == found["2.9.1+cu130"] != found["2.9.0"]


def test_the_cube_of_the_real_scan_keeps_millimetres(test_data: Path) -> None:
    scan, masks = (test_data / name for name in TEST_SCAN)
    cube, reference = cube_that_tests(scan, masks)
    whole = read_volume(scan)
    labels = read_labels(masks, whole).labels
    for theirs, ours in ((5, 6), (1, 1)):  # liver and spleen
        expected = np.count_nonzero(labels == theirs) * whole.voxel_volume_ml
        found = np.count_nonzero(reference.labels == ours) * cube.voxel_volume_ml
        assert found == pytest.approx(expected, rel=0.02)

    # Between two organs lies the same way in millimetres, whichever way the arrays run and whichever hand they have.
    def centre(volume: Volume, inside: np.ndarray) -> np.ndarray:
        return (volume.affine @ [*np.argwhere(inside).mean(0)[::-1], 1])[:3]

    for theirs, ours in ((1, 1), (3, 3)):  # the spleen and the left kidney from the liver
        expected = centre(whole, labels == theirs) - centre(whole, labels == 5)
        found = centre(cube, reference.labels == ours) - centre(cube, reference.labels == 6)
        assert found == pytest.approx(expected, abs=2.0)
    assert expected[0] > 50  # to the left


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_real_network_segments_on_a_gpu() -> None:
    model = OrganModel(
        AllConvUNet(), name="u", spec={}, weights_hash="", structures=tuple(Structure(*pair) for pair in ORGANS.items())
    )
    volume = Volume(np.random.default_rng(0).normal(0, 200, (SIDE,) * 3).astype(np.float32), np.eye(4))
    here = model.segment(volume).labels
    model.network.to("cuda")
    assert np.mean(model.segment(volume).labels == here) > 0.99


def test_the_real_network_gets_its_input_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without memory takes any input that lies there, and refuses others as a GPU does."""
    model = OrganModel(AllConvUNet(), name="u", spec={}, weights_hash="", structures=())
    model.network.to("meta")
    outputs: list[torch.Tensor] = []
    model.network.register_forward_hook(lambda *args: outputs.append(args[-1]))
    with pytest.raises(NotImplementedError, match="meta"):  # the labels, which a device without memory has not
        model.segment(Volume(np.zeros((SIDE,) * 3, np.float32), np.eye(4)))
    assert outputs[0].device.type == "meta" and outputs[0].shape[2:] == (SIDE,) * 3

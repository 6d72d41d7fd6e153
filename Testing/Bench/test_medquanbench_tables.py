"""Means, drops, findings and tables come from the rows and from nothing else."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from medquant.bench.medquanbench.findings import findings
from medquant.bench.medquanbench.plan import FP32, PRODUCT
from medquant.bench.medquanbench.summary import Line, summarize
from medquant.bench.medquanbench.tables import markdown, tables, write_tables
from medquant.commands.bench_medquanbench import _show
from medquant.commands.session import Session
from medquant.evaluation.wording import TIMES


def a_row(precision: str, grain: str, method: str, scores: dict[str, float], **other: Any) -> dict[str, Any]:
    return {
        "model": "net",
        "backbone": "CNN",
        "precision": precision,
        "granularity": grain,
        "method": method,
        "case": "one",
        "case_id": "one",
        "split": "",
        "dsc": float(np.mean(list(scores.values()))),
        "structures": [{"name": name, "dsc": dsc, "nsd": dsc / 2} for name, dsc in scores.items()],
        "effective_bits": 4.0,
        "bytes": 100,
        "seconds": 1.0,
        "processor": "a processor",
        "threads": 2,
        "runtime": None,
        "runtime_kind": None,
        "runtime_seconds": None,
        "runtime_dsc": None,
        "runtime_structures": None,
        "no_runtime": "It is not installed.",
    } | other


SETTINGS = (
    (FP32, "", ""),
    ("W8A8", "per-tensor", "rtn"),
    ("W8A8", "adaptive", "rtn"),
    ("W4A4", "per-tensor", "rtn"),
    ("W4A4", "per-channel/token", "rtn"),
    ("W4A4", "adaptive", "rtn"),
    ("W4A4", "adaptive", "gptq"),
    ("W4A4", "per-tensor", PRODUCT),
)
LIKE_THE_PAPER = (0.9, 0.895, 0.9, 0.1, 0.5, 0.6, 0.7, 0.85)
UNLIKE_IT = (0.9, 0.8, 0.9, 0.88, 0.5, 0.4, 0.41, 0.8)
HOLDS, FAILS, TIE, KEPT = "holds", "does not hold", "a tie", "nothing was lost"


def lines_of(values: tuple[float, ...]) -> list[Line]:
    return summarize([a_row(*setting, {"liver": value}) for setting, value in zip(SETTINGS, values, strict=True)])


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_means_and_drops(cases: list[tuple[float, float, float]], random: Any) -> None:
    rows = [
        a_row(precision, "", "", {"liver": liver, "spleen": spleen}, case_id=str(number))
        for number, (full, low, high) in enumerate(cases)
        for precision, liver, spleen in ((FP32, full, full), ("W4A4", low, high))
    ]
    full, four = summarize(rows)
    assert full.dsc_drop == 0 and four.cases == len(cases)
    assert four.dsc == pytest.approx(np.mean([(low + high) / 2 for _, low, high in cases]))
    assert four.dsc_drop == pytest.approx(100 * (1 - four.dsc / np.mean([full for full, *_ in cases])))
    assert four.nsd == pytest.approx(four.dsc / 2) and four.nsd_drop == pytest.approx(four.dsc_drop)
    random.shuffle(rows)
    again = {line.precision: line.dsc for line in summarize(rows)}
    assert again == pytest.approx({FP32: full.dsc, "W4A4": four.dsc})


def test_what_fp32_did_not_find_does_not_count() -> None:
    rows = [
        a_row(FP32, "", "", {"liver": 0.9, "pancreas": 0.1}),
        a_row("W4A4", "", "", {"liver": 0.6, "pancreas": 0.0}),
    ]
    assert [line.dsc for line in summarize(rows)] == pytest.approx([0.5, 0.3])
    assert [line.dsc for line in summarize(rows, found_by_fp32=0.5)] == pytest.approx([0.9, 0.6])


def test_a_setting_is_compared_on_the_cases_that_it_was_measured_on() -> None:
    rows = [a_row(FP32, "", "", {"liver": dsc}, case_id=case) for case, dsc in (("a", 0.8), ("b", 0.4))]
    rows.append(a_row("W8A8", "", "", {"liver": 0.4}, case_id="b"))
    rows.append(a_row("W8A8", "", "", {"liver": 0.9}, case_id="c"))  # FP32 is still missing there
    full, eight = summarize(rows)
    assert full.dsc == pytest.approx(0.6) and eight.cases == 1 and eight.dsc_drop == pytest.approx(0)


def test_findings_follow_the_numbers() -> None:
    alike, unlike = findings(lines_of(LIKE_THE_PAPER)), findings(lines_of(UNLIKE_IT))
    assert [one.claim for one in alike] == [one.claim for one in unlike] and len(alike) == 6
    assert [one.verdict for one in alike] == [HOLDS] * 6
    assert [one.verdict for one in unlike] == [FAILS] * 6
    assert "0.100" in alike[1].evidence and "88.9 %" in alike[1].evidence
    assert all(one.evidence.endswith("(1 scan)") for one in alike)


def _lines_by_case(values: dict[tuple[str, str, str], dict[str, float]]) -> list[Line]:
    """Of each setting the DSC on each case that it was measured on; FP32's is .9."""
    cases = dict.fromkeys(case for by_case in values.values() for case in by_case)
    values = {(FP32, "", ""): dict.fromkeys(cases, 0.9)} | values
    return summarize(
        [
            a_row(*setting, {"liver": dsc}, case_id=case)
            for setting, by_case in values.items()
            for case, dsc in by_case.items()
        ]
    )


PER_TENSOR, PER_CHANNEL, ADAPTIVE = (("W4A4", g, "rtn") for g in ("per-tensor", "per-channel/token", "adaptive"))


def test_two_settings_are_compared_on_the_cases_of_both() -> None:
    easy = {"a": 0.85, "b": 0.75}
    of_all = {PER_TENSOR: easy | {"hard": 0.05}, PER_CHANNEL: easy | {"hard": 0.05}, ADAPTIVE: easy}
    found = {one.claim[:5]: one for one in findings(_lines_by_case(of_all))}
    assert found["Adapt"].verdict == TIE and found["Adapt"].evidence == "0.800 against 0.800 (2 scans)"
    assert found["Finer"].verdict == FAILS
    channel = "per-channel/token 0.550 against 0.550 per tensor (3 scans)"
    assert found["Finer"].evidence == f"{channel}, adaptive 0.800 against 0.800 per tensor (2 scans)"
    own = {("W4A4", "per-tensor", PRODUCT): easy}
    (recipe,) = (one for one in findings(_lines_by_case(of_all | own)) if one.claim.startswith("medquant"))
    assert recipe.verdict == FAILS and recipe.evidence == "0.800 against 0.800 (per-tensor) (2 scans)"
    solved = {("W4A4", "adaptive", "gptq"): easy, ("W4A4", "per-channel/token", "gptq"): {"hard": 0.05}}
    (solver,) = (one for one in findings(_lines_by_case(of_all | solved)) if one.claim.startswith("A better"))
    assert solver.verdict == FAILS and "adaptive 0.800 against 0.800 (2 scans)" in solver.evidence


def test_settings_without_a_common_case_are_not_compared() -> None:
    lines = _lines_by_case({PER_TENSOR: {"a": 0.1}, PER_CHANNEL: {"a": 0.5}, ADAPTIVE: {"b": 0.8}})
    found = {one.claim[:5]: one for one in findings(lines)}
    assert "Adapt" not in found
    assert found["Finer"].evidence == "per-channel/token 0.500 against 0.100 per tensor (1 scan)"


def test_where_fp32_found_nothing_nothing_was_kept() -> None:
    lines = lines_of((0.0,) * len(SETTINGS))
    assert findings(lines) == [] and {(line.dsc_drop, line.nsd_drop) for line in lines} == {(None, None)}
    for shown in (markdown(tables(lines, [])), printed(lines, 80)):
        assert "0.000" in shown and "0.0 %" not in shown and "None" not in shown
    rows = [a_row(FP32, "", "", {"liver": dsc}, case_id=case) for case, dsc in (("a", 0.0), ("b", 0.9))]
    rows += [a_row(*setting, {"liver": 0.0}, case_id="a") for setting in (PER_TENSOR, ADAPTIVE)]
    rows += [a_row(*PER_TENSOR, {"liver": 0.8}, case_id="b")]
    assert {one.claim[:4] for one in findings(summarize(rows))} == {"W4A4"}  # the drop per tensor, and no comparison


def test_of_two_ruins_neither_is_better() -> None:
    values = list(LIKE_THE_PAPER)
    values[4:6] = 0.1, 0.2
    claims = [one.claim for one in findings(lines_of(tuple(values)))]
    assert len(claims) == 5 and not any("Adaptive" in claim for claim in claims)


def test_what_was_not_lost_cannot_be_recovered() -> None:
    values = (0.9, 0.895, 0.9, 0.897, 0.898, 0.899, 0.9, 0.9)
    judged = {one.claim[:5]: one.verdict for one in findings(lines_of(values)) if "recovers" in one.claim}
    assert set(judged.values()) == {KEPT} and len(judged) == 3


@given(st.floats(-0.049, 0.049))
def test_a_difference_that_scans_may_make_is_a_tie(difference: float) -> None:
    values = (0.9, 0.895, 0.9, 0.1, 0.6, 0.6 + difference, 0.7, 0.85)
    (adaptive,) = (one for one in findings(lines_of(values)) if one.claim.startswith("Adaptive"))
    assert adaptive.verdict == TIE


def test_the_number_of_scans_and_their_spread_are_told() -> None:
    rows = [
        a_row(*setting, {"liver": value + off}, case_id=str(off))
        for setting, value in zip(SETTINGS, LIKE_THE_PAPER, strict=True)
        for off in (0.0, 0.02, 0.04)
    ]
    lines = summarize(rows)
    assert all(one.evidence.endswith("(3 scans)") for one in findings(lines))
    assert [line.dsc_spread for line in lines] == pytest.approx([0.02] * len(SETTINGS))
    table = tables(lines, [])[0]
    assert {row[table.head.index("spread")] for row in table.rows} == {"0.020"}
    assert summarize(rows[:1])[0].dsc_spread is None


def test_what_is_lossless_again_has_recovered() -> None:
    values = (0.9, 0.895, 0.9, 0.88, 0.88, 0.9, 0.9, 0.9)
    (finer,) = (one for one in findings(lines_of(values)) if one.claim.startswith("Finer"))
    assert finer.verdict == HOLDS


@pytest.mark.parametrize("left", range(len(SETTINGS)))
def test_nothing_is_found_in_what_was_not_measured(left: int) -> None:
    only = [line for number, line in enumerate(lines_of(LIKE_THE_PAPER)) if number in (0, left)]
    assert {one.claim[:4] for one in findings(only)} <= {"W8A8", "W4A4"} and len(findings(only)) <= 1
    assert findings(only[1:]) == [] or only[1:] == []


def test_each_model_has_its_own_findings() -> None:
    rows = [
        a_row(*setting, {"liver": value}, model=model)
        for model, values in (("good", LIKE_THE_PAPER), ("bad", UNLIKE_IT))
        for setting, value in zip(SETTINGS, values, strict=True)
    ]
    found = findings(summarize(rows))
    assert {(one.model, one.verdict) for one in found} == {("good", HOLDS), ("bad", FAILS)} and len(found) == 12


def test_tables_hold_every_number(tmp_path) -> None:
    kernels = {"runtime": "openvino int8", "runtime_kind": "openvino", "runtime_seconds": 0.5, "runtime_dsc": 0.77}
    kernels["runtime_structures"] = [{"name": "liver", "dsc": 0.77, "nsd": 0.5}]
    rows = [a_row(*setting, {"liver": value}) for setting, value in zip(SETTINGS, LIKE_THE_PAPER, strict=True)]
    rows[0] |= {
        "bytes": 800,
        "runtime": "openvino fp32",
        "runtime_kind": "openvino",
        "runtime_seconds": 1.0,
        "runtime_dsc": 0.9,
        "runtime_structures": [{"name": "liver", "dsc": 0.9, "nsd": 0.5}],
    }
    rows[-1] |= kernels | {"model": "net"}
    lines = summarize(rows)
    made = tables(lines, findings(lines))
    assert [len(table.rows) for table in made] == [len(SETTINGS), 2, 6]
    assert all(len(row) == len(table.head) for table in made for row in table.rows)
    text = markdown(made)
    assert "0.100 (88.9 %)" in text and f"8.00{TIMES}" in text and f"(2.00{TIMES})" in text and "-0.080" in text
    assert text.count("| net |") == 1 + 1 + 6
    paths = write_tables(made, tmp_path)
    assert [path.name for path in paths] == ["tables.md", "tables.html"]
    assert paths[0].read_text(encoding="utf-8") == text
    assert paths[1].read_text(encoding="utf-8").count("<tr") == len(SETTINGS) + 2 + 6 + 3


@pytest.mark.parametrize(
    "other",
    [{"processor": "H200"}, {"threads": 1}, {"runtime_kind": "tensorrt"}, {}],
    ids=["processor", "threads", "runtime", "none"],
)
def test_a_gain_needs_the_same_place(other: dict[str, Any]) -> None:
    ran = {"runtime": "it", "runtime_kind": "openvino", "runtime_dsc": 0.9}
    ran["runtime_structures"] = [{"name": "liver", "dsc": 0.9, "nsd": 0.5}]
    rows = [
        a_row(FP32, "", "", {"liver": 0.9}, **ran | {"runtime_seconds": 1.0} | other),
        a_row("W8A8", "per-tensor", PRODUCT, {"liver": 0.9}, **ran | {"runtime_seconds": 0.5}),
    ]
    table = tables(summarize(rows), [])[1]
    full, eight = (dict(zip(table.head, row, strict=True)) for row in table.rows)
    assert (f"(2.00{TIMES})" in eight["network's time (gain)"]) == (not other)
    assert eight["device"] == "a processor, 2 threads" and full["device"].startswith(other.get("processor", "a "))


def test_what_a_runtime_changes_is_told_of_the_same_structures() -> None:
    ran = {"runtime": "it", "runtime_kind": "openvino", "runtime_seconds": 1.0, "runtime_dsc": 0.55}
    ran["runtime_structures"] = [{"name": name, "dsc": dsc, "nsd": dsc} for name, dsc in (("a", 0.8), ("b", 0.3))]
    (line,) = summarize([a_row(FP32, "", "", {"a": 0.9, "b": 0.1}, **ran)], found_by_fp32=0.5)
    assert line.runtime_dsc_change == pytest.approx(-0.1)


def test_why_no_runtime_computed_it_is_told() -> None:
    rows = [a_row(FP32, "", "", {"liver": 0.9}), a_row("W4A4", "adaptive", "rtn", {"liver": 0.9}, no_runtime="Never.")]
    rows.append(a_row("W4A4", "per-tensor", PRODUCT, {"liver": 0.9}, no_runtime="It failed."))
    table = tables(summarize(rows), [])[1]
    assert "No runtime for net FP32: It is not installed." in table.note
    assert "No runtime for net W4A4: It failed." in table.note and "Never." not in table.note


def test_the_split_stands_under_the_scores() -> None:
    rows = [a_row(FP32, "", "", {"liver": 0.9}, split=split, case_id=split) for split in ("val", "test")]
    assert "split val and test" in tables(summarize(rows), [])[0].note
    assert "split" not in tables(summarize([a_row(FP32, "", "", {"liver": 0.9})]), [])[0].note


def test_the_number_of_structures_stands_in_the_table() -> None:
    rows = [a_row(FP32, "", "", {"liver": 0.9, "spleen": 0.8}), a_row("W4A4", "", "", {"liver": 0.6, "spleen": 0.5})]
    rows += [a_row(FP32, "", "", {"aorta": 0.9, "spleen": 0.8}, case_id="two")]
    assert [line.structures for line in summarize(rows)] == [3, 2]
    table = tables(summarize(rows), [])[0]
    assert [row[table.head.index("structures")] for row in table.rows] == ["3", "2"]


def printed(lines: list[Line], width: int) -> str:
    """What the command prints where there is no terminal."""
    stream = io.StringIO()
    for table in tables(lines, findings(lines)):
        _show(Session(Console(file=stream, width=width, emoji=False)), table)
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_no_figure_is_cut_in_a_terminal(width: int) -> None:
    ran = {"runtime": "openvino int8 on CPU, integer kernels", "runtime_kind": "openvino", "runtime_dsc": 0.5}
    ran |= {"runtime_structures": [{"name": "liver", "dsc": 0.5, "nsd": 0.5}], "processor": "A long name @ 2.10GHz"}
    grid = [(p, grain, "permutation-comq") for p in ("W8A8", "W4A4") for grain in ("per-channel/token", "adaptive")]
    numbers = iter(np.random.default_rng(0).uniform(0.2, 0.9, 1000))
    rows = []
    for precision, grain, method in (*SETTINGS, *grid, ("W8A8", "per-tensor", PRODUCT)):
        for case in ("one", "two") if precision == FP32 or method == PRODUCT else ("two",):
            other = ran | {"runtime_seconds": next(numbers)} if method == PRODUCT or precision == FP32 else {}
            bits = {"effective_bits": round(10 * next(numbers), 2), "case_id": case, "bytes": 123_456_789}
            row = a_row(precision, grain, method, {"liver": next(numbers)}, model="a_long_name_of_a_network_2", **bits)
            rows.append(row | other)
    rows.append(a_row(FP32, "", "", {"liver": 0.9}, model="other"))
    lines = summarize(rows)
    text = printed(lines, width)
    for line in lines:
        figures = [f"{line.dsc:.3f}", f"{line.nsd:.3f}", f"{line.effective_bits:.1f}"]
        figures += [] if line.precision == FP32 else [f"{line.dsc_drop:.1f}", f"{line.nsd_drop:.1f}"]
        (shown,) = (
            one
            for one in text.partition("Size and latency")[0].splitlines()
            if one.split()[:1] == [line.precision]
            and {line.granularity, line.method} - {""} <= set(one.split())
            and figures[0] in one.split()
        )
        assert set(figures) <= set(shown.split())
        if line.runtime:
            assert f"{line.runtime_dsc_change:+.3f}" in text
            gain = line.gain_over(next(one for one in lines if one.model == line.model and one.precision == FP32))
            assert gain is not None and f"{gain:.2f}{TIMES}" in text
    assert "…" not in text
    words = " ".join(text.split())
    assert "a_long_name_of_a_network_2 (CNN), 2 cases, 1 structure" in words and "W4A4 adaptive rtn: 1 case" in words
    for told in (*(one.claim for one in findings(lines)), "that is, simulated", "the median of 3 passes"):
        assert told in words
    assert "FP32, W4A4, W8A8 on A long name @ 2.10GHz, 2 threads." in words
    assert "No runtime for other FP32: It is not installed." in words


def test_names_do_not_become_markup(tmp_path) -> None:
    lines = summarize([a_row(FP32, "", "", {"liver": 0.5}, model="<b>|net")])
    text, page = (path.read_text(encoding="utf-8") for path in write_tables(tables(lines, []), tmp_path))
    assert "<b>" not in page and "&lt;b&gt;|net" in page
    assert "<b>\\|net" in text

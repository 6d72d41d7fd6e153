"""The report: the numbers of the comparison, nothing of the patient, nothing from outside."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from medquant.commands.tables import models_table
from medquant.errors import UserError
from medquant.evaluation import wording
from medquant.evaluation.compare import ModelFacts, compare
from medquant.evaluation.report import ReportDetails, write_report
from medquant.quantized_model import LayerReport, QuantizationReport
from medquant.sensitivity.effects import LayerEffect, SensitivityMap
from medquant.sensitivity.trials import roundings_of

ORGANS = {1: "liver", 2: "spleen"}
VOID = {"meta", "br", "image", "path", "use", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Tables as lists of rows of texts, every address, and whether all elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("href", "src", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] = (self.tables[-1][-1][-1] + data).strip()


@pytest.fixture
def segmentations(make_segmentation, two_organs):
    fp32 = make_segmentation(two_organs, ORGANS, name="FP32 of /home/jane/doe", seconds=7.71, peak_memory_mb=1840.0)
    fp32 = replace(fp32, volume=replace(fp32.volume, name="DOE^JANE 1961-03-04"))
    changed, broken = two_organs.copy(), np.where(two_organs == 2, 0, two_organs)
    changed[2, 8:14], broken[4:7, 8:20] = 0, 0
    return [
        fp32,
        replace(fp32, labels=changed, model_name="W4", seconds=1.02, peak_memory_mb=905.0),
        replace(fp32, labels=broken, model_name="W2", seconds=9.5),
    ]


@pytest.fixture
def comparison(segmentations):
    facts = [
        ModelFacts("Small SAM", 32, 32.0, 7_700_000, 15_340_000, device="CPU"),
        ModelFacts("Small SAM W4", 4, 4.28, 2_100_000, 15_340_000, False, "CPU", "W4, per-channel, comq"),
        ModelFacts("Small SAM W2", 2, 2.31, 1_300_000, 15_340_000, True, "CPU", "W2, per-group of 64, comq"),
    ]
    return compare(segmentations, reference=segmentations[1], facts=facts)


@pytest.fixture
def layers():
    def report(bits: int) -> QuantizationReport:
        found = tuple(
            LayerReport(f"encoder.{n}.lin", "Linear", (64, 32), bits, bits + 0.3, 0.01 * (n + 1) / bits, 0.1)
            for n in range(8)
        )
        return QuantizationReport(found, {"encoder.embed": "raw intensities"}, bits + 0.3, bits + 0.5, 999)

    return {"Small SAM W4": report(4), "Small SAM W2": report(2)}


@pytest.fixture
def text(comparison, segmentations, layers, tmp_path):
    details = ReportDetails(
        model="Small SAM", scan="phantom <1>", demonstration="Trained on procedural images.", weights_hash="ab" * 32
    )
    path = write_report(tmp_path / "report.html", comparison, segmentations, details=details, layers=layers)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_every_element_is_closed(text):
    page = Page(text)
    assert page.open == [] and len(page.tables) == 3


def test_structure_table_holds_the_numbers_of_the_json(text, comparison):
    lines = Page(text).tables[1][2:]
    data = comparison.to_dict()["structures"]
    in_order = [row for name in ORGANS.values() for row in data if row["structure"] == name]
    assert len(lines) == len(in_order) == 6
    for line, row in zip(lines, in_order, strict=True):
        if row["model"] != "Small SAM":
            assert line[2:5] == [
                wording.score(row["dsc_vs_fp32"]),
                wording.score(row["nsd_vs_fp32"]),
                wording.distance(row["hd95_mm_vs_fp32"]),
            ]
            assert line[9:] == [wording.change(row["volume_change_ml"]), wording.change(row["volume_change_percent"])]
        assert line[5:9] == [
            wording.score(row["dsc_vs_reference"]),
            wording.score(row["nsd_vs_reference"]),
            wording.distance(row["hd95_mm_vs_reference"]),
            wording.volume(row["volume_ml"]),
        ]


def test_model_table_holds_the_numbers_of_the_json(text, comparison):
    lines = Page(text).tables[0][2:]
    for line, model in zip(lines, comparison.to_dict()["models"], strict=True):
        stored = model["bytes_fp32"] if model["weight_bits"] == 32 else model["bytes_on_disk"]
        assert line[5:12] == [
            wording.score(model["dsc_vs_reference"]),
            wording.score(model["nsd_vs_reference"]),
            wording.distance(model["hd95_mm_vs_reference"]),
            wording.bits(model["effective_bits"]),
            wording.size(stored),
            wording.seconds(model["seconds"]),
            wording.memory(model["peak_memory_mb"]),
        ]
    assert [line[0] for line in lines] == ["FP32", "4-bit", "2-bit"]
    assert [line[12].removesuffix("CPU") for line in lines] == ["float32", "int8 kernels", "simulated"]


def test_what_a_reader_must_know_is_said(text):
    words = " ".join(" ".join(Page(text).words).split())
    assert "Not for clinical use" in words and "Demonstration model." in words
    assert "W4, per-channel, comq" in words and "phantom <1>" in words
    assert "2-bit: 1 structure found by only one of it and FP32" in words
    assert "Slower than FP32 on this machine: 2-bit" in words
    assert "raw intensities" in words


def test_nothing_comes_from_outside(text):
    assert all(address.startswith(("#", "data:")) for address in Page(text).addresses)
    assert not re.search(r"https?:|url\(|@import|srcset", text)


def test_nothing_names_the_patient(text):
    for secret in ("DOE", "JANE", "jane", "1961", "/home"):
        assert secret not in re.sub(r"base64,[^\"]+", "", text)


def test_layers_stand_in_network_order_with_the_worst_in_bold(text):
    lines = Page(text).tables[2][1:]
    assert [line[0] for line in lines] == [f"encoder.{n}.lin" for n in range(8)]
    assert lines[7][3:] == ["4 bits", ".020", "2 bits", ".040"]
    assert text.count("<b>.020</b>") == 2  # fifth largest at 2 bits and the largest at 4 bits
    assert "<b>.003</b>" not in text


def _map(view: str, losses: dict[str, tuple[float | None, ...]], what: str = "weights") -> SensitivityMap:
    """Layers with their losses at 2, 4 and 8 bits; None: not measured."""
    roundings = roundings_of((2, 4, 8), what)
    masks = view != "proxy"
    cells = [
        LayerEffect(layer, "Linear", (64, 32), 0.25, r, view, 0.5 if masks else loss, dsc_loss=loss if masks else None)
        for layer, row in losses.items()
        for r, loss in zip(roundings, row, strict=True)
        if loss is not None
    ]
    return SensitivityMap(tuple(losses), roundings, tuple(cells))


LOSSES = {
    **{f"encoder.{n}.lin": (0.012 * (n + 1), 0.001 * n, 0.0) for n in range(7)},
    "encoder.7.lin": (0.21, -0.02, 0.0),
    "encoder.8.lin": (None, None, None),
}


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ("one-at-a-time", "the Dice against FP32 that this costs"),
        ("incremental", "the Dice that sparing it gains"),
        ("proxy", "Masks were not looked at"),
    ],
)
def test_the_map_of_layers_is_drawn_where_it_was_measured(comparison, segmentations, tmp_path, view, words):
    path = tmp_path / "map.html"
    write_report(path, comparison, segmentations, sensitivity=_map(view, LOSSES))
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and words in text
    head, *lines = page.tables[2]
    assert head == ["Layer", "Kind", "Shape", "Weights", "8 bits", "4 bits", "2 bits"]
    assert [line[0] for line in lines] == [f"encoder.{n}.lin" for n in range(8)], "what was not measured is left out"
    assert lines[3][4:] == ["0.00", "0.3", "4.8"] and lines[7][4:] == ["0.00", "-2.0", "21"]
    colors = re.findall(r'class="cell" style="background: (#\w+); color: (#\w+)"', text)
    assert colors[-1] == ("#3d1654", "#ffffff") and colors[-2][0] == colors[0][0] == "#ffffff"
    assert text.count("<b><code>") == 5 and "<b><code>encoder.2.lin" not in text
    assert re.findall(r"<li><b>([\d.]+) %</b> <code>(.*?)</code>", text)[0] == ("21", "encoder.7.lin")
    assert '<details class="map" open>' in text, "few layers are shown, and printed"


def test_types_of_layers_the_reference_and_the_agreement_of_views_are_told(comparison, segmentations, tmp_path):
    rows = list(LOSSES.values())
    other = dict(zip(LOSSES, [*rows[3:8], *rows[:3], rows[8]], strict=True))
    found, own = _map("incremental", LOSSES), _map("proxy", other)
    against = [replace(cell, effect=cell.dsc_loss, reference_loss=cell.dsc_loss / 2) for cell in found.cells]
    types = [replace(against[n], layer="Linear MLP", kind="Linear MLP", dsc_loss=0.4 / 2**n) for n in range(3)]
    whole = replace(found, cells=(*against, *own.cells), types=tuple(types), fp32_vs_reference=0.784)
    path = write_report(tmp_path / "map.html", comparison, segmentations, sensitivity=whole)
    page = Page(path.read_text(encoding="utf-8"))
    text = " ".join(" ".join(page.words).split())
    assert page.open == []
    head, line = page.tables[2]
    assert head[:5] == ["All layers of one type spared", "Weights", "8 bits", "4 bits", "2 bits"]
    assert line[0] == "Linear MLP" and line[2:5] == ["10", "20", "40"]
    layers = page.tables[3]
    assert len(layers[0]) == 10 and layers[8][-3:] == [".000", "\N{MINUS SIGN}.010", ".105"], "half of what FP32 lost"
    assert "FP32 has a mean Dice of .784" in text
    lines = re.findall(r"one spared at a time and the quick estimate: (\S+) at 2 bits, (\S+) at 4 bits", text)
    meant = [row["spearman"] for row in whole.rank_agreement()[:2]]
    assert [float(value.replace("\N{MINUS SIGN}", "-")) for value in lines[0]] == pytest.approx(meant, abs=0.005)


def test_many_layers_are_folded(comparison, segmentations, tmp_path):
    path = tmp_path / "map.html"
    many = {f"layers.{n}": (0.1, 0.01, 0.0) for n in range(300)}
    write_report(path, comparison, segmentations, sensitivity=_map("proxy", many, "both"))
    text = path.read_text(encoding="utf-8")
    assert '<details class="map">' in text and "(weights and activations)" in text
    assert len(Page(text).tables[2]) == 301


def test_each_picture_is_embedded_once(text):
    pictures = re.findall(r'id="(slice-\d+)"[^>]*href="data:image/png;base64,', text)
    assert len(pictures) == len(set(pictures)) == 3
    assert all(text.count(f'<use href="#{picture}"/>') == 2 for picture in pictures)


def test_without_facts_reference_or_layers(segmentations, tmp_path):
    path = write_report(tmp_path / "plain.html", compare(segmentations[1:]), segmentations[1:])
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == [] and len(page.tables) == 2
    assert "No quantized model keeps the masks of FP32" in " ".join(" ".join(page.words).split())


def test_masks_from_files_have_no_columns_of_cost(segmentations, tmp_path):
    files = [replace(s, seconds=None, peak_memory_mb=None) for s in segmentations]
    page = Page(write_report(tmp_path / "files.html", compare(files), files).read_text(encoding="utf-8"))
    assert page.tables[0][1] == ["Model", "Masks", "meanDice", "worst structure", "volumemL"]
    assert all(len(line) == 5 for line in page.tables[0][2:])


def test_models_that_agree_are_said_to(segmentations, tmp_path):
    twins = [segmentations[1], replace(segmentations[1], model_name="W8")]
    words = " ".join(write_report(tmp_path / "same.html", compare(twins), twins).read_text(encoding="utf-8").split())
    assert "No model differs from FP32" in words and "Masks as FP32: <b>W8</b>" in words
    assert "Smallest model" not in words, "nothing is known of their sizes"


def test_the_smallest_is_the_one_that_the_terminal_names_and_memory_ranks_nobody(segmentations, tmp_path):
    small = replace(segmentations[0], model_name="W8", peak_memory_mb=900.0)
    twins = [segmentations[0], small, replace(small, model_name="W4", peak_memory_mb=700.0)]
    facts = [
        ModelFacts("net FP32", 32, 32.0, 7_700_000, 15_340_000),
        ModelFacts("net W8", 8, 8.3, 2_000_000, 15_340_000),
        ModelFacts("net W4", 4, 4.2, 2_100_000, 15_340_000),  # fewer bits, more bytes: the file counts
    ]
    comparison = compare(twins, facts=facts)
    text = write_report(tmp_path / "report.html", comparison, twins).read_text(encoding="utf-8")
    words = " ".join(text.split())
    assert "with masks as FP32: <b>8-bit</b>, Dice 1.000 against FP32; 2.0 MB, 7.7 times smaller than in FP32" in words
    table = models_table(comparison.summary, has_reference=False)
    bold = [cell for cell, row in zip(table.columns[0].cells, table.rows, strict=True) if row.style == "bold"]
    assert bold == ["8-bit"]
    assert "<b>2.0 MB</b>" in text and "<td>700 MB</td>" in text and "<b>700 MB</b>" not in text


def test_empty_masks_make_a_report_too(make_segmentation, tmp_path):
    empty = make_segmentation(np.zeros((3, 16, 16), np.uint8), ORGANS, name="FP32")
    pair = [empty, replace(empty, model_name="W4")]
    page = Page(write_report(tmp_path / "empty.html", compare(pair), pair).read_text(encoding="utf-8"))
    assert page.open == []


def test_segmentations_that_were_not_compared_are_refused(comparison, segmentations, tmp_path):
    with pytest.raises(UserError, match="that were compared"):
        write_report(tmp_path / "report.html", comparison, segmentations[:2])


def test_a_folder_that_cannot_be_written_is_named(comparison, segmentations, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Cannot write"):
        write_report(tmp_path / "file" / "report.html", comparison, segmentations)


def test_bits_of_the_weights_and_of_everything_stand_side_by_side(text):
    words = " ".join("".join(Page(text).words).split())
    assert "4.30 bits for each weight, 4.50 with all that is stored beside the weights" in words
    assert "2.30 bits for each weight, 2.50 with all that is stored beside the weights" in words


def test_the_slice_that_the_verdict_names_is_shown_and_said(make_segmentation, tmp_path):
    """Many voxels at the rims of other slices do not push it out."""
    before = np.zeros((60, 120, 120), np.uint8)
    before[5:55, 10:110, 10:80] = 1
    before[30:50, 40:70, 90:110] = 1
    after = before.copy()
    after[38, 40:70, 90:110] = 0
    for index in (8, 14, 20, 26):
        after[index, 10:110, 10:18] = 0
    names = {1: "liver"}
    pair = [make_segmentation(before, names, name="FP32"), make_segmentation(after, names, name="W4")]
    comparison = compare(pair)
    assert comparison.summary[1].verdict_slice == 38
    text = "".join(Page(write_report(tmp_path / "r.html", comparison, pair).read_text(encoding="utf-8")).words)
    assert "visible loss: look (liver, slice 39: 600 voxels only in FP32)." in text
    assert "slice 39 of 60" in text


def test_notes_of_the_caller_are_read_with_the_numbers(make_segmentation, two_organs, tmp_path):
    pair = [make_segmentation(two_organs, name=name) for name in ("FP32", "W4")]
    details = ReportDetails(notes=("Masks of W4 were edited by hand.",))
    text = write_report(tmp_path / "r.html", compare(pair), pair, details=details).read_text(encoding="utf-8")
    assert "Masks of W4 were edited by hand." in text

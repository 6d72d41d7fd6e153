"""The commands, end to end on a small scan: files, JSON, and what is printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from medquant import __version__, load_model

COMMANDS = (
    "demo", "models", "series", "quantize", "segment", "compare", "export-mask", "bench solver", "bench quality",
    "bench footprint", "bench runtime", "bench pipeline", "bench autoquant",
    "rewrites", "bench rewrites", "bench redesign", "bench sensitivity", "bench activations",
    "sensitivity", "autoquant", "activations", "doctor", "cache", "export", "train-demo", "worker",
)  # fmt: skip

BOX = "liver=10,10,0,40,50,3"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(medquant, command: str) -> None:
    result = medquant(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"medquant {command}" in result.stdout.partition("Examples")[2]


def test_the_whole_is_explained_without_arguments(medquant) -> None:
    result = medquant("--help")
    assert "Not for clinical use" in result.stdout
    assert "130 stopped" in result.stdout
    assert medquant("--version").stdout.strip() == f"medquant {__version__}"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from medquant.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'SimpleITK', 'monai', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_quantize_segment_compare_export(medquant, scan: Path, small_sam: Path, tmp_path: Path) -> None:
    ct = scan / "ct.nii.gz"
    made = medquant("quantize", ct, "--model", small_sam, "--bits", "4", "--slices", "2",
                    "-o", "small-w4.mq.safetensors", "--json", "quantized.json")  # fmt: skip
    assert made.exit_code == 0, made.output
    report = json.loads(Path("quantized.json").read_text())
    assert report["bytes_on_disk"] == Path("small-w4.mq.safetensors").stat().st_size
    assert report["recipe"]["weights"]["bits"] == 4
    assert report["layers"] and report["effective_bits"] < 16

    boxes = ("--boxes-from", scan / "labels.nii.gz", "--names", "1=spleen,5=liver", "--structures", "liver,spleen")
    assert medquant("segment", ct, "-m", small_sam, *boxes, "-o", "fp32.seg.nrrd").exit_code == 0
    result = medquant("segment", ct, "-m", "small-w4.mq.safetensors", *boxes, "-o", "w4.nii.gz", "--json", "-")
    assert result.exit_code == 0
    assert [s["name"] for s in json.loads(result.stdout)["structures"]] == ["spleen", "liver"]

    result = medquant("compare", "fp32.seg.nrrd", "w4.nii.gz", "--names", "1=spleen,5=liver", "--labels", "FP32,W4",
                      "--reference", scan / "labels.seg.nrrd", "--volume", ct, "--report", "report.html",
                      "--figure", "figure.png", "--csv", "table.csv", "--json", "-")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [model["name"] for model in found["models"]] == ["FP32", "W4"]
    assert found["models"][0]["dsc_vs_fp32"] == 1.0
    assert found["has_reference"]
    height, width, _ = imread("figure.png").shape
    assert height > 1.5 * width, "three slices, outlines and differences of two masks"
    assert Path("table.csv").read_text().count("\n") == 1 + 2 * 2 + 2
    page = Path("report.html").read_text(encoding="utf-8")
    assert "fp32.seg" not in page and "w4.nii" not in page, "file names may name a patient"

    result = medquant("compare", "fp32.seg.nrrd", "w4.nii.gz", "--names", "1=spleen,5=liver", "--structures", "liver",
                      "--reference", scan / "labels.seg.nrrd", "--json", "-")  # fmt: skip
    assert {row["structure"] for row in json.loads(result.stdout)["structures"]} == {"liver"}
    result = medquant("compare", "fp32.seg.nrrd", "w4.nii.gz", "--structures", "heart")
    assert result.exit_code == 2 and "heart" in result.stderr

    result = medquant("export-mask", "fp32.seg.nrrd", "--to", "mha")
    assert result.exit_code == 0
    assert Path("fp32.mha").is_file()
    assert not list(tmp_path.glob(".writing-*"))


def test_a_typed_box_and_the_default_name(medquant, scan: Path, small_sam: Path) -> None:
    result = medquant("segment", scan / "ct.nii.gz", "--model", small_sam, "--box", BOX)
    assert result.exit_code == 0, result.output
    assert "liver:" in result.stdout
    assert [path.name for path in Path().glob("*.seg.nrrd")] == [f"ct-{small_sam.name}.seg.nrrd"]


def test_the_embedded_model_finds_the_liver_of_the_phantom(medquant, scan: Path) -> None:
    boxes = ("--boxes-from", scan / "labels.seg.nrrd", "--structures", "liver", "--per-slice")
    words = (scan / "ct.nii.gz", *boxes, "-o", "liver.seg.nrrd", "--runtime", "pytorch")
    assert medquant("segment", *words).exit_code == 0
    result = medquant("compare", "liver.seg.nrrd", "--reference", scan / "labels.seg.nrrd", "--json", "-")
    assert json.loads(result.stdout)["models"][0]["dsc_vs_reference"] > 0.8


def test_a_recipe_is_kept_by_the_quantized_model(medquant, scan: Path, small_sam: Path) -> None:
    from medquant.recipe import Recipe

    Path("recipe.json").write_text(Recipe(method="rtn").to_json())
    result = medquant("quantize", scan / "ct.nii.gz", "--model", small_sam, "--recipe", "recipe.json", "--bits", "3",
                      "--granularity", "per-tensor", "--symmetric", "--slices", "1", "--where", "even",
                      "--ignore", "mask_decoder.*", "--json", "-")  # fmt: skip
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert (data["recipe"]["method"], data["recipe"]["weights"]["granularity"]["kind"]) == ("rtn", "per-tensor")
    assert any(name.startswith("mask_decoder.") for name in data["kept"])
    assert not any(layer["name"].startswith("mask_decoder.") for layer in data["layers"])
    again = medquant("quantize", scan / "ct.nii.gz", "--model", data["output"])
    assert again.exit_code == 2
    assert "quantized already" in again.stderr


def test_the_demonstration_on_a_scan_of_ones_own(medquant, scan: Path, small_sam: Path) -> None:
    result = medquant("demo", "--volume", scan / "ct.nii.gz", "--reference", scan / "labels.seg.nrrd",
                      "--structures", "liver,spleen", "--model", small_sam, "--bits", "8,2", "--slices", "2",
                      "--output", "out", "--json", "-")  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["weight_bits"] for row in rows] == [32, 8, 2]
    needed = {"name", "weight_bits", "effective_bits", "bytes_on_disk", "dsc_vs_fp32", "dsc_vs_reference",
              "nsd_vs_reference", "seconds", "peak_memory_mb"}  # fmt: skip
    for row in rows:
        assert needed <= set(row)
        assert all(row[name] is not None for name in needed)
        assert Path(row["mask"]).is_file()
    assert rows[0]["dsc_vs_fp32"] == 1.0
    assert 32 == rows[0]["effective_bits"] > rows[1]["effective_bits"] > rows[2]["effective_bits"]
    assert rows[0]["bytes_on_disk"] == (small_sam / "model.safetensors").stat().st_size
    assert rows[1]["bytes_on_disk"] > rows[2]["bytes_on_disk"]
    assert {row["bytes_fp32"] for row in rows} == {4 * load_model(small_sam).network.num_parameters()}
    for row in rows[1:]:
        assert (
            row["bytes_on_disk"]
            == (Path("out") / f"{small_sam.name}-w{row['weight_bits']}.mq.safetensors").stat().st_size
        )
    names = {path.name for path in Path("out").iterdir()}
    assert {"report.html", "figure.png", "comparison.csv", "comparison.json", "fp32.seg.nrrd", "w2.seg.nrrd"} <= names
    assert not any(name.startswith(".") for name in names)
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "ot for clinical use" in page
    assert "ct.nii" not in page


def test_the_masks_of_the_demonstration_are_those_of_its_files(medquant, scan: Path, small_sam: Path) -> None:
    import SimpleITK as sitk

    arguments = ("--volume", scan / "ct.nii.gz", "--model", small_sam, "--box", BOX)
    result = medquant("demo", *arguments, "--bits", "4", "--slices", "2", "--output", "out", "--no-open")
    assert result.exit_code == 0, result.output
    assert "as given" in result.stdout
    (file,) = Path("out").glob("*-w4.mq.safetensors")
    assert medquant("segment", scan / "ct.nii.gz", "-m", file, "--box", BOX, "-o", "again.seg.nrrd").exit_code == 0
    one, other = (sitk.GetArrayFromImage(sitk.ReadImage(name)) for name in ("out/w4.seg.nrrd", "again.seg.nrrd"))
    assert (one == other).all()


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def test_only_json_on_standard_output_whatever_libraries_print(scan: Path, small_sam: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys, medquant.segment as engine\n"
        "inner = sys.modules['medquant.segment'].segment\n"
        "def noisy(*a, **k):\n"
        "    print('library chatter'); os.system('echo chatter of a child'); return inner(*a, **k)\n"
        "sys.modules['medquant.segment'].segment = noisy\n"
        "from medquant.cli import main; main()"
    )
    arguments = [
        "segment",
        str(scan / "ct.nii.gz"),
        "-m",
        str(small_sam),
        "--box",
        BOX,
        "-o",
        "m.nii.gz",
        "--runtime",
        "pytorch",
        "--json",
        "-",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == "m.nii.gz"
    assert "library chatter" in done.stderr and "chatter of a child" in done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_first_signal_asks_and_the_second_stops(name: str) -> None:
    from medquant.commands.session import session

    number = getattr(signal, name)
    before = signal.getsignal(number)
    with session() as run, pytest.raises(KeyboardInterrupt), run.track("Working") as (_, cancelled):
        assert not cancelled()
        signal.raise_signal(number)
        assert cancelled()
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals for one process")
def test_ctrl_c_stops_without_a_file(scan: Path, tmp_path: Path) -> None:
    arguments = ["quantize", str(scan / "ct.nii.gz"), "--slices", "1", "--output", "never.mq.safetensors"]
    process = subprocess.Popen(
        [sys.executable, "-m", "medquant", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=_environment(),
    )  # fmt: skip
    for line in process.stdout:
        if "Quantizing layer" in line:
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "Stopped" in errors
    assert "Traceback" not in output + errors
    assert list(tmp_path.iterdir()) == []

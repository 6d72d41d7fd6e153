"""Quantized diffusion: the sampler, what is compared with what, and what rounding does to images."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from monai.metrics import PSNRMetric
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from medquant.bench.generation.calibration import own_ways
from medquant.bench.generation.figure import write_figure
from medquant.bench.generation.measure import REAL, Measured, Row, differences, run
from medquant.bench.generation.sampling import generated, noise_of, states
from medquant.bench.generation.settings import MEDQUANT, NEAREST, PAPER, Setting, settings
from medquant.bench.quality import recipes
from medquant.cli import app
from medquant.commands.bench_generation import print_generation
from medquant.commands.session import Session
from medquant.embedded.diffusion_demo.configuration import images_of, load_weights, save_weights
from medquant.models.catalogue import EMBEDDED_DIFFUSION
from medquant.progress import Progress
from medquant.recipe import IntWeights, Recipe


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return load_weights(EMBEDDED_DIFFUSION)


class Straight(nn.Module):
    """The velocity that leads from anywhere straight to one image."""

    def __init__(self, target: torch.Tensor) -> None:
        super().__init__()
        self.target = target

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return (self.target - latents) / (timesteps.float() / 1000)[:, None, None, None]


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_a_straight_way_ends_at_its_image_in_any_number_of_steps(steps: int) -> None:
    target = torch.rand(1, 4, 32, 32) * 1.8 - 0.9
    found = generated(Straight(target), noise_of(2, 0), steps)
    assert torch.allclose(found, images_of(target).expand(2, -1, -1, -1), atol=1e-4)


def test_the_same_noise_gives_the_same_images_however_many_there_are(network: nn.Module) -> None:
    noise = noise_of(3, 0)
    assert torch.equal(noise[:2], noise_of(2, 0)) and not torch.equal(noise[0], noise[1])
    found = generated(network, noise, 2)
    assert found.shape == (3, 1, 64, 64) and float(found.abs().max()) <= 1
    assert torch.equal(found, generated(network, noise, 2))
    assert torch.allclose(found[:1], generated(network, noise[:1], 2), atol=1e-4)


def test_calibration_sees_every_timestep_of_the_way(network: nn.Module) -> None:
    noise = noise_of(1, 5)
    latents, timesteps = states(network, noise, 4)
    assert timesteps.tolist() == [1000, 750, 500, 250]
    assert torch.equal(latents[:1], noise)
    batches = own_ways(network, 2, 4, Progress())
    assert [tuple(part.shape) for part in batches[0].inputs] == [(4, 4, 32, 32), (4,)]
    assert not torch.equal(batches[0].inputs[0], batches[1].inputs[0])
    assert bool((batches[0].focus == 1).all())


def test_differences_are_means_over_images() -> None:
    black, image = -torch.ones(2, 1, 4, 4), -torch.ones(2, 1, 4, 4)
    assert differences(image, black) == (100.0, 0.0)
    image[1] += 0.2  # squared 0.04 of a range of 2: 20 dB; a tenth of 400 HU
    psnr, off = differences(image, black)
    assert psnr == pytest.approx((100 + 20) / 2, abs=1e-4) and off == pytest.approx(20, abs=1e-4)
    theirs = PSNRMetric(max_val=2)(image[1:], black[1:])
    assert differences(image[1:], black[1:])[0] == pytest.approx(float(theirs), abs=1e-4)


def test_rows_have_the_papers_precisions_and_the_products() -> None:
    names = [(one.precision, one.method) for one in settings()]
    assert names[:4] == [(p, m) for p in ("W8A8", "W4A4") for m in (MEDQUANT, PAPER)]
    assert names[4:] == [("W8", MEDQUANT)] + [(p, m) for p in ("W4", "W2") for m in (MEDQUANT, NEAREST)]
    assert [one.precision for one in settings(["W2", "W8A8"])] == ["W8A8", "W8A8", "W2", "W2"]
    assert settings(["W4"])[0].recipe == Recipe(weights=IntWeights(4))


def test_a_run_tells_how_far_all_rows_are_from_real_slices_and_from_fp32(tmp_path) -> None:
    eight_bits = [Setting("W8", NEAREST, recipe) for _, _, recipe in recipes(("rtn",), (8,), ("plain",))]
    others = [one for one in settings(["W4A4", "W2"]) if one.method != MEDQUANT]
    measured = run(images=2, steps=3, compared=[*eight_bits, *others])
    whole, eight, four, two = measured.rows
    assert [row.name for row in measured.rows] == ["FP32", "W8 rtn", "W4A4 per-tensor rtn", "W2 rtn"]
    assert whole.psnr is None and eight.psnr > four.psnr + 6 and eight.psnr > two.psnr + 6
    assert eight.mae_hu < four.mae_hu and eight.mae_hu < two.mae_hu
    assert whole.bytes_on_disk > eight.bytes_on_disk > four.bytes_on_disk > two.bytes_on_disk
    assert min(measured.fid_of_slices, measured.fid_again, *(row.fid for row in measured.rows)) > 0
    assert measured.fid_again != whole.fid < two.fid and two.quantizing_peak_mb > 0
    assert [*measured.samples] == [REAL, *(row.name for row in measured.rows)]
    assert not whole.simulated and eight.simulated
    told = measured.to_dict()
    assert len(told["rows"]) == 4 and "samples" not in told and "image encoder" in told["features"]
    drawn = write_figure(measured, tmp_path / "samples.png")
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_the_table_is_whole_in_80_columns_and_says_what_it_is() -> None:
    row = Row("W4A4", PAPER, "", 1234.5678, 12.34, 123.4, 711_568, 4.31, 1.234, True)
    whole = Row("FP32", "", "", 8.1, None, None, 4_458_128, 32.0, 0.1, False)
    measured = Measured((whole, row), 1.2, 8.3, 192, 20, "F", "Abacus, threads: 2", {})
    stream = io.StringIO()
    print_generation(Session(Console(file=stream, width=80, emoji=False)), measured)
    told = stream.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in told
    (line,) = (one for one in told.splitlines() if one.startswith("W4A4"))
    assert all(word in line for word in (PAPER, "1234.568", "12.3 dB", "123.4", "4.31"))
    assert all(word in told for word in ("1.200", "8.300", "Abacus", "not MAISI", "simulated"))


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("--precision", "W3"), "W8A8"),
        (("--images", "1"), "2 to 2000"),
        (("--images", "2001"), "2 to 2000"),
        (("--weights", "nowhere"), "There is no file"),
        (("--steps", "0"), "Choose 20"),
        (("--figure", "samples.gif"), ".png"),
    ],
)
def test_mistakes_are_told_before_anything_long(words: tuple[str, ...], advice: str) -> None:
    result = CliRunner().invoke(app, ["bench", "generation", *words])
    assert result.exit_code == 2 and advice in " ".join(result.output.split())


def test_weights_of_ones_own_are_measured(network: nn.Module, tmp_path) -> None:
    halved = copy.deepcopy(network)
    halved.out[-1].conv.weight.data /= 2
    save_weights(halved, tmp_path, {})
    ours, given = (run(images=2, steps=1, compared=[], weights=folder) for folder in (EMBEDDED_DIFFUSION, tmp_path))
    assert not torch.equal(ours.samples["FP32"], given.samples["FP32"])
    assert torch.equal(ours.samples[REAL], given.samples[REAL])

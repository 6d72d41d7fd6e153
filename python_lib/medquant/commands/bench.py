"""`medquant bench`: the figures that the README quotes, measured here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medquant.commands import (
    bench_activations,
    bench_generation,
    bench_medquanbench,
    bench_permutation_comq,
    bench_sensitivity,
)
from medquant.commands import options as o
from medquant.commands.app import need_window
from medquant.commands.bench_tables import (
    print_autoquant,
    print_facts,
    print_pipeline,
    print_quality,
    print_redesign,
    print_rewrites,
    print_runtimes,
    print_window,
)
from medquant.commands.inputs import data_folder
from medquant.commands.session import output_folder, session
from medquant.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    help="Measure what is claimed: quality of the masks, size, time and memory, beside their peers in the same run.",
)
app.command("medquanbench", epilog=bench_medquanbench.EPILOG)(bench_medquanbench.medquanbench)
app.command("permutation-comq", epilog=bench_permutation_comq.EPILOG)(bench_permutation_comq.permutation_comq)
app.command("activations", epilog=bench_activations.EPILOG)(bench_activations.activations)
app.command("sensitivity", epilog=bench_sensitivity.EPILOG)(bench_sensitivity.sensitivity)
app.command("generation", epilog=bench_generation.EPILOG)(bench_generation.generation)
DATA = typer.Option(envvar="MEDQUANT_TEST_DATA", help="Folder of the real scans and weights.")
FloatShare = Annotated[
    float,
    typer.Option(
        metavar="PART",
        help="Of the network with real weights on integers: the part of the arithmetic whose inputs stay in floating "
        "point, as quantize --float-share has it. 0: none.",
    ),
]


@app.command("solver", epilog=o.examples("medquant bench solver --json solver.json"))
def solver(json_target: o.Json = None) -> None:
    """Time all linear layers of a SAM ViT-B encoder at 4 bits against a straightforward COMQ, and compare the codes.

    The straightforward solver keeps every calibration input; it is timed on one layer and extrapolated. Takes some
    minutes.
    """
    from medquant.bench import solver as bench

    with session(json_target) as run:
        with run.track("Solver") as (progress, cancelled):
            result = bench.run(progress=progress, cancelled=cancelled)
        print_facts(run, result)
        run.finish(result)


@app.command("quality", epilog=o.examples("medquant bench quality --data FOLDER --json quality.json"))
def quality(
    data: Annotated[str | None, DATA] = None,
    folds: Annotated[list[int] | None, typer.Option("--fold", help="1 or 2. Repeatable; both if not given.")] = None,
    bits: Annotated[list[int] | None, typer.Option("--bits", help="Repeatable; 8, 4, 3 and 2 if not given.")] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="rtn, comq, permutation-comq or gptq. Repeatable; all if not given."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--settings",
            help="default (the product's), unpruned (the same bits everywhere, no channel left out) or plain "
            "(solver alone). Repeatable; all if not given.",
        ),
    ] = None,
    activations: Annotated[
        list[int] | None,
        typer.Option(help="8 or 4: rows with integer activations, ours and MedQuanBench's, instead. Repeatable."),
    ] = None,
    float_share: FloatShare = 0.15,
    json_target: o.Json = None,
) -> None:
    """Quantize a real 3-D network by every method at 8, 4, 3 and 2 bits, and measure the masks of a real CT.

    Calibrated on one scan, tested on another. All of it takes the better part of an hour; choose a part.
    """
    from medquant.bench import quality as bench

    with session(json_target) as run:
        folder = data_folder(data)
        with run.track("Quality") as (progress, cancelled):
            chosen = {"folds": folds, "bits": bits, "methods": methods, "settings": settings}
            chosen["activations"] = activations
            chosen = {name: tuple(values) for name, values in chosen.items() if values}
            rows = bench.run(data=folder, **chosen, float_share=float_share, progress=progress, cancelled=cancelled)
        print_quality(run, rows)
        run.finish(rows)


@app.command("autoquant", epilog=o.examples("medquant bench autoquant --data FOLDER --json autoquant.json"))
def autoquant(
    data: Annotated[str | None, DATA] = None,
    fold: Annotated[int, typer.Option(help="1 or 2.")] = 2,
    bits: Annotated[
        list[int] | None, typer.Option("--bits", help="Sizes to compare at. Repeatable; 2, 3 and 4 if not given.")
    ] = None,
    json_target: o.Json = None,
) -> None:
    """Compare bits chosen for each layer with the same bits everywhere, at equal size, on a real 3-D network.

    Calibrated on one scan, on which bits are chosen too; tested on another. Takes some forty minutes.
    """
    from medquant.bench import autoquant as bench

    with session(json_target) as run:
        folder = data_folder(data)
        with run.track("Mixed precision") as (progress, cancelled):
            rows = bench.run(
                data=folder, fold=fold, bits=tuple(bits or (2, 3, 4)), progress=progress, cancelled=cancelled
            )
        print_autoquant(run, rows)
        run.finish(rows)


@app.command("rewrites", epilog=o.examples("medquant bench rewrites --data FOLDER --json rewrites.json"))
def rewrites(
    data: Annotated[str | None, DATA] = None,
    folds: Annotated[
        list[int] | None, typer.Option("--fold", help="1 or 2, two networks. Repeatable; both if not given.")
    ] = None,
    roundings: Annotated[
        list[str] | None,
        typer.Option("--rounding", help="W8A8, W4A4, W3 (weights alone) ... Repeatable; these three if not given."),
    ] = None,
    method: Annotated[str, typer.Option(help="rtn, permutation-comq, comq or gptq.")] = "rtn",
    granularity: o.PublishedGranularity = None,
    json_target: o.Json = None,
) -> None:
    """Measure smoothing, low rank, rotation and equalization on real 3-D networks, at several bits.

    Calibrated on one scan, tested on another, organ by organ. What changes Dice by less than .01, no more than another
    calibration does, or is within two standard errors, is called a tie. Takes some ten minutes.
    """
    from medquant.bench import rewrites as bench

    with session(json_target) as run:
        folder, chosen = data_folder(data), {"folds": folds, "roundings": roundings}
        chosen = {name: tuple(values) for name, values in chosen.items() if values}
        with run.track("Rewrites") as (progress, cancelled):
            told = {"progress": progress, "cancelled": cancelled}
            rows = bench.run(data=folder, method=method, granularity=granularity, **chosen, **told)
        print_rewrites(run, rows)
        run.finish(bench.to_dicts(rows))


@app.command("redesign", epilog=o.examples("medquant bench redesign --json redesign.json"))
def redesign(
    steps: Annotated[int, typer.Option(min=1, help="Of the original's training.")] = 400,
    tuning: Annotated[int, typer.Option(min=0, help="Of the training after layers were exchanged.")] = 60,
    json_target: o.Json = None,
) -> None:
    """Exchange 1x3x3 convolutions for 1x1x1, and round that different model beside the original, as in MedQuanBench.

    The network is a small nnU-Net, trained on phantoms within the run. Takes some minutes.
    """
    from medquant.bench import redesign as bench
    from medquant.rewrites.settings import Redesign

    with session(json_target) as run:
        with run.track("Redesign") as (progress, cancelled):
            settings = Redesign(steps=tuning)
            rows = bench.run(steps=steps, redesign=settings, progress=progress, cancelled=cancelled)
        print_redesign(run, rows)
        run.finish(rows)


@app.command("footprint", epilog=o.examples("medquant bench footprint --json footprint.json"))
def footprint(
    bits: Annotated[list[int] | None, typer.Option("--bits", help="Repeatable; 4, 2 and 8 if not given.")] = None,
    json_target: o.Json = None,
) -> None:
    """Quantize MedSAM's network (random weights) with 8 slices: time by stage, memory, and bytes on disk.

    Size and time do not depend on the values of the weights, so nothing is downloaded. Takes some ten minutes.
    """
    from medquant.bench import footprint as bench

    with session(json_target) as run:
        with run.track("Footprint") as (progress, cancelled):
            rows = bench.run(bits=tuple(bits or (4, 2, 8)), progress=progress, cancelled=cancelled)
        for row in rows:
            print_facts(run, row)
        run.finish(rows)


@app.command("runtime", epilog=o.examples("medquant bench runtime --network nnunet --json runtime.json"))
def runtime(
    networks: Annotated[
        list[str] | None,
        typer.Option(
            "--network",
            help="sam-vit-b, nnunet, swinunetr, unetr, segresnet, dynunet, embedded, sam-vit-b-decoder, "
            "embedded-decoder, or allconvunet, which needs --data. Repeatable; all if not given.",
        ),
    ] = None,
    data: Annotated[str | None, DATA] = None,
    runtimes: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            help="pytorch, openvino, onnxruntime, tensorrt or pytorch-compiled. Repeatable; the first two if "
            "not given, on a GPU pytorch and tensorrt.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda for rows of an NVIDIA GPU.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads of every runtime.")] = 2,
    nncf_python: Annotated[
        str | None, typer.Option(help="A Python that has nncf and openvino: adds the rows of its INT8 models.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Folder for quantized and compiled models, to be used by the next run.")
    ] = None,
    float_share: FloatShare = 0.15,
    json_target: o.Json = None,
) -> None:
    """Time each network in each runtime and precision, one process after the other, and compare the masks.

    Everything, nnU-Net and SAM ViT-B at full size included, takes about an hour on two cores; choose a part.
    """
    from medquant.bench import runtime as bench

    with session(json_target) as run:
        with run.track("Runtimes") as (progress, cancelled):
            rows = bench.run(
                networks=networks or (),
                data=None if data is None else data_folder(data),
                runtimes=runtimes or (),
                device=device,
                threads=threads,
                nncf_python=None if nncf_python is None else Path(nncf_python).expanduser(),
                folder=None if keep is None else output_folder(keep, "--keep"),
                float_share=float_share,
                progress=progress,
                cancelled=cancelled,
            )
        print_runtimes(run, rows)
        run.finish(rows)


@app.command("pipeline", epilog=o.examples("medquant bench pipeline --data FOLDER --json pipeline.json"))
def pipeline(
    data: Annotated[str | None, DATA] = None,
    weights: Annotated[
        str | None, typer.Option(help="nnU-Net results folder; a network of full size is made if not given.")
    ] = None,
    int8: Annotated[
        str | None, typer.Option(help="The same network, quantized (medquant quantize); made if not given.")
    ] = None,
    cases: Annotated[
        list[str] | None,
        typer.Option("--case", help="20 (a real CT of 20 slices) or 200 (a phantom). Repeatable; both if not given."),
    ] = None,
    scan: Annotated[str | None, typer.Option(help="A NIfTI file instead of the two cases.")] = None,
    engines: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            help="nnunetv2, pytorch-fp32, openvino-fp32, openvino-bf16 or openvino-int8. Repeatable; all if not given.",
        ),
    ] = None,
    mirroring: Annotated[bool, typer.Option(help="Average over mirrored patches: 8 times the work.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of every engine; its own choice if not.")] = None,
    json_target: o.Json = None,
) -> None:
    """Segment two scans from file to file with nnunetv2's own predictor and with medquant's engines, side by side.

    Every engine has a process of its own: time by stage, peak memory, and how far the masks agree. Takes some twenty
    minutes on two cores.
    """
    from medquant.bench import pipeline as bench

    with session(json_target) as run:
        chosen = {"cases": cases, "contenders": engines}
        chosen = {name: tuple(values) for name, values in chosen.items() if values}
        with run.track("Pipeline") as (progress, cancelled):
            rows = bench.run(
                data=data_folder(data) if data else None,
                weights=None if weights is None else Path(weights).expanduser(),
                int8=None if int8 is None else Path(int8).expanduser(),
                scan=None if scan is None else Path(scan).expanduser(),
                **chosen,
                mirroring=mirroring,
                threads=threads,
                progress=progress,
                cancelled=cancelled,
            )
        print_pipeline(run, rows)
        run.finish(rows)


@app.command("window", epilog=o.examples("medquant bench window --data FOLDER --json window.json"))
def window(
    data: Annotated[str | None, DATA] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option("--size", help="1280x800. Repeatable; 1280x800 and 2560x1440 if not given."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(min=0, help="How long the wheel turns while ViT-B is quantized; 0 leaves it out."),
    ] = 300.0,
    json_target: o.Json = None,
) -> None:
    """Use the window by mouse: seconds to its start, wheel steps, memory, and the way from a scan to a comparison.

    It opens the CT series of the real scans, on the display at hand or off screen. Takes some twelve minutes.
    """
    need_window()
    from medquant.bench import window as bench

    with session(json_target) as run:
        chosen = {"sizes": tuple(map(window_size, sizes))} if sizes else {}
        folder = data_folder(data)
        with run.track("Window") as (progress, cancelled):
            rows = bench.run(data=folder, busy_seconds=seconds, **chosen, progress=progress, cancelled=cancelled)
        print_window(run, rows)
        run.finish(rows)


def window_size(text: str) -> tuple[int, int]:
    """1280x800 as two numbers. Raises `UserError`."""
    width, _, height = text.lower().replace(" ", "").partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 600):
        raise UserError(f"{text} is no size of a window. Give width and height from 600 up, as in 1280x800.")
    return int(width), int(height)

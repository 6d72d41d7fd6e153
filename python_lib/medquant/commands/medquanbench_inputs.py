"""What a person types after `medquant bench medquanbench`, read into networks and cases."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medquant.commands.inputs import data_folder, existing_path, name_or_path, parse_model_options
from medquant.commands.session import Session
from medquant.errors import UserError

if TYPE_CHECKING:
    from medquant.bench.cell import Case
    from medquant.bench.medquanbench.subjects import Subject


def mini_subjects(told: Session, data: str | None) -> list[Subject]:
    """Those of `--mini`. Raises `UserError` where `data` is no folder."""
    from medquant.bench.medquanbench.mini import subjects

    if data is None:
        told.say("Without the folder of real scans (--data) only the embedded models are measured.")
    return subjects(None if data is None else data_folder(data).absolute())


def subjects_of(
    models: list[str] | None,
    weights: list[str] | None,
    options: list[str] | None,
    cases: list[Case],
    calibration: list[str] | None,
    limit: int | None,
) -> list[Subject]:
    """Each model with what calibrates it, the first case if nothing else does, and at most `limit` cases that test it.

    Raises `UserError` for what is not there or does not fit.
    """
    from medquant.bench.medquanbench.subjects import FileCase, Subject
    from medquant.bench.networks import NamedNetwork

    if not models:
        raise UserError("There is no model to measure. Give one with --model, or use --mini.")
    given = [None if one == "-" else str(Path(one).expanduser().absolute()) for one in weights or ()]
    if given and len(given) != len(models):
        raise UserError(f"{len(given)} weights do not fit {len(models)} models. Give one for each, - for one without.")
    if calibration:
        scans = tuple(FileCase(existing_path(scan, "--calibration")) for scan in calibration)
    else:
        scans, cases = tuple(cases[:1]), cases[1:]
    if not cases:
        raise UserError("There is no case left to test. Give more cases, or a scan with --calibration.")
    specs = [name_or_path(model) for model in models]
    return [
        Subject(NamedNetwork(spec, path, json.dumps(chosen, sort_keys=True)), scans, tuple(cases[:limit]))
        for spec, path, chosen in zip(
            specs, given or [None] * len(specs), options_by_model(specs, options or ()), strict=True
        )
    ]


def options_by_model(specs: Sequence[str], words: Sequence[str]) -> list[dict[str, Any]]:
    """`N:NAME=VALUE` for the N-th model from 1; without N for all that know the option. Raises `UserError`."""
    from medquant.models.registry import known_options

    chosen: list[dict[str, Any]] = [{} for _ in specs]
    numbered = [re.fullmatch(r"(?:(\d+):)?(.*)", word, re.DOTALL).groups() for word in words]
    for number, word in sorted(numbered, key=lambda pair: pair[0] is not None):  # of one model prevails
        pair = parse_model_options([word])
        if number is None:
            knowing = [one for one, spec in zip(chosen, specs, strict=True) if {*pair} <= {*known_options(spec)}]
        elif 1 <= int(number) <= len(specs):
            knowing = [chosen[int(number) - 1]]
        else:
            raise UserError(
                f"--option {number}:{word} is of model {number}, but there are {len(specs)}. "
                "Count them from 1, in the order of --model."
            )
        for one in knowing or chosen:  # what none knows is refused as it is loaded, with what there is
            one |= pair
    return chosen


def cases_of(
    scans: list[str] | None,
    labels: list[str] | None,
    dataset: tuple[str, str] | None,
    split: str | None,
) -> list[Case]:
    """Cases with a reference, in order. Raises `UserError` where there is none."""
    from medquant.bench.medquanbench.subjects import FileCase

    scans, labels = scans or [], labels or []
    if len(scans) != len(labels):
        raise UserError(f"{len(labels)} references do not fit {len(scans)} scans. Give one --labels for each --case.")
    cases: list[Case] = [
        FileCase(existing_path(scan, "--case"), existing_path(file, "--labels"))
        for scan, file in zip(scans, labels, strict=True)
    ]
    if dataset is not None:
        from medquant.datasets import open_dataset

        name, folder = dataset
        found = open_dataset(name, Path(folder).expanduser().absolute())
        found = found.to_test_on() if split is None else found.of_split(split).with_reference()
        if not found:
            raise UserError(
                f"{found.title} has no reference there. Choose another --split, or give --case and --labels."
            )
        cases += found
    elif split is not None:
        raise UserError("--split chooses among the cases of a data set. Give one with --dataset, or leave --split out.")
    if not cases:
        raise UserError(
            "There is no case to test on. Give --case SCAN --labels FILE or --dataset NAME FOLDER, or --mini."
        )
    return cases

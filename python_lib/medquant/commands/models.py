"""`medquant models`: what can be named after --model."""

from __future__ import annotations

from medquant.commands import options as o
from medquant.commands.session import session

EXAMPLES = o.examples(
    "medquant models",
    "medquant models --json -",
)


def models(json_target: o.Json = None) -> None:
    """List the models that can be named, what each needs, and which are on this machine already.

    A path works as a name too: MedSAM's medsam_vit_b.pth, a folder saved by transformers, an nnU-Net results folder,
    or a quantized model made by medquant.
    """
    from rich.table import Table

    from medquant.evaluation import wording
    from medquant.models.catalogue import list_models

    with session(json_target) as run:
        entries = list_models()
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
        for title in ("name", "segments", "prompt", "size", "needs"):
            table.add_column(title, overflow="fold", no_wrap=title in ("name", "size", "prompt"))
        networks: dict[str, list[str]] = {}
        for entry in entries:
            group, _, network = entry.name.partition(":")
            if network:
                networks.setdefault(group, []).append(network)
                if len(networks[group]) > 1:
                    continue
            name = f"{group}:NETWORK" if network else entry.name
            needs = entry.needs or ("nothing: it is here" if entry.offline else "its weights, which are not here")
            prompt = "box" if entry.prompt == "box" else wording.NOTHING
            table.add_row(name, entry.task, prompt, wording.size(entry.bytes_on_disk), needs)
        run.console.print(table)
        groups = "; ".join(f"{group}: {', '.join(names)}" for group, names in networks.items())
        run.say(f"\nNETWORK of {groups}. Give weights with --weights.")
        run.say("The embedded models demonstrate; they diagnose nothing. Licences: medquant models --json -")
        run.finish({"models": [entry.to_dict() for entry in entries]})

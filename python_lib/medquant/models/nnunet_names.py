"""The classes and functions that a plans file names: only those of nnunetv2 and its libraries are looked up."""

from __future__ import annotations

import pydoc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from medquant.errors import UserError

READERS = {"SimpleITKIO": None, "NibabelIO": None, "NibabelIOWithReorient": "RAS"}
"""nnU-Net's readers, and the orientation that each turns images to; None: it leaves them as stored."""
STUNET_TRAINER = "STUNetTrainer"
"""How the names of STU-Net's trainers begin, which build their network themselves."""
_NETWORKS = ("dynamic_network_architectures.", "nnunetv2.")
_IMPORTS = ("torch.nn.", "dynamic_network_architectures.")


def refuse_foreign(plans: Mapping[str, Any], configuration: Any) -> None:
    """Raise `UserError` where the plans, or nnunetv2's `ConfigurationManager` of them, name what it does not have."""
    settings = configuration.configuration
    architecture = settings["architecture"]
    wanted = [architecture["arch_kwargs"].get(key) for key in architecture.get("_kw_requires_import", ())]
    unknown = [name for name in wanted if name is not None and not _is_module(str(name), _IMPORTS)]
    if not _is_module(str(architecture["network_class_name"]), _NETWORKS):
        unknown.append(architecture["network_class_name"])
    reader = plans.get("image_reader_writer", "SimpleITKIO")
    if reader not in READERS:
        unknown.append(reader)
    for key in ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"):
        name = str(settings.get(key))
        if not name.startswith("resample"):
            unknown.append(name)
    unknown += [name for name in configuration.normalization_schemes if not str(name).endswith("Normalization")]
    if not str(configuration.preprocessor_name).endswith("Preprocessor"):
        unknown.append(configuration.preprocessor_name)
    if unknown:
        raise foreign(unknown)


def foreign(names: Sequence[Any]) -> UserError:
    """The error for names that nnunetv2 does not have."""
    return UserError(
        f"The plans ask for {', '.join(map(str, names))}, which nnunetv2 does not have. "
        "Models with parts of their own are given from Python: from_module(network, ...)."
    )


def network_builder(trainer: str) -> Callable[..., nn.Module]:
    """What builds the network (without deep supervision) for the trainer of that name."""
    if trainer == "nnUNetTrainer":  # all it takes, without importing what training needs
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

        return partial(get_network_from_plans, allow_init=False, deep_supervision=False)
    if trainer.startswith(STUNET_TRAINER):
        from medquant.models.stunet_folder import build_stunet

        return partial(build_stunet, trainer)
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    known = find_class("training.nnUNetTrainer", trainer)
    builder = known if isinstance(known, type) and issubclass(known, nnUNetTrainer) else nnUNetTrainer
    return partial(builder.build_network_architecture, enable_deep_supervision=False)


def find_class(package: str, name: str) -> Any:
    """The class of that name in a package of nnunetv2, "preprocessing.normalization"; None where there is none."""
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = Path(nnunetv2.__path__[0], *package.split("."))
    return recursive_find_python_class(str(folder), name, f"nnunetv2.{package}")


def _is_module(name: str, packages: tuple[str, ...]) -> bool:
    """Whether a dotted name of these packages is a class of network modules, and nothing else that can be called."""
    kind = pydoc.locate(name) if name.startswith(packages) else None
    return isinstance(kind, type) and issubclass(kind, nn.Module)

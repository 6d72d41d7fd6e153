"""What an nnU-Net's plans decide: network, preprocessing, patches, labels. Each step is nnunetv2's own function."""

from __future__ import annotations

import itertools
import pydoc
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medquant.errors import UserError
from medquant.models.nnunet_folder import quietly
from medquant.segmentation import Structure

_NETWORKS = ("dynamic_network_architectures.", "nnunetv2.")
_IMPORTS = ("torch.nn.", "dynamic_network_architectures.")
_READERS = {"SimpleITKIO": None, "NibabelIO": None, "NibabelIOWithReorient": "RAS"}


class FoldEnsemble(nn.Module):
    """The networks of several folds as one: the mean of their logits."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, patch: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes, *patch)."""
        return torch.stack([member(patch) for member in self.members]).mean(0)


def without_deep_supervision(network: nn.Module) -> nn.Module:
    """The network without the output layers of its coarser stages, which only training uses."""
    outputs = getattr(getattr(network, "decoder", None), "seg_layers", None)
    for number in range(len(outputs) - 1 if outputs is not None else 0):
        outputs[number] = nn.Identity()
    return network


class Plans:
    """The plans and the dataset description of one configuration.

    A plans file names classes and functions to use; only those of nnunetv2, its network library and torch.nn are
    looked up. Raises `UserError` for anything else, for a cascade's second stage, and for more than one channel.
    """

    def __init__(self, plans: dict[str, Any], dataset: dict[str, Any], configuration: str) -> None:
        if plans.get("label_manager", "LabelManager") != "LabelManager":
            raise _foreign([plans["label_manager"]])
        with quietly():
            from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

            self._plans, self._dataset = plans, dataset
            self._manager = PlansManager(plans)
            try:
                self._configuration = self._manager.get_configuration(configuration)
                self.labels = self._manager.get_label_manager(dataset)
                self.channels = tuple(str(v) for v in _channel_names(dataset).values())
                self.patch_size = tuple(int(n) for n in self._configuration.patch_size)
                self.transpose_forward = list(self._manager.transpose_forward)
            except (KeyError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
                raise UserError(
                    f"plans.json or dataset.json cannot be used ({error}). Copy both again from the training machine."
                ) from error
        self._refuse_foreign()
        if self._configuration.previous_stage_name is not None:
            raise UserError(
                f"{configuration} is the second stage of a cascade and needs the first one's result. "
                "Choose the configuration 3d_fullres or 3d_lowres."
            )
        if len(self.channels) != 1:
            raise UserError(
                f"This nnU-Net was trained on {len(self.channels)} channels ({', '.join(self.channels)}), a scan here "
                "is one. Choose a model that was trained on one channel."
            )

    @property
    def reader_orientation(self) -> str | None:
        """The orientation that nnU-Net's own reader turns images to; None: it leaves them as stored."""
        return _READERS[self._plans.get("image_reader_writer", "SimpleITKIO")]

    @property
    def structures(self) -> tuple[Structure, ...]:
        """Names and labels, without background. A region's label is the one nnU-Net paints it with."""
        named = {name: label for name, label in self._dataset["labels"].items() if name not in ("background", "ignore")}
        if self.labels.has_regions:
            return tuple(
                Structure(int(label), name) for name, label in zip(named, self.labels.regions_class_order, strict=True)
            )
        return tuple(Structure(int(label), name) for name, label in sorted(named.items(), key=lambda item: item[1]))

    def network(self, trainer: str) -> nn.Module:
        """The untrained network, as the trainer of that name builds it; unknown trainers: as the plans describe it."""
        with quietly():
            from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

            known = _find("training/nnUNetTrainer", trainer, "nnunetv2.training.nnUNetTrainer")
            builder = known if isinstance(known, type) and issubclass(known, nnUNetTrainer) else nnUNetTrainer
            try:
                return builder.build_network_architecture(
                    self._configuration.network_arch_class_name,
                    self._configuration.network_arch_init_kwargs,
                    self._configuration.network_arch_init_kwargs_req_import,
                    len(self.channels),
                    self.labels.num_segmentation_heads,
                    enable_deep_supervision=False,
                )
            except (KeyError, TypeError, ValueError, ImportError) as error:
                raise UserError(
                    f"The network of these plans cannot be built ({error}). It needs the versions of nnunetv2 and "
                    "dynamic-network-architectures that it was trained with."
                ) from error

    def preprocess(self, array: np.ndarray, spacing: list[float]) -> tuple[np.ndarray, dict[str, Any]]:
        """Float32 (1, *grid) and the properties needed to come back, from voxels (1, k, j, i) and spacing (k, j, i)."""
        preprocessor = self._configuration.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            array, None, {"spacing": spacing}, self._manager, self._configuration, self._dataset
        )
        return np.asarray(data), properties

    def padded(self, data: torch.Tensor) -> tuple[torch.Tensor, tuple[slice, ...]]:
        """The data padded with zeros to the patch size at least, and where they lie in it."""
        from acvl_utils.cropping_and_padding.padding import pad_nd_image

        padded, inside = pad_nd_image(data, self.patch_size, "constant", {"value": 0}, True, None)
        return padded, tuple(inside)

    def patches(self, shape: tuple[int, ...], step_size: float) -> list[tuple[Any, ...]]:
        """Index tuples (channel, *patch) over a padded grid, in nnU-Net's order; 2-D configurations go by slices."""
        from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

        flat = len(self.patch_size) < len(shape)
        steps = compute_steps_for_sliding_window(shape[1:] if flat else shape, self.patch_size, step_size)
        corners = itertools.product(*([range(shape[0]), *steps] if flat else steps))
        sizes = (None, *self.patch_size) if flat else self.patch_size
        return [
            (slice(None), *(c if n is None else slice(c, c + n) for c, n in zip(corner, sizes, strict=True)))
            for corner in corners
        ]

    def gaussian(self, device: torch.device) -> torch.Tensor:
        """The weight of each voxel of a patch, float16."""
        from nnunetv2.inference.sliding_window_prediction import compute_gaussian

        return compute_gaussian(self.patch_size, sigma_scale=1.0 / 8, value_scaling_factor=10, device=device)

    def labels_on_grid(self, logits: torch.Tensor, properties: dict[str, Any]) -> np.ndarray:
        """Labels (k, j, i) on the scan's grid from logits on the preprocessed one."""
        from nnunetv2.inference.export_prediction import (
            convert_predicted_logits_to_segmentation_with_correct_shape as convert,
        )

        return convert(
            logits,
            self._manager,
            self._configuration,
            self.labels,
            properties,
            num_threads_torch=torch.get_num_threads(),
        )

    def _refuse_foreign(self) -> None:
        configuration = self._configuration
        architecture = configuration.configuration["architecture"]
        wanted = [architecture["arch_kwargs"].get(key) for key in architecture.get("_kw_requires_import", ())]
        foreign = [name for name in wanted if name is not None and not _is_module(str(name), _IMPORTS)]
        if not _is_module(str(architecture["network_class_name"]), _NETWORKS):
            foreign.append(architecture["network_class_name"])
        reader = self._plans.get("image_reader_writer", "SimpleITKIO")
        if reader not in _READERS:
            foreign.append(reader)
        for key in ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"):
            name = str(configuration.configuration.get(key))
            if not name.startswith("resample"):
                foreign.append(name)
        foreign += [n for n in configuration.normalization_schemes if not str(n).endswith("Normalization")]
        if not str(configuration.preprocessor_name).endswith("Preprocessor"):
            foreign.append(configuration.preprocessor_name)
        if foreign:
            raise _foreign(foreign)


def _is_module(name: str, packages: tuple[str, ...]) -> bool:
    """Whether a dotted name of these packages is a class of network modules, and nothing else that can be called."""
    kind = pydoc.locate(name) if name.startswith(packages) else None
    return isinstance(kind, type) and issubclass(kind, nn.Module)


def _foreign(names: list[Any]) -> UserError:
    return UserError(
        f"The plans ask for {', '.join(map(str, names))}, which nnunetv2 does not have. "
        "Models with parts of their own are given from Python: from_module(network, ...)."
    )


def _channel_names(dataset: dict[str, Any]) -> dict[str, Any]:
    return dataset["channel_names"] if "channel_names" in dataset else dataset["modality"]


def _find(folder: str, name: str, module: str) -> Any:
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    return recursive_find_python_class(str(Path(nnunetv2.__path__[0]) / folder), name, module)

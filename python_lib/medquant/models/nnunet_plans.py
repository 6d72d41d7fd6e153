"""What an nnU-Net's plans decide: network, preprocessing, patches, labels, each as nnunetv2 has it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from medquant.errors import UserError
from medquant.models.networks.stunet import STUNet
from medquant.models.nnunet_folder import quietly
from medquant.models.nnunet_labels import Painter, PlanePainter, WholePainter
from medquant.models.nnunet_names import READERS, find_class, foreign, network_builder, refuse_foreign
from medquant.models.nnunet_resampling import Resampling, resample_image
from medquant.segmentation import Structure


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
    if isinstance(network, STUNet):
        network.drop_training_outputs()
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
            raise foreign([plans["label_manager"]])
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
        refuse_foreign(plans, self._configuration)
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
        return READERS[self._plans.get("image_reader_writer", "SimpleITKIO")]

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
            try:
                return network_builder(trainer)(
                    self._configuration.network_arch_class_name,
                    self._configuration.network_arch_init_kwargs,
                    self._configuration.network_arch_init_kwargs_req_import,
                    len(self.channels),
                    self.labels.num_segmentation_heads,
                )
            except (KeyError, TypeError, ValueError, ImportError) as error:
                raise UserError(
                    f"The network of these plans cannot be built ({error}). It needs the versions of nnunetv2 and "
                    "dynamic-network-architectures that it was trained with."
                ) from error

    def preprocess(
        self, array: np.ndarray, spacing: list[float], check: Callable[[], None] = lambda: None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Float32 (1, *grid) and the properties needed to come back, from voxels (k, j, i) and spacing (k, j, i).

        `check` is called about every tenth of a second and raises to stop.
        """
        if self._configuration.preprocessor_name == "DefaultPreprocessor":
            return self._as_default_preprocessor(array, spacing, check)
        preprocessor = self._configuration.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            np.ascontiguousarray(array)[None], None, {"spacing": spacing}, self._manager, self._configuration,
            self._dataset,
        )  # fmt: skip
        return np.asarray(data), properties

    def _as_default_preprocessor(
        self, array: np.ndarray, spacing: list[float], check: Callable[[], None]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """What `DefaultPreprocessor.run_case_npy` gives, without the label map that only training needs."""
        data = np.array(array, dtype=np.float32, order="C").transpose(self.transpose_forward)
        properties: dict[str, Any] = {"spacing": spacing, "shape_before_cropping": data.shape}
        check()
        nonzero = data != 0
        box = [_extent(nonzero.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        inside = tuple(slice(*bounds) for bounds in box)
        data = data[inside]
        properties["bbox_used_for_cropping"] = box
        properties["shape_after_cropping_and_before_resampling"] = data.shape
        check()
        masked = self._configuration.use_mask_for_norm[0]
        outside = np.where(ndimage.binary_fill_holes(nonzero)[inside], np.int8(0), np.int8(-1)) if masked else None
        del nonzero
        check()
        scheme = self._configuration.normalization_schemes[0]
        intensities = self._manager.foreground_intensity_properties_per_channel["0"]
        normalization = find_class("preprocessing.normalization", scheme)
        if normalization is None:
            raise foreign([scheme])
        data = normalization(use_mask_for_norm=masked, intensityproperties=intensities).run(data, outside)
        before, after = self._spacings(properties)
        shape = [round(s / t * n) for s, t, n in zip(before, after, data.shape, strict=True)]
        how = self._resampling("data", data.shape, shape, before, after)
        if how is None:
            return np.asarray(self._configuration.resampling_fn_data(data[None], shape, before, after)), properties
        return resample_image(data, how, check)[None], properties

    def _spacings(self, properties: dict[str, Any]) -> tuple[list[float], list[float]]:
        """Millimetres along the network's axes, of the scan and of the network's grid."""
        scan = [properties["spacing"][axis] for axis in self.transpose_forward]
        network = list(self._configuration.spacing)
        return scan, network if len(network) == len(scan) else [scan[0], *network]  # 2-D: slices stay as they are

    def _resampling(
        self, what: str, old: Sequence[int], new: Sequence[int], spacing: list[float], new_spacing: list[float]
    ) -> Resampling | None:
        """How "data" or "probabilities" change grids; None where the plans ask for another function than the usual."""
        settings = self._configuration.configuration
        if settings[f"resampling_fn_{what}"] != "resample_data_or_seg_to_shape":
            return None
        return Resampling.of_plans(settings[f"resampling_fn_{what}_kwargs"], old, new, spacing, new_spacing)

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

    def with_smaller_patches(self) -> Plans | None:
        """The same plans with patches of half the length along their longest axis; None where none can be smaller.

        A network halves its grid several times, and every axis must allow this and keep two voxels.
        """
        strides = self._configuration.network_arch_init_kwargs.get("strides")
        if strides is None:
            return None
        least = [2 * int(np.prod(of_axis)) for of_axis in zip(*strides, strict=True)]
        size = list(self.patch_size)
        axis = int(np.argmax(np.array(size) / least))
        size[axis] = size[axis] // least[axis] // 2 * least[axis]
        if not size[axis]:
            return None
        twin = copy.copy(self)
        twin.patch_size = tuple(size)
        return twin

    def painter(
        self, grid: Sequence[int], properties: dict[str, Any], check: Callable[[], None] = lambda: None
    ) -> tuple[Painter, np.ndarray]:
        """What turns logits on the preprocessed `grid` into labels, and the labels (k, j, i) on the scan's grid."""
        kind = np.uint8 if len(self.labels.foreground_labels) < 255 else np.uint16
        labels = np.zeros(properties["shape_before_cropping"], dtype=kind)
        into = labels[tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])]
        labels = labels.transpose(self._manager.transpose_backward)
        scan, network = self._spacings(properties)
        how = self._resampling("probabilities", grid, into.shape, network, scan)
        if how is not None and PlanePainter.can(how):
            regions = tuple(self.labels.regions_class_order) if self.labels.has_regions else None
            return PlanePainter(how, into, regions, check), labels

        def convert(logits: torch.Tensor) -> np.ndarray:
            resampled = self._configuration.resampling_fn_probabilities(logits, into.shape, network, scan)
            return np.asarray(self.labels.convert_logits_to_segmentation(resampled))

        return WholePainter(into, convert), labels


def _extent(line: np.ndarray) -> list[int]:
    """First and last but one index where `line` is true."""
    places = np.flatnonzero(line)
    return [int(places[0]), int(places[-1]) + 1]


def _channel_names(dataset: dict[str, Any]) -> dict[str, Any]:
    return dataset["channel_names"] if "channel_names" in dataset else dataset["modality"]

"""nnU-Net v2: the labels of nnunetv2's own predictor, sooner and in less memory, by any network and runtime.

Source: Isensee et al., nnU-Net, Nature Methods 18 (2021). Plans, networks, normalisation, patches and weights come from
the nnunetv2 package itself. Resampling, the sums over patches and the choice of labels are written anew, with its
arithmetic, so that no more than a slab of the scan's logits is ever held.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medquant.background import result_of
from medquant.errors import MedQuantError, UserError
from medquant.imaging.volume import Volume
from medquant.memory import lacks_memory
from medquant.models import stunet_folder
from medquant.models.base import CalibrationBatch, CalibrationSelection, Model, Part, described, device_of
from medquant.models.body import calibration_region, choose_patches, require_usable
from medquant.models.network_part import network_part
from medquant.models.nnunet_folder import read_results_folder
from medquant.models.nnunet_plans import FoldEnsemble, Plans, without_deep_supervision
from medquant.models.nnunet_window import Network, SlidingWindow
from medquant.models.orientation import Reorientation
from medquant.models.smaller_window import SmallerWindows
from medquant.models.torch_program import begin_without_boxes, patch_of
from medquant.models.weight_files import fill, strip_wrappers
from medquant.network_edit import stoppable
from medquant.progress import Progress
from medquant.prompts import BoxPrompt
from medquant.segmentation import Segmentation

# What inference needs of dataset.json; the rest may name the cases of the training set.
_DATASET_ENTRIES = ("channel_names", "modality", "labels", "regions_class_order", "file_ending")


class NnUNetModel(Model):
    """A trained nnU-Net; several folds are one network whose logits are averaged."""

    family = "nnunet"

    def __init__(self, network: nn.Module, *, plans: Plans, **options: Any) -> None:
        super().__init__(network, structures=plans.structures, modality=plans.channels[0], **options)
        self.plans = plans
        spec = self.spec
        self.mirroring_axes = tuple(spec["mirroring_axes"] or ()) if spec["mirroring"] else ()
        self.step_size = float(spec["step_size"])
        self.orientation: str | None = spec["orientation"]

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> NnUNetModel:
        """Build the adapter around an untrained network of the plans."""
        try:
            plans = Plans(spec["plans"], spec["dataset"], spec["configuration"])
            networks = [plans.network(spec["trainer"]) for _ in spec["folds"]]
        except KeyError as error:
            raise UserError(f"The description of this nnU-Net lacks {error}. Get the file again.") from error
        joined = _joined([without_deep_supervision(network) for network in networks])
        return cls(joined, plans=plans, **described(spec, "nnU-Net"))

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        name: str | None = None,
        configuration: str | None = None,
        folds: int | str | tuple[int | str, ...] | None = None,
        checkpoint: str | None = None,
        mirroring: bool = True,
        step_size: float = 0.5,
        orientation: str | None = None,
        licence: str = "",
    ) -> NnUNetModel:
        """Load a results folder, or a file of STU-Net as published (`.model`).

        `configuration`, `folds`, `checkpoint`: as in `read_results_folder`. `mirroring`: average over mirrored
        patches, as the training allows (eight times the work in 3-D). `step_size`: distance of patches in patch
        sizes. `orientation`: None hands the voxels over in the order of the file, as nnU-Net does; "LPS" and the
        like turn the scan first.
        """
        if Path(source).suffix == stunet_folder.SUFFIX:
            found = stunet_folder.read_published(Path(source).expanduser())
        else:
            found = read_results_folder(source, configuration=configuration, folds=folds, checkpoint=checkpoint)
        if not 0 < step_size <= 1:
            raise UserError(f"The step size must be above 0 and at most 1, not {step_size}. nnU-Net uses 0.5.")
        plans = Plans(found.plans, found.dataset, found.configuration)
        networks = []
        for fold, state in zip(found.folds, found.states, strict=True):
            with torch.device("meta"):  # no memory for random numbers that are replaced at once
                network = plans.network(found.trainer)
            what = f"the plans beside it ({found.configuration})"
            fill(network, strip_wrappers(state), source=f"the checkpoint of fold {fold}", what=what)
            networks.append(without_deep_supervision(network))
        spec = {
            "family": cls.family,
            "name": name or str(found.plans.get("dataset_name", "nnU-Net")),
            "plans": found.plans,
            "dataset": {key: found.dataset[key] for key in _DATASET_ENTRIES if key in found.dataset},
            "configuration": found.configuration,
            "trainer": found.trainer,
            "folds": list(found.folds),
            "mirroring_axes": None if found.mirroring_axes is None else list(found.mirroring_axes),
            "mirroring": mirroring,
            "step_size": step_size,
            "orientation": orientation,
            "weights_hash": found.weights_hash,
            "weights_bytes": found.weights_bytes,
            "licence": licence,
        }
        return cls(_joined(networks), plans=plans, **described(spec))

    # -- calibration ---------------------------------------------------------------------------------------------

    def calibration_batches(
        self, volume: Volume, selection: CalibrationSelection, progress: Progress | None = None
    ) -> Iterator[CalibrationBatch]:
        """Patches (1, 1, *patch) of the preprocessed volume."""
        for batch, _ in self._cut(volume, None, selection, progress):
            yield batch

    def labelled_batches(
        self, reference: Segmentation, selection: CalibrationSelection, progress: Progress | None = None
    ) -> Iterator[tuple[CalibrationBatch, torch.Tensor]]:
        """The patches of `calibration_batches`, and labels (1, *patch). Raises `UserError` for one of regions."""
        if self.plans.labels.has_regions:
            raise UserError(f"The regions of {self.name} overlap, which labels cannot. Leave the reference out.")
        yield from self._cut(reference.volume, reference.labels, selection, progress)

    def _cut(
        self, volume: Volume, labels: np.ndarray | None, selection: CalibrationSelection, progress: Progress | None
    ) -> Iterator[tuple[CalibrationBatch, torch.Tensor]]:
        """Each patch, and the labels (1, *patch) there; zeros where there are none."""
        require_usable(volume)
        progress = progress or Progress()
        progress.report(0.0, "Preparing the scan")
        turned = self._orienting(volume)
        data, properties = self._preprocessed(turned.volume(volume), progress.check)
        region = self._on_network_grid(turned.apply(calibration_region(volume, selection, progress)), properties, data)
        region = region > 0 if region.any() else np.ones(region.shape, dtype=bool)
        known = torch.zeros(1, *data.shape[1:])
        if labels is not None:
            known[0] = torch.from_numpy(self._on_network_grid(turned.apply(labels), properties, data))
        patch = self.plans.patch_size
        flat = len(patch) == 2
        corners = choose_patches(
            region, (1, *patch) if flat else patch, count=selection.count, seed=selection.seed, axis=0
        )
        for done, corner in enumerate(corners):
            progress.report(done / len(corners), f"Preparing patch {done + 1} of {len(corners)}")
            cut, there = (
                patch_of(one[:, corner[0]], corner[1:], patch) if flat else patch_of(one, corner, patch)
                for one in (data, known)
            )
            yield CalibrationBatch((cut[None],)), there.long()

    def forward_for_calibration(self, network: nn.Module, *inputs: Any) -> torch.Tensor:
        """Logits (1, classes, *patch), averaged over the folds."""
        return network(inputs[0].to(device_of(network)))

    def exclusive(self, logits: torch.Tensor) -> bool:
        """Regions are independent, labels exclude each other."""
        return not self.plans.labels.has_regions

    # -- segmentation --------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Part]:
        """ "network": patches (1, 1, *patch) -> logits (1, classes, *patch), of several folds their mean."""
        return network_part(self.network, (1, 1, *self.plans.patch_size))

    @torch.inference_mode()
    def segment(
        self, volume: Volume, prompt: BoxPrompt | None = None, progress: Progress | None = None
    ) -> Segmentation:
        """Labels on the volume's own grid, as nnunetv2's own predictor gives them for the same voxels.

        Where the memory does not suffice for a patch, smaller patches are tried, which see less around each voxel.
        """
        progress = begin_without_boxes(self.name, volume, prompt, progress)
        began = time.perf_counter()
        turned = self._orienting(volume)
        data, properties = self._preprocessed(turned.volume(volume), progress.check)
        stages = {"preprocess": time.perf_counter() - began}
        plans, part = self.plans, progress.span(0.05, 0.99)
        smaller: SmallerWindows | None = None
        compute, fallback = partial(self.compute, "network") if "network" in self.sessions else None, None
        while True:
            try:
                if smaller is not None:
                    compute, fallback = smaller.compute(plans.patch_size, part)
                    compute = None if fallback.by_pytorch else compute
                labels = self._labels(plans, compute, data, properties, stages, part)
                break
            except MedQuantError:
                raise
            except Exception as error:
                if not lacks_memory(error):
                    if smaller is None:
                        raise
                    raise MemoryError("running the model") from error  # a network that takes one size only
                fewer = plans.with_smaller_patches()
                if fewer is None:
                    raise
                plans, smaller = fewer, smaller or SmallerWindows(self)
        progress.report(1.0, "Segmented")
        labels = np.ascontiguousarray(turned.undo(labels))
        return Segmentation(labels, volume, self.structures, self.name, stages=stages, fallback=fallback)

    def _labels(
        self,
        plans: Plans,
        compute: Network | None,
        data: torch.Tensor,
        properties: dict[str, Any],
        stages: dict[str, float],
        progress: Progress,
    ) -> np.ndarray:
        """Labels (k, j, i) of the scan as it was preprocessed; adds the seconds of the network and the resampling.

        `compute`: a runtime's, all folds at once; None: PyTorch, fold by fold.
        """
        painter, labels = plans.painter(data.shape[1:], properties, progress.check)
        stages |= {"network": 0.0, "resample": 0.0}
        device = device_of(self.network)
        with ExitStack() as context:
            context.enter_context(torch.autocast(device.type, enabled=device.type == "cuda"))
            context.enter_context(stoppable(self.network, progress.check))
            networks = self._folds() if compute is None else (_beside(compute, context, progress),)
            window = SlidingWindow(networks, plans, self.step_size, self.mirroring_axes, device)
            began = time.perf_counter()
            for slab in window.slabs(data, progress):
                seen = time.perf_counter()
                painter.add(slab)
                stages["network"] += seen - began
                began = time.perf_counter()
                stages["resample"] += began - seen
            stages["network"] += time.perf_counter() - began
        began = time.perf_counter()
        painter.finish()
        stages["resample"] += time.perf_counter() - began
        return labels

    def _folds(self) -> tuple[nn.Module, ...]:
        """The networks that PyTorch computes patches with."""
        return tuple(self.network.members) if isinstance(self.network, FoldEnsemble) else (self.network,)

    def _orienting(self, volume: Volume) -> Reorientation:
        code = self.orientation or self.plans.reader_orientation
        return Reorientation.to(volume, code) if code else Reorientation()

    def _preprocessed(
        self, volume: Volume, check: Callable[[], None] = lambda: None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        # Lengths of matrix columns carry rounding noise that the rounding of shapes must not see.
        spacing = [float(f"{value:.12g}") for value in volume.spacing]
        data, properties = self.plans.preprocess(volume.array, spacing, check)
        return torch.from_numpy(data), properties

    def _on_network_grid(self, labels: np.ndarray, properties: dict[str, Any], data: torch.Tensor) -> np.ndarray:
        """Labels of the scan on the preprocessed grid: transposed, cropped and resampled (nearest) as the data were."""
        labels = labels.transpose(self.plans.transpose_forward)
        cropped = labels[tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])]
        small = torch.from_numpy(np.ascontiguousarray(cropped, dtype=np.float32))[None, None]
        return nn.functional.interpolate(small, size=tuple(data.shape[1:]))[0, 0].numpy()


def _beside(compute: Network, context: ExitStack, progress: Progress) -> Network:
    """The same in a thread beside, as runtimes cannot be told to stop: the wish to is heard while they compute."""
    worker = ThreadPoolExecutor(1, thread_name_prefix="network")
    context.callback(worker.shutdown, wait=False, cancel_futures=True)
    compute = torch.inference_mode()(compute)
    return lambda patch: result_of(worker.submit(compute, patch), progress)


def _joined(networks: list[nn.Module]) -> nn.Module:
    return networks[0] if len(networks) == 1 else FoldEnsemble(networks)

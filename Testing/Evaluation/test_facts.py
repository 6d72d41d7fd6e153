"""What a comparison knows of a model before it has segmented anything."""

from __future__ import annotations

import pytest
from torch import nn

from medquant.evaluation.facts import facts_of
from medquant.models.base import Model
from medquant.models.catalogue import EMBEDDED_NNUNET, EMBEDDED_PROMPTABLE, EMBEDDED_UNETR
from medquant.models.registry import load_model
from medquant.quantized_model import Provenance, QuantizationReport, QuantizedModel
from medquant.recipe import IntWeights, Recipe


class Linear(Model):
    """The smallest model there is."""

    family = "torch"

    def __init__(self) -> None:
        super().__init__(nn.Linear(10, 5), name="linear", spec={}, weights_hash="")

    @classmethod
    def from_spec(cls, spec):
        return cls()

    @classmethod
    def load(cls, source, **options):
        return cls()

    def calibration_batches(self, volume, selection, progress=None):
        return iter(())

    def segment(self, volume, prompt=None, progress=None):
        raise NotImplementedError


def test_facts_of_an_fp32_model():
    facts = facts_of(Linear())
    assert (facts.name, facts.weight_bits, facts.effective_bits) == ("linear FP32", 32, 32.0)
    assert facts.bytes_on_disk is None, "it came from no file"
    assert facts.bytes_fp32 == 4 * (10 * 5 + 5)
    assert facts.simulated is None and facts.recipe == ""


def test_facts_of_a_quantized_model():
    recipe = Recipe(weights=IntWeights(bits=4))
    report = QuantizationReport((), {}, 4.3, 4.6, parameters=55, bytes_on_disk=40)
    provenance = Provenance("linear", "torch", "", (), "0", "0", "")
    facts = facts_of(QuantizedModel(Linear(), recipe, report, provenance), device="CUDA")
    assert (facts.name, facts.weight_bits, facts.effective_bits, facts.bytes_on_disk) == ("linear W4", 4, 4.3, 40)
    assert facts.bytes_fp32 == 4 * 55
    assert facts.simulated is True and facts.device == "CUDA" and facts.recipe == recipe.describe()


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("embedded", [EMBEDDED_PROMPTABLE / "model.safetensors"]),
        ("embedded-unetr", [EMBEDDED_UNETR / "model.safetensors"]),
        ("embedded-nnunet", sorted(EMBEDDED_NNUNET.glob("fold_*/checkpoint_final.pth"))),
    ],
)
def test_the_size_on_disk_is_that_of_the_files(name, files):
    model = load_model(name, device="cpu")
    facts = facts_of(model)
    assert files and facts.bytes_on_disk == sum(file.stat().st_size for file in files)
    assert facts.bytes_fp32 == 4 * sum(parameter.numel() for parameter in model.network.parameters())
    if name in ("embedded", "embedded-unetr"):
        assert facts.bytes_on_disk < 0.51 * facts.bytes_fp32, "stored in 16 bits"

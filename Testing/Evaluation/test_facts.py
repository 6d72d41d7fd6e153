"""What a comparison knows of a model before it has segmented anything."""

from __future__ import annotations

from torch import nn

from medquant.evaluation.facts import facts_of
from medquant.models.base import Model
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
    assert facts.bytes_on_disk == 4 * (10 * 5 + 5)
    assert facts.simulated is None and facts.recipe == ""


def test_facts_of_a_quantized_model():
    recipe = Recipe(weights=IntWeights(bits=4))
    report = QuantizationReport((), {}, 4.3, 4.6, 55, bytes_on_disk=40)
    provenance = Provenance("linear", "torch", "", (), "0", "0", "")
    facts = facts_of(QuantizedModel(Linear(), recipe, report, provenance), device="CUDA")
    assert (facts.name, facts.weight_bits, facts.effective_bits, facts.bytes_on_disk) == ("linear W4", 4, 4.3, 40)
    assert facts.simulated is True and facts.device == "CUDA" and facts.recipe == recipe.describe()

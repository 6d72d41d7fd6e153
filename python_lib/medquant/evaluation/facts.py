"""What is known of a model beside its masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medquant.evaluation.comparison import ModelFacts
from medquant.quantized_model import QuantizedModel

if TYPE_CHECKING:
    from medquant.models.base import Model


def facts_of(model: Model | QuantizedModel, *, device: str = "CPU") -> ModelFacts:
    """The facts of a model as it stands in memory, for `compare`.

    The size on disk is that of the file(s) that the model was loaded from, which may store FP32 weights in 16 bits; a
    quantized model has one once it was saved.
    """
    if isinstance(model, QuantizedModel):
        return ModelFacts(
            name=model.name,
            weight_bits=model.recipe.nominal_bits,
            effective_bits=model.report.effective_bits,
            bytes_on_disk=model.report.bytes_on_disk,
            bytes_fp32=4 * model.report.parameters,
            simulated=model.report.simulated,
            device=device,
            recipe=model.recipe.describe(),
        )
    return ModelFacts(
        name=f"{model.name} FP32",
        weight_bits=32,
        effective_bits=32.0,
        bytes_on_disk=model.weights_bytes,
        bytes_fp32=4 * sum(parameter.numel() for parameter in model.network.parameters()),
        device=device,
    )

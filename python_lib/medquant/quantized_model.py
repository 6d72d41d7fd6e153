"""A quantized model and the account of how it came about."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medquant.errors import UserError
from medquant.recipe import Recipe
from medquant.rewrites.redesign_report import RedesignReport

if TYPE_CHECKING:
    from medquant.models.base import Model


@dataclass(frozen=True)
class LayerReport:
    """One quantized layer."""

    name: str
    kind: str
    shape: tuple[int, ...]
    bits: int
    effective_bits: float
    """Codes, scales, offsets, row groups and what a rewrite stores, over the number of weights."""
    relative_error: float
    """Root of the squared output error over the squared output, on the calibration positions; where the layer was
    rewritten, of the layer inside: the output without the low-rank branch."""
    seconds: float


@dataclass(frozen=True)
class QuantizationReport:
    """What was quantized, how well, how long it took and how large the result is."""

    layers: tuple[LayerReport, ...]
    kept: dict[str, str]
    """Layers left in floating point, each with the reason."""
    effective_bits: float
    """Stored bits of all layer weights, those kept in floating point included, over their number."""
    bits_per_parameter: float
    """Stored bits of everything (biases, norms, embeddings too) over the number of parameters."""
    parameters: int
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_mb: float | None = None
    calibration_inputs: int = 0
    simulated: bool = True
    """True while the codes are decoded to floating point to be computed with."""
    bytes_on_disk: int | None = None
    rewritten: dict[str, str] = field(default_factory=dict)
    """What was done to layers before they were quantized, by their name before (`medquant.rewrites`)."""
    redesign: RedesignReport | None = None
    """Where the recipe made a different model first: what it is, and what it is worth in FP32."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> QuantizationReport:
        """The inverse of `to_dict`."""
        layers = tuple(LayerReport(**{**layer, "shape": tuple(layer["shape"])}) for layer in data["layers"])
        redesign = data.get("redesign") and RedesignReport.from_dict(data["redesign"])
        return cls(**{**data, "layers": layers, "redesign": redesign})


@dataclass(frozen=True)
class Provenance:
    """Where a quantized model comes from. Holds no patient data: a scan is known by its hash alone."""

    model: str
    family: str
    weights_sha256: str
    calibration_sha256: tuple[str, ...]
    medquant_version: str
    torch_version: str
    created: str
    """Date and time, ISO 8601, UTC."""
    licence: str = ""
    redesign: str = ""
    """Empty: the original's own network. Otherwise that it is a different one, made from the weights of this hash."""


@dataclass
class QuantizedModel:
    """A model whose network holds integer codes; segments like the model that it was made from."""

    model: Model
    recipe: Recipe
    report: QuantizationReport
    provenance: Provenance

    @property
    def name(self) -> str:
        """Name of the original and the bits: "medsam W4A8"; "medsam redesigned W4" is a different model."""
        return f"{self.provenance.model} {self.recipe.label}"

    def save(self, path: str | Path) -> int:
        """Write the quantized model to one file, whole or not at all; returns its size in bytes."""
        from medquant.artifact import save

        return save(self, path)


def require_original(model: Model | QuantizedModel) -> Model:
    """The model itself. Raises `UserError` for one that is quantized."""
    if isinstance(model, QuantizedModel):
        raise UserError(f"{model.name} is quantized already. Choose the model that it was made from.")
    return model

"""A model with integer activations: what it is called, and what the commands say of it."""

from __future__ import annotations

import json
from pathlib import Path

BOX = "liver=10,10,0,40,50,3"


def test_bits_of_activations_are_in_every_name(medquant, scan: Path, small_sam: Path, small_w4a8: Path) -> None:
    ct, label = scan / "ct.nii.gz", f"{small_sam.name}-w4a8"
    made = medquant("quantize", ct, "-m", small_sam, "-a", "8", "--method", "rtn", "--slices", "1", "--json", "-")
    assert json.loads(made.stdout)["output"] == f"{label}.mq.safetensors"
    assert json.loads(made.stdout)["model"] == f"{small_sam.name} W4A8"
    found = medquant("segment", ct, "-m", small_w4a8, "--box", BOX, "--runtime", "pytorch", "--json", "-")
    assert json.loads(found.stdout)["model"] == f"{small_sam.name} W4A8"
    assert json.loads(found.stdout)["output"] == f"ct-{label}.seg.nrrd"
    exported = medquant("export", small_w4a8, "--format", "artifact")
    assert exported.exit_code == 0, exported.output
    assert Path(f"{label}-artifact").is_dir()

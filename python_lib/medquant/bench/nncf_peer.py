"""The peer of the runtime benchmark: NNCF's INT8 model of the same network, made by its default settings.

Run by an interpreter that has nncf and openvino, which need not have medquant: nncf_peer.py MODEL.xml INPUTS.npz
OUT.xml, with "transformer" as a fourth argument where the network is one. INPUTS holds arrays (inputs, batch, ...).
Prints JSON: NNCF's version and the seconds that quantizing took.
"""

from __future__ import annotations

import json
import sys
import time


def main(model_path: str, inputs_path: str, target: str, kind: str = "") -> None:
    """Quantize one OpenVINO model and save it."""
    import nncf
    import numpy as np
    import openvino

    model = openvino.Core().read_model(model_path)
    with np.load(inputs_path) as held:
        inputs = list(held["inputs"])
    began = time.perf_counter()
    dataset = nncf.Dataset(inputs, lambda array: [array])
    options = {"model_type": nncf.ModelType.TRANSFORMER} if kind == "transformer" else {}
    quantized = nncf.quantize(model, dataset, subset_size=len(inputs), **options)
    seconds = time.perf_counter() - began
    openvino.save_model(quantized, target, compress_to_fp16=False)
    print(json.dumps({"version": nncf.__version__, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A small real UNETR (MONAI's), trained on phantoms: for demonstration and benchmarks, never for diagnosis.

`train` makes the weights folder that travels with the package (also `python -m medquant.embedded.unetr_demo.training`);
`python -m medquant.embedded.unetr_demo.evaluate` measures it.
"""

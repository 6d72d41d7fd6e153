"""A small diffusion network of MAISI's kind (MONAI's), trained on slices of phantoms: for an experiment, no more.

`train` makes the weights folder that travels with the package (also
`python -m medquant.embedded.diffusion_demo.training`); `medquant bench generation` measures it, quantized and not.
"""

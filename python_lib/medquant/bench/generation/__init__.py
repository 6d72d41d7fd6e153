"""Quantized diffusion networks: MedQuanBench's additional task (appendix H, Table 14), as an experiment.

The paper quantizes MAISI, whose weights are not at hand. What is quantized here is MAISI's network in small, trained on
slices of phantoms (`medquant.embedded.diffusion_demo`).
"""

"""Quantized diffusion networks: MedQuanBench's additional task (appendix H, Table 14), as an experiment.

The paper quantizes MAISI, whose weights nothing here loads. What is quantized is MAISI's network in small, trained on
slices of phantoms (`medquant.embedded.diffusion_demo`).
"""

"""Running quantized models on integer kernels, and giving them to others."""

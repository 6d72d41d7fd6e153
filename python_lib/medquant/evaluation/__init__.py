"""How good a segmentation is, and how much of it quantization costs: metrics, comparison, figures, report."""

"""Models that travel with the package, trained on procedural images only. They demonstrate; they diagnose nothing."""

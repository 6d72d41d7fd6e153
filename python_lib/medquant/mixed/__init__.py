"""Mixed precision: bits for each layer where they matter, the smallest model that is still safe."""

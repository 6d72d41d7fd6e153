"""Solvers: pure functions from a weight matrix, a Gram matrix and a grid to codes and scales."""

"""Permutation-COMQ (arXiv 2604.07674) run again: its simulation for every reading, and its tables on scans."""

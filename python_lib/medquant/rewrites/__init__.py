"""Rewrites of a network that make its layers easier to round, one idea a file.

All keep its function but the redesign, which makes a different model.
"""

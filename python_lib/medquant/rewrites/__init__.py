"""Rewrites of a network that keep its function and make its layers easier to round. One idea a file."""

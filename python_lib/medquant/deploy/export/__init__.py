"""Models in files that other programs run, each with its card, an example and a script, and verified."""

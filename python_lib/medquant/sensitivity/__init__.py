"""Which layers break first: every layer rounded by itself, given back by itself, or judged by its own output."""

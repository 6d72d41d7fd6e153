"""Networks whose authors publish weights and that no library here has: modules with the names of those weights."""

"""How hot operations reach XLA. A kernel assumes checked arguments; only `fnn.functional` imports it."""

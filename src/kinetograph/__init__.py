"""Kinetograph: graph neural network force fields, their dynamics, and whether to trust them."""

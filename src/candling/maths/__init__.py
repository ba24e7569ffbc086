"""Tensors and numbers in, numbers out. Knows no network."""

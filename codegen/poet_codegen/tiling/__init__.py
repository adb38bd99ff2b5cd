"""Ops whose operands are larger than memory: tile loops over the ops' own kernels, and the modes that offer them."""

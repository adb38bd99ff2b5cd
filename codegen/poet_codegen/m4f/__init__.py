"""Micro-kernels for the Cortex-M4F in its own assembly: the same sums in the same order as the portable C, faster."""

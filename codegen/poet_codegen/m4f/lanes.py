"""Kernels that go through their tensors several elements at a time (templates/kernels/lanes.j2)."""

from __future__ import annotations

from poet_codegen.ops.registry import Blocked, Kernel

LANES = 8
"""Elements side by side."""
LANES_OF_FUNCTIONS = 4
"""Of those that a function is computed for inline: it takes registers of its own."""
LANE_REGISTERS = 24
"""Of the FPU's 32; the others are for constants and intermediate results."""


def with_lanes(kernel: Kernel, run: int) -> Kernel:
    """The kernel with its form in lanes, `<template>_m4f.c.j2`, where the shortest row it goes along is long enough."""
    if run < LANES:
        return kernel
    template = kernel.template.replace(".c.j2", "_m4f.c.j2")
    return Kernel(kernel.template, kernel.name, kernel.values, kernel.arguments, Blocked(template, kernel.values))

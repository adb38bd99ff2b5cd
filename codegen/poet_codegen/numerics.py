"""Numerics: how the sums of products of a build are rounded, a property that all its bits depend on."""

from __future__ import annotations

from enum import StrEnum


class Numerics(StrEnum):
    """Each is bit for bit the same on the host and on every board that has it."""

    SEPARATE = "separate"  # rounded after each product and after each sum; every core has it
    FUSED = "fused"  # rounded once a multiply-add: fmaf in every sum of products

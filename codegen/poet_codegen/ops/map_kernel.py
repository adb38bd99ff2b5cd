"""The kernel behind every op that is one formula over strided operands, with or without a sum over some axes.

Elementwise ops with broadcasting, their gradients, reductions, transposition and matrix products differ only in the
formula and in the strides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poet_codegen.m4f.lanes import LANE_REGISTERS, LANES, LANES_OF_FUNCTIONS
from poet_codegen.ops.nest import Nest, Shape, literal, name_of_number, nest
from poet_codegen.ops.registry import Blocked, Kernel


@dataclass(frozen=True)
class Formula:
    """What a pointwise op computes, as C text with {operand} and {attribute} in it."""

    stem: str
    """Start of the C name."""
    title: str
    """What the kernel is, for its comment: '{title} {n} elements'."""
    operands: tuple[str, ...]
    result: str
    """Name of the output in C."""
    value: str
    locals: tuple[str, ...] = ()
    """C declarations that the value uses."""
    constants: tuple[str, ...] = ()
    """Attributes that are numbers in the formula."""
    cycles: str = "elementwise"
    """Row of the cycle table."""
    finish: str = "sum"
    """What the result is, given the sum."""


def map_kernel(
    formula: Formula,
    space: Shape,
    strides: Mapping[str, Shape],
    out_strides: Shape,
    numbers: Mapping[str, float],
    arguments: tuple[str, ...],
) -> Kernel:
    """templates/kernels/map.c.j2 over the iteration space.

    `strides` are those of the operands that are tensors, in the order of the C parameters; `numbers` stand for the
    others and for the formula's constants. Axes along which `out_strides` is 0 are summed, in row-major order.
    """
    axes = range(len(space))
    summed = [a for a in axes if space[a] > 1 and out_strides[a] == 0]
    kept = [a for a in axes if a not in summed]
    outer = nest([space[a] for a in kept], [[s[a] for a in kept] for s in (*strides.values(), out_strides)])
    inner = nest([space[a] for a in summed], [[s[a] for a in summed] for s in strides.values()], first=len(outer.loops))
    texts = {name: literal(value) for name, value in numbers.items()}
    for position, operand in enumerate(strides):
        index = outer.indices[position]
        if summed:
            index = _joined(index, inner.indices[position])
        texts[operand] = f"{operand}[{index}]"
    suffix = outer.suffix + (f"_sum{inner.suffix}" if summed else "")
    name = f"{formula.stem}_{suffix}" + "".join(f"_{n}{name_of_number(value)}" for n, value in numbers.items())
    values = {
        "name": name,
        "comment": _comment(formula, list(strides), outer, inner, bool(summed)),
        "inputs": tuple(strides),
        "output": formula.result,
        "target": (target := f"{formula.result}[{outer.indices[-1]}]"),
        "loops": outer.loops,
        "sum_loops": inner.loops if summed else (),
        "locals": [line.format(**texts) for line in formula.locals],
        "step": (_sum_step(formula) if summed else f"{target} = {formula.value};").format(**texts),
        "finish": formula.finish.format(**texts),
    }
    stream = None if summed else _streamed(formula, tuple(strides), outer, texts)
    blocked = Blocked("map_m4f.c.j2", values | stream) if stream else None
    return Kernel("map.c.j2", name, values, arguments, blocked)


_INLINE = ("poet_expf(", "poet_exp_of_negative(", "poet_sqrtf(", "poet_normal_cdff(")


def _streamed(f: Formula, tensors: Sequence[str], outer: Nest, numbers: Mapping[str, str]) -> dict[str, Any] | None:
    """What map_m4f.c.j2 renders beside the plain form's values; None where that has nothing to gain.

    The innermost loop goes over lanes: each operand that moves with it comes by VLDM, the others stand still.
    """
    text = " ".join((f.value, *f.locals))
    for function in _INLINE:
        text = text.replace(function, "(")
    moving = [name for name, step in zip(tensors, outer.inner_steps, strict=False) if step]
    if "poet_" in text or not moving or any(step not in (0, 1) for step in outer.inner_steps):
        return None
    is_cheap = text == " ".join((f.value, *f.locals))
    lanes = LANES if is_cheap else LANES_OF_FUNCTIONS
    count = outer.loops[-1].count
    if outer.inner_steps[-1] != 1 or count < lanes or len(moving) * lanes > LANE_REGISTERS:
        return None
    texts = {name: text for name, text in numbers.items() if name not in tensors}
    texts |= {name: f"<{name}>" if name in moving else f"{name}_here" for name in tensors}
    lines = [line.format(**texts) for line in f.locals]
    value = f"<=> = {f.value.format(**texts)};"
    return {
        "outer_loops": outer.loops[:-1],
        "starts": tuple(zip((*tensors, f.result), outer.outer_indices, strict=True)),
        "moving": tuple(moving),
        "count": count,
        "lanes": lanes,
        "element": "\n    ".join(["{", *lines, value]) + "\n}" if lines else value,
    }


_PRODUCT = re.compile(r"(\{\w+\}) \* (\{\w+\})")


def _sum_step(f: Formula) -> str:
    """Takes a value into the sum; products as the build's numerics say."""
    product = _PRODUCT.fullmatch(f.value)
    return f"sum = poet_mac({product[1]}, {product[2]}, sum);" if product else f"sum += {f.value};"


def _joined(outer: str, inner: str) -> str:
    return inner if outer == "0" else outer if inner == "0" else f"{outer} + {inner}"


def _comment(f: Formula, tensors: Sequence[str], outer: Nest, inner: Nest, summed: bool) -> str:
    """What the kernel does. Equal names must give equal text, so that nothing but the loops is in it."""
    extent = "x".join(str(loop.count) for loop in outer.loops)
    if summed:
        each = "x".join(str(loop.count) for loop in inner.loops)
        return f"{f.title} {extent} x {each} elements; each of the {extent} results sums its {each} in row-major order."
    if len(outer.loops) > 1 or any(index != "i" for index in outer.indices):
        return f"{f.title} {extent} elements with broadcasting."
    return f"{f.title} {extent} elements; {f.result} may be {' or '.join(tensors)}."

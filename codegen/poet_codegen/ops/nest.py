"""Loop nests over strided tensors: broadcasting, collapsing of axes, and index expressions for the kernels' templates.

An operand is a tensor seen through strides: for every axis of the iteration space the number of elements from one
index to the next, 0 along axes that it is repeated over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from poet_codegen.render import c_float

Shape = tuple[int, ...]
_VARIABLES = "ijklmpqrtuvw"


@dataclass(frozen=True)
class Loop:
    """One C loop: variable from 0 to count - 1."""

    variable: str
    count: int


@dataclass(frozen=True)
class Nest:
    """Loops, outermost first, and for each operand the index of its element as a C expression."""

    loops: tuple[Loop, ...]
    indices: tuple[str, ...]
    suffix: str
    """Extents, and the strides of operands that are not dense, for a C name."""
    inner_steps: tuple[int, ...]
    """From one element of each operand to the next in the innermost loop."""
    outer_indices: tuple[str, ...]
    """The indices at the start of the innermost loop."""


def strides_of(shape: Sequence[int]) -> Shape:
    """Strides of a dense tensor, in elements."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def broadcast(shapes: Iterable[Sequence[int]]) -> Shape | None:
    """The common shape by numpy's rule, or None."""
    result: list[int] = []
    for shape in shapes:
        result = [1] * (len(shape) - len(result)) + result
        for axis, size in enumerate(shape, len(result) - len(shape)):
            if result[axis] not in (size, 1) and size != 1:
                return None
            result[axis] = max(result[axis], size)
    return tuple(result)


def broadcast_strides(shape: Sequence[int], space: Sequence[int]) -> Shape:
    """Strides of a dense tensor of `shape` seen as one of shape `space`: 0 along axes that it is repeated over."""
    lead = len(space) - len(shape)
    dense = strides_of(shape)
    return (0,) * lead + tuple(0 if size == 1 else stride for size, stride in zip(shape, dense, strict=True))


def nest(extents: Sequence[int], operands: Sequence[Sequence[int]], first: int = 0) -> Nest:
    """Loops over `extents` with as few axes as the operands' strides allow.

    Axes of size 1 vanish, and neighbours that every operand runs through without a gap become one; the order of the
    iteration stays. `first` is how many loop variables are taken already.
    """
    sizes, steps = _collapse(extents, operands)
    single = len(sizes) == 1 and not first
    variables = ["i"] if single else list(_VARIABLES[first : first + len(sizes)])
    assert len(variables) == len(sizes), "more axes than loop variables"
    loops = tuple(Loop(v, n) for v, n in zip(variables, sizes, strict=True))
    indices = tuple(_index(variables, [step[operand] for step in steps]) for operand in range(len(operands)))
    dense = strides_of(sizes)
    marks = []
    for operand in range(len(operands)):
        own = tuple(step[operand] for step in steps)
        if own != dense:
            marks.append(f"_{'abcdefgh'[operand]}" + "x".join(str(s).replace("-", "m") for s in own))
    outer = tuple(_index(variables[:-1], [step[operand] for step in steps[:-1]]) for operand in range(len(operands)))
    return Nest(loops, indices, "x".join(map(str, sizes)) + "".join(marks), steps[-1], outer)


def _collapse(extents: Sequence[int], operands: Sequence[Sequence[int]]) -> tuple[list[int], list[tuple[int, ...]]]:
    sizes: list[int] = []
    steps: list[tuple[int, ...]] = []
    for axis, size in enumerate(extents):
        if size == 1:
            continue
        here = tuple(strides[axis] for strides in operands)
        if sizes and all(outer == inner * size for outer, inner in zip(steps[-1], here, strict=True)):
            sizes[-1] *= size
            steps[-1] = here
        else:
            sizes.append(size)
            steps.append(here)
    return (sizes, steps) if sizes else ([1], [(1,) * len(operands)])


def _index(variables: Sequence[str], strides: Sequence[int]) -> str:
    terms = [times(v, stride) for v, stride in zip(variables, strides, strict=True) if stride]
    return add_terms(*terms)


def times(variable: str, factor: int) -> str:
    """C expression for a product."""
    return variable if factor == 1 else f"{variable} * {factor}"


def add_terms(*terms: str) -> str:
    """C expression for a sum; terms that are empty or 0 vanish."""
    return " + ".join(term for term in terms if term not in ("", "0")) or "0"


def name_of_number(value: float) -> str:
    """A float32 as part of a C name; different numbers give different names."""
    return literal(value).removesuffix("f").replace("-", "m").replace("+", "").replace(".", "p")


def literal(value: float) -> str:
    """C literal of a float32, infinities included."""
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "-INFINITY"
    return c_float(value)

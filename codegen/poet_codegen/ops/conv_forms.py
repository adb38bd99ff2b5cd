"""Which blocked form each convolution, or gradient of one, takes on cores with the Cortex-M4F's instructions.

1x1 convolutions are matrix products of weights and pixels; those of one channel each go down the image with all
weights in registers; all others are blocks of sums that the inputs stream past. Shapes as in ops/conv.py.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from poet_codegen.graph import Node
from poet_codegen.m4f.conv import (
    BlockedSums,
    blocked_forward,
    blocked_input_gradient,
    channels_forward,
    channels_input_gradient,
)
from poet_codegen.m4f.depthwise import ChannelBlock
from poet_codegen.m4f.products import Operand, Product, Start
from poet_codegen.m4f.rows import Call, Extent
from poet_codegen.m4f.weights import COMPACT_BYTES, FAST_BYTES, blocked_weights
from poet_codegen.ops.product import ProductForm, gradient_form, product_form
from poet_codegen.ops.registry import Blocked, Shape
from poet_codegen.ops.split import CONTINUES
from poet_codegen.ops.update import Sink
from poet_codegen.ops.window import Window


def forward_form(node: Node, name: str, x: Shape, w: Shape, y: Shape, has_bias: bool) -> Blocked | None:
    """Of y = conv(x, w) + b; None for a shape without blocks."""
    window, (source, target) = Window.of(node, w[2:]), _extents(node, x, y)
    if _is_pointwise(window):
        return _pointwise_forward(node, name, window, x, w, y, has_bias)
    names = {"name": name, "source_name": "x", "target_name": "y", "has_bias": has_bias}
    continues = CONTINUES in node.attrs
    channels = channels_forward(window, source, target, has_bias) if w[1] == 1 and not continues else None
    rows = _blocked(node, blocked_forward(window, source, target, continues), w, x[0], names)
    return _depthwise(channels, y, target.channels, names, rows) if channels else rows


def input_gradient_form(node: Node, name: str, dx: Shape, w: Shape, dy: Shape) -> Blocked | None:
    """Of x's gradient; None for a shape without blocks."""
    window, (target, source) = Window.of(node, w[2:]), _extents(node, dx, dy)
    if _is_pointwise(window):
        return _pointwise_input_gradient(node, name, window, dx, w, dy)
    names = {"name": name, "source_name": "dy", "target_name": "dx", "has_bias": False}
    continues = CONTINUES in node.attrs
    is_depthwise = w[1] == source.channels == 1 and not continues
    channels = channels_input_gradient(window, source, target) if is_depthwise else None
    rows = _blocked(node, blocked_input_gradient(window, source, target, continues), w, dx[0], names)
    return _depthwise(channels, dx, 1, names, rows) if channels else rows


def weight_gradient_form(
    node: Node, name: str, x: Shape, dw: Shape, dy: Shape, sink: Sink, values: dict[str, Any]
) -> Blocked | None:
    """Of w's gradient, `values` being those of the plain kernel; None for a shape without blocks."""
    window, (source, target) = Window.of(node, dw[2:]), _extents(node, x, dy)
    if _is_pointwise(window) and window.strides == (1, 1):
        return _pointwise_weight_gradient(node, name, dw, dy, sink)
    shape = (window, source, target, x[0], prod(x[1:]), prod(dy[1:]), CONTINUES in node.attrs)
    forms = [blocked_weights(*shape, most) for most in (FAST_BYTES, COMPACT_BYTES)]
    found = [
        Blocked("conv2d_weight_grad_m4f.c.j2", {**values, "b": blocks}, fuses=True) if blocks else None
        for blocks in forms
    ]
    return replace(found[0], compact=found[1]) if found[0] else None


def _is_pointwise(window: Window) -> bool:
    """A 1x1 convolution: a matrix product of weights and pixels."""
    return (window.kernel, window.pads) == ((1, 1), (0, 0, 0, 0))


def _pointwise_forward(
    node: Node, name: str, window: Window, x: Shape, w: Shape, y: Shape, has_bias: bool
) -> Blocked | None:
    groups, rows, depth = node.int("groups"), w[0] // node.int("groups"), w[1]
    height, width, (down, right) = *y[2:], window.strides
    # With a stride every row of pixels is a product of its own.
    parts = height if window.strides != (1, 1) else 1
    pixels, matrices = height * width, y[0] * groups
    continues = CONTINUES in node.attrs
    start = Start.TARGET if continues else Start.ROW if has_bias else Start.ZERO
    b = Operand(False, x[2] * x[3], stride=right)
    product = Product(rows, pixels // parts, depth, Operand(True, depth), b, pixels, start)
    form = ProductForm(
        _weights("w", rows * depth, groups, parts),
        _place("x", depth * x[2] * x[3], down * x[3], matrices, parts),
        _place("y", rows * pixels, width, matrices, parts),
        f"const float *x, const float *w, {'const float *b, ' if has_bias else ''}float *y",
        start=_weights("b", rows, groups, parts) if start is Start.ROW else "",
        matrices=matrices * parts,
        before=("(void)b;",) if has_bias and continues else (),
    )
    return product_form(name, product, form)


def _pointwise_input_gradient(node: Node, name: str, window: Window, dx: Shape, w: Shape, dy: Shape) -> Blocked | None:
    groups, rows, depth = node.int("groups"), w[1], w[0] // node.int("groups")
    height, width, (down, right) = *dy[2:], window.strides
    parts = height if window.strides != (1, 1) else 1
    pixels, matrices = height * width, dy[0] * groups
    # The pixels that were not read are between the others.
    clear = (f"for (int i = 0; i < {prod(dx)}; i++) {{", "    dx[i] = 0.0f;", "}")
    a, b = Operand(False, rows), Operand(False, pixels)
    continues = CONTINUES in node.attrs
    start = Start.TARGET if continues else Start.ZERO
    product = Product(rows, pixels // parts, depth, a, b, dx[2] * dx[3], start, y_stride=right)
    form = ProductForm(
        _weights("w", rows * depth, groups, parts),
        _place("dy", depth * pixels, width, matrices, parts),
        _place("dx", rows * dx[2] * dx[3], down * dx[3], matrices, parts),
        "const float *dy, const float *w, float *dx",
        matrices=matrices * parts,
        before=clear if window.strides != (1, 1) and not continues else (),
    )
    return product_form(name, product, form)


def _pointwise_weight_gradient(node: Node, name: str, dw: Shape, dy: Shape, sink: Sink) -> Blocked | None:
    groups, pixels = node.int("groups"), prod(dy[2:])
    rows, columns = dw[0] // groups, dw[1]
    a, b = (Operand(True, pixels, image=channels * groups * pixels) for channels in (rows, columns))
    start = Start.TARGET if CONTINUES in node.attrs else Start.ZERO
    product = Product(rows, columns, pixels, a, b, columns, start, sink.end, images=dy[0])
    left, right = _place("dy", rows * pixels, 0, groups, 1), _place("x", columns * pixels, 0, groups, 1)
    form = ProductForm(left, right, "", "const float *x, const float *dy", matrices=groups)
    return gradient_form(name, product, form, sink, rows * columns)


def _place(name: str, elements: int, part_elements: int, matrices: int, parts: int) -> str:
    """C: where the pixels of matrix m begin; it counts images of groups, and with several parts the rows in each."""
    if parts == 1:
        return f"{name} + m * {elements}" if matrices > 1 else name
    image = f"m / {parts} * {elements} + " if matrices > 1 else ""
    return f"{name} + {image}m % {parts} * {part_elements}"


def _weights(name: str, elements: int, groups: int, parts: int) -> str:
    """C: where the weights of matrix m begin; they repeat with every image."""
    if groups == 1:
        return name
    return f"{name} + m{f' / {parts}' if parts > 1 else ''} % {groups} * {elements}"


def _extents(node: Node, x: Shape, y: Shape) -> tuple[Extent, Extent]:
    """One group's side of the inputs and of the outputs."""
    groups = node.int("groups")
    return Extent(x[1] // groups, x[2], x[3]), Extent(y[1] // groups, y[2], y[3])


def _blocked(node: Node, blocks: BlockedSums | None, w: Shape, batch: int, names: dict[str, Any]) -> Blocked | None:
    if blocks is None:
        return None
    groups = node.int("groups")
    values = {
        "b": blocks,
        "batch": batch,
        "groups": groups,
        "group_weights": w[0] // groups * prod(w[1:]),
        "continues": CONTINUES in node.attrs,
    }
    return Blocked("conv2d_m4f.c.j2", values | names, fuses=True)


def _depthwise(
    calls: tuple[Call[ChannelBlock], ...],
    target: Shape,
    outputs_per_input: int,
    names: dict[str, Any],
    compact: Blocked | None,
) -> Blocked:
    planes = {"planes": target[0] * target[1], "channels": target[1], "outputs_per_input": outputs_per_input}
    return Blocked("depthwise_m4f.c.j2", {"calls": calls, **planes, **names}, compact, fuses=True)

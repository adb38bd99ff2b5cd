"""2-D convolution: forward, input gradient, weight gradient and bias gradient.

Layouts: x [N, C, H, W], w [O, C/groups, KH, KW], b [O], y [N, O, OH, OW]. Attributes: strides, dilations (2 ints each),
pads (top, left, bottom, right), groups; gradients also carry the input's or the kernel's extent.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from poet_codegen.graph import AttrValue, Graph, Node, Tensor
from poet_codegen.m4f.sums import blocked_sums
from poet_codegen.ops.conv_forms import forward_form, input_gradient_form, weight_gradient_form
from poet_codegen.ops.registry import Blocked, Kernel, Op, Part, Shape, Work, register
from poet_codegen.ops.split import CONTINUES, Axis, Blocks, by_axes, by_units
from poet_codegen.ops.split import Part as SplitPart
from poet_codegen.ops.update import Gradient, Sink, register_gradient
from poet_codegen.ops.window import Window, in_two_dimensions, read_window

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer


class Conv(Op):
    """y = conv(x, w) + b."""

    name = "Conv"
    onnx = ("Conv",)
    parts = ((2, Part.BIAS),)
    supported = "1-D and 2-D, any kernel, stride, padding, dilation and groups"

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Import ONNX Conv."""
        x, w = importer.value(node, 0), importer.value(node, 1)
        if len(x.shape) not in (3, 4) or len(w.shape) != len(x.shape):
            raise node.refuse(
                f"works on shapes {list(x.shape)} and {list(w.shape)}", "Only 1-D and 2-D convolution is supported."
            )
        line = len(x.shape) == 3
        conv = in_two_dimensions(node) if line else node
        if line:
            x, w = (importer.step(node, "Reshape", [t], {"shape": (*t.shape[:2], 1, t.shape[2])})[0] for t in (x, w))
        window = read_window(conv, x.shape, w.shape[2:])
        groups = int(node.attrs.get("group", 1))
        if x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
            raise node.refuse(
                f"input has {x.shape[1]} channels, but weights {list(w.shape)} with {groups} groups take others",
                "Check the model.",
            )
        inputs = [x, w] + ([importer.value(node, 2)] if node.has(2) else [])
        attrs = {**window.attrs(), "groups": groups}
        if line:
            (y,) = importer.step(node, self.name, inputs, attrs)
            importer.add(node, "Reshape", [y], {"shape": (*y.shape[:2], y.shape[3])})
        else:
            importer.add(node, self.name, inputs, attrs)

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[N, O, OH, OW]."""
        x, w = inputs[0].shape, inputs[1].shape
        return ((x[0], w[0], *Window.of(node, w[2:]).output(x[2:])),)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """Gradients of x, w and b from dy."""
        x, w = node.inputs[:2]
        (dy,) = grads
        attrs: dict[str, AttrValue] = dict(node.attrs)
        if tape.wants(x):
            tape.add_gradient(x, "ConvInputGrad", (dy, w), {**attrs, "extent": tape.shape(x)[2:]})
        if tape.wants(w):
            tape.add_gradient(w, "ConvWeightGrad", (x, dy), {**attrs, "kernel": tape.shape(w)[2:]})
        if len(node.inputs) > 2 and tape.wants(node.inputs[2]):
            tape.add_gradient(node.inputs[2], "ConvBiasGrad", (dy,), {})

    def work(self, graph: Graph, node: Node) -> Work:
        """One multiply-add for each output element and tap."""
        y, w = graph.tensors[node.outputs[0]], graph.tensors[node.inputs[1]]
        row = "conv2d" if self.kernel(graph, node).blocked else "conv2d_plain"
        return Work(row, macs=y.elements * prod(w.shape[1:]), elements=y.elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/conv2d.c.j2."""
        x, w, y = (graph.tensors[n].shape for n in (*node.inputs[:2], node.outputs[0]))
        values = _values(node, x, w, y) | {"has_bias": len(node.inputs) > 2}
        name = _name("conv2d", values) + ("" if values["has_bias"] else "_nobias")
        blocked = forward_form(node, name, x, w, y, values["has_bias"])
        return Kernel("conv2d.c.j2", name, values | {"name": name}, (*node.inputs, *node.outputs), blocked)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By output channels, or by groups."""
        return _splits(graph, node, node.inputs[0], node.inputs[1], node.outputs[0], node.inputs[2:])


class ConvInputGrad(Op):
    """dx from dy and w."""

    name = "ConvInputGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[N, C, H, W]."""
        dy, w = inputs[0].shape, inputs[1].shape
        return ((dy[0], w[1] * node.int("groups"), *node.ints("extent")),)

    def work(self, graph: Graph, node: Node) -> Work:
        """As many multiply-adds as the forward convolution."""
        dy, w = (graph.tensors[n] for n in node.inputs)
        row = "conv2d_input_grad" if self.kernel(graph, node).blocked else "conv2d_input_grad_plain"
        return Work(row, macs=dy.elements * prod(w.shape[1:]), elements=dy.elements)

    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """templates/kernels/conv2d_input_grad.c.j2."""
        dy, w, dx = (graph.tensors[n].shape for n in (*node.inputs, *node.outputs))
        values = _values(node, dx, w, dy)
        name = _name("conv2d_input_grad", values)
        blocked = input_gradient_form(node, name, dx, w, dy)
        return Kernel("conv2d_input_grad.c.j2", name, values | {"name": name}, (*node.inputs, *node.outputs), blocked)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By output channels, whose terms add up; by groups, which do not touch each other."""
        return _splits(graph, node, node.outputs[0], node.inputs[1], node.inputs[0], adds_up=True)


class ConvWeightGrad(Gradient):
    """dw from x and dy."""

    name = "ConvWeightGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[O, C/groups, KH, KW]."""
        x, dy = inputs[0].shape, inputs[1].shape
        return ((dy[1], x[1] // node.int("groups"), *node.ints("kernel")),)

    def work(self, graph: Graph, node: Node) -> Work:
        """As many multiply-adds as the forward convolution."""
        dy, dw = graph.tensors[node.inputs[1]], graph.tensors[node.outputs[0]]
        row = "conv2d_weight_grad" if self.kernel(graph, node).blocked else "conv2d_weight_grad_plain"
        return Work(row, macs=dy.elements * prod(dw.shape[1:]), elements=dw.elements)

    def sink_kernel(self, graph: Graph, node: Node, sink: Sink) -> Kernel:
        """templates/kernels/conv2d_weight_grad.c.j2."""
        x, dy, dw = (graph.tensors[n].shape for n in (*node.inputs, *node.outputs))
        values = _values(node, x, dw, dy) | sink.texts("sum", "at")
        name = _name(f"conv2d_weight_{sink.stem}", values) + sink.suffix
        values |= {"name": name}
        blocked = weight_gradient_form(node, name, x, dw, dy, sink, values)
        return Kernel("conv2d_weight_grad.c.j2", name, values, (*node.inputs, *sink.arguments), blocked)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By output channels, or by groups."""
        return _splits(graph, node, node.inputs[0], node.outputs[0], node.inputs[1])


class ConvBiasGrad(Gradient):
    """db[o] = sum of dy[:, o]."""

    name = "ConvBiasGrad"

    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """[O]."""
        return ((inputs[0].shape[1],),)

    def work(self, graph: Graph, node: Node) -> Work:
        """One addition an element of dy."""
        return Work("reduce", elements=graph.tensors[node.inputs[0]].elements)

    def sink_kernel(self, graph: Graph, node: Node, sink: Sink) -> Kernel:
        """templates/kernels/bias_grad.c.j2: sums dy [N, O, ...] over all axes but the second."""
        (dy,) = (graph.tensors[name].shape for name in node.inputs)
        name = f"bias_{sink.stem}_{dy[0]}x{dy[1]}x{prod(dy[2:])}{sink.suffix}"
        values = {"name": name, "batch": dy[0], "channels": dy[1], "pixels": prod(dy[2:]), **sink.texts("sum", "o")}
        loops = blocked_sums(dy[0], dy[1], prod(dy[2:]))
        blocked = Blocked("bias_grad_m4f.c.j2", {**values, "loops": loops}, fuses=True) if loops else None
        return Kernel("bias_grad.c.j2", name, values, (*node.inputs, *sink.arguments), blocked)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """By channels."""
        (dy,), (db,) = node.inputs, node.outputs
        _, channels, *plane = graph.tensors[dy].shape
        return (by_axes(graph, node, [Axis("channel", channels)], {dy: (None, 0, *(None for _ in plane)), db: (0,)}),)


def _splits(
    graph: Graph, node: Node, x: str, w: str, y: str, bias: Sequence[str] = (), adds_up: bool = False
) -> tuple[Blocks, ...]:
    """Of a convolution of one image, or of a gradient, by what is x, w, y and bias of the forward one."""
    (batch, in_channels, *in_plane), (_, out_channels, *out_plane) = graph.tensors[x].shape, graph.tensors[y].shape
    filter_shape, groups = graph.tensors[w].shape[1:], node.int("groups")
    if batch != 1:
        return ()
    group_in, group_out = in_channels // groups, out_channels // groups

    def some_outputs(units: int) -> SplitPart:
        shapes = {w: (units, *filter_shape), y: (1, units, *out_plane), **dict.fromkeys(bias, (units,))}
        return SplitPart(shapes)

    def some_groups(units: int) -> SplitPart:
        shapes = some_outputs(units * group_out).shapes
        return SplitPart({**shapes, x: (1, units * group_in, *in_plane)}, {"groups": units})

    elements = {w: prod(filter_shape), y: prod(out_plane), **dict.fromkeys(bias, 1)}
    if groups == 1:
        return (by_units("output channel", out_channels, elements, some_outputs, adds_up),)
    elements = {name: group_out * size for name, size in elements.items()} | {x: group_in * prod(in_plane)}
    return (by_units("group", groups, elements, some_groups),)


def _values(node: Node, x: Shape, w: Shape, y: Shape) -> dict[str, Any]:
    groups = node.int("groups")
    continues = CONTINUES in node.attrs
    group_in, group_out = x[1] // groups, y[1] // groups
    window = Window.of(node, w[2:])
    return window.expressions() | {
        "window": window.suffix() + _height_suffix(window, x, y),
        "continues": continues,
        "batch": x[0],
        "in_channels": x[1],
        "in_h": x[2],
        "in_w": x[3],
        "out_channels": y[1],
        "out_h": y[2],
        "out_w": y[3],
        "kernel_h": w[2],
        "kernel_w": w[3],
        "in_image": x[1] * x[2] * x[3],
        "in_plane": x[2] * x[3],
        "out_plane": y[2] * y[3],
        "window_taps": w[2] * w[3],
        "filter_taps": group_in * w[2] * w[3],
        "groups": groups,
        "group_in": group_in,
        "group_out": group_out,
        # C expressions that only groups make interesting.
        "first_input": f" + o / {group_out} * {group_in * x[2] * x[3]}" if groups > 1 else "",
        "first_output": f"c / {group_in} * {group_out}" if groups > 1 else "0",
        "channel_in_group": f"(c % {group_in})" if groups > 1 else "c",
        "input_of_tap": f"o / {group_out} * {group_in} + c" if groups > 1 else "c",
    }


def _height_suffix(window: Window, x: Shape, y: Shape) -> str:
    """For a C name: the height of an output that does not take all rows of the input (a tile's)."""
    return "" if window.output(x[2:])[0] == y[2] else f"_h{y[2]}"


def _name(stem: str, v: dict[str, Any]) -> str:
    extent = f"{v['batch']}x{v['in_channels']}x{v['in_h']}x{v['in_w']}"
    groups = f"_g{v['groups']}" if v["groups"] > 1 else ""
    return f"{stem}_{extent}_to_{v['out_channels']}_{v['window']}{groups}" + ("_on" if v["continues"] else "")


register(Conv())
register(ConvInputGrad())
register_gradient(ConvWeightGrad())
register_gradient(ConvBiasGrad())

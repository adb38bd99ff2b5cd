"""The kernels and shapes of `make bench-kernels`, each beside a naive loop and an ONNX graph of the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx
from onnx.helper import make_node
from poet_codegen.graph import AttrValue, GraphBuilder, Kind, Node, Tensor
from poet_codegen.ops import registry

from benchmarks.emx import graph
from tests.codegen.kernel_program import Case, case, graph_case

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A kernel at a shape. Both baselines take the case's tensors by their position."""

    title: str
    unit: str
    """What cycles are counted per: 'MAC' (those at the edges, too) or 'element'."""
    units: int
    case: Case
    naive: str = ""
    """A call of naive.h."""
    twin: onnx.ModelProto | None = None
    """The same as an ONNX graph, and which tensors its inputs and outputs are."""
    twin_tensors: tuple[int, ...] = ()
    short: bool = False
    """Part of the short run."""


@dataclass(frozen=True)
class _Conv:
    title: str
    n: int
    ci: int
    size: int
    co: int
    k: int
    stride: int = 1
    pad: int = 0
    groups: int = 1
    short: bool = False

    @property
    def out(self) -> int:
        return (self.size + 2 * self.pad - self.k) // self.stride + 1

    @property
    def window(self) -> dict[str, AttrValue]:
        strides = (self.stride, self.stride)
        return {"strides": strides, "dilations": (1, 1), "pads": (self.pad,) * 4, "groups": self.groups}

    @property
    def numbers(self) -> str:
        return (
            f"{self.n}, {self.ci}, {self.size}, {self.size}, {self.co}, {self.k}, {self.stride}, {self.pad}, "
            f"{self.groups}, {self.out}, {self.out}"
        )

    def rows(self) -> list[Row]:
        x, dy = (self.n, self.ci, self.size, self.size), (self.n, self.co, self.out, self.out)
        w, b = (self.co, self.ci // self.groups, self.k, self.k), (self.co,)
        macs = prod(dy) * prod(w[1:])
        common: dict[str, AttrValue] = {"strides": (self.stride,) * 2, "pads": (self.pad,) * 4, "group": self.groups}
        forward = make_node("Conv", ["x", "w", "b"], ["y"], **common)
        # What the stride left over at the far edge.
        left = (self.size + 2 * self.pad - self.k) % self.stride
        backward = make_node("ConvTranspose", ["dy", "w"], ["dx"], output_padding=(left, left), **common)
        fused = case("ConvWeightGradSgd", [w, x, dy, (1,)], self.window | {"kernel": w[2:]})
        # The fused kernel gets x, dy, the learning rate, w.
        return [
            Row(
                f"{self.title}: forward",
                "MAC",
                macs,
                case("Conv", [x, w, b], self.window),
                f"naive_conv({{0}}, {{1}}, {{2}}, {{3}}, {self.numbers})",
                graph([forward], {"x": x, "w": w, "b": b}, {"y": dy}),
                (0, 1, 2, 3),
                self.short,
            ),
            Row(
                f"{self.title}: input gradient",
                "MAC",
                macs,
                case("ConvInputGrad", [dy, w], self.window | {"extent": x[2:]}),
                f"naive_conv_input_grad({{0}}, {{1}}, {{2}}, {self.numbers})",
                graph([backward], {"dy": dy, "w": w}, {"dx": x}),
                (0, 1, 2),
                self.short,
            ),
            Row(
                f"{self.title}: weight gradient",
                "MAC",
                macs,
                case("ConvWeightGrad", [x, dy], self.window | {"kernel": w[2:]}),
                f"naive_conv_weight_grad({{0}}, {{1}}, {{2}}, {self.numbers})",
                *(self._weight_twin(x, w, dy) if self.groups == 1 else (None, ())),
                self.short,
            ),
            Row(f"{self.title}: weight gradient with SGD", "MAC", macs, fused, short=self.short),
        ]

    def _weight_twin(self, x: Shape, w: Shape, dy: Shape) -> tuple[onnx.ModelProto, tuple[int, ...]]:
        """As a convolution of the channels of x, whose kernels are the channels of dy, spread by the stride."""
        swap = (1, 0, 2, 3)
        left = (self.size + 2 * self.pad - self.k) % self.stride
        pads = (self.pad, self.pad, self.pad - left, self.pad - left)
        nodes = [
            make_node("Transpose", ["x"], ["xt"], perm=swap),
            make_node("Transpose", ["dy"], ["dyt"], perm=swap),
            make_node("Conv", ["xt", "dyt"], ["dwt"], pads=pads, dilations=(self.stride,) * 2),
            make_node("Transpose", ["dwt"], ["dw"], perm=swap),
        ]
        return graph(nodes, {"x": x, "dy": dy}, {"dw": w}), (0, 1, 2)


def _dense_rows(batch: int, inputs: int, outputs: int, by_output: bool) -> list[Row]:
    """`by_output`: weights [outputs][inputs], as PyTorch has them."""
    x, y, w = (batch, inputs), (batch, outputs), (outputs, inputs) if by_output else (inputs, outputs)
    attrs: dict[str, AttrValue] = {"transposed": int(by_output)}
    steps = (1, inputs) if by_output else (outputs, 1)
    forward = make_node("Gemm", ["x", "w", "b"], ["y"], transB=int(by_output))
    backward = make_node("Gemm", ["dy", "w"], ["dx"], transB=int(not by_output))
    pair = ["dy", "x"] if by_output else ["x", "dy"]
    weights = make_node("Gemm", pair, ["dw"], transA=1)
    layout = "out x in" if by_output else "in x out"
    title, macs = f"dense {inputs} -> {outputs}, batch {batch}, weights {layout}", batch * inputs * outputs
    by_row = f"{inputs}, 1, {steps[0]}, {steps[1]}"
    by_column = f"{outputs}, 1, {steps[1]}, {steps[0]}"
    a, b, rows, columns = (1, 0, outputs, inputs) if by_output else (0, 1, inputs, outputs)
    naive_weights = f"naive_product({{{a}}}, {{{b}}}, 0, {{2}}, {rows}, {columns}, {batch}, 1, {rows}, {columns}, 1)"
    return [
        Row(
            f"{title}: forward",
            "MAC",
            macs,
            case("Dense", [x, w, (outputs,)], attrs),
            f"naive_product({{0}}, {{1}}, {{2}}, {{3}}, {batch}, {outputs}, {inputs}, {by_row})",
            graph([forward], {"x": x, "w": w, "b": (outputs,)}, {"y": y}),
            (0, 1, 2, 3),
            by_output,
        ),
        Row(
            f"{title}: input gradient",
            "MAC",
            macs,
            case("DenseInputGrad", [y, w], attrs),
            f"naive_product({{0}}, {{1}}, 0, {{2}}, {batch}, {inputs}, {outputs}, {by_column})",
            graph([backward], {"dy": y, "w": w}, {"dx": x}),
            (0, 1, 2),
            by_output,
        ),
        Row(
            f"{title}: weight gradient",
            "MAC",
            macs,
            case("DenseWeightGrad", [x, y], attrs),
            naive_weights,
            graph([weights], {"x": x, "dy": y}, {"dw": w}),
            (0, 1, 2),
            by_output,
        ),
        Row(f"{title}: weight gradient with SGD", "MAC", macs, case("DenseWeightGradSgd", [w, x, y, (1,)], attrs)),
    ]


def _matmul_row(n: int, trans_b: bool) -> Row:
    shape, steps = (n, n), (1, n) if trans_b else (n, 1)
    attrs: dict[str, AttrValue] = {"trans_a": 0, "trans_b": int(trans_b)}
    nodes = [make_node("MatMul", ["a", "b"], ["c"])]
    if trans_b:
        nodes = [make_node("Transpose", ["b"], ["bt"], perm=(1, 0)), make_node("MatMul", ["a", "bt"], ["c"])]
    return Row(
        f"matmul {n} x {n} x {n}" + (", right side transposed" if trans_b else ""),
        "MAC",
        n**3,
        case("MatMul", [shape, shape], attrs),
        f"naive_product({{0}}, {{1}}, 0, {{2}}, {n}, {n}, {n}, {n}, 1, {steps[0]}, {steps[1]})",
        graph(nodes, {"a": shape, "b": shape}, {"c": shape}),
        (0, 1, 2),
        not trans_b,
    )


def _layer_norm(rows: int, columns: int) -> Row:
    """With scale and bias, as ONNX has it."""
    builder = GraphBuilder("case")
    shape, row = (rows, columns), (columns,)
    for name, its in (("x", shape), ("scale", row), ("shift", row)):
        builder.tensor(Tensor(name, its, kind=Kind.INPUT))
    for name, its in (("z", shape), ("mean", (rows, 1)), ("inverse", (rows, 1)), ("y", shape)):
        builder.tensor(Tensor(name, its))
    attrs: dict[str, AttrValue] = {"axis": 1, "epsilon": 1e-5}
    builder.node(Node("LayerNormalization", ("x",), ("z", "mean", "inverse"), "norm", attrs=attrs))
    builder.node(Node("Affine", ("z", "scale", "shift"), ("y",), "affine"))
    twin = make_node("LayerNormalization", ["x", "scale", "shift"], ["y"], axis=1)
    # x, z, mean, inverse, scale, shift, y
    return Row(
        f"layer normalization {rows} x {columns}, scale and bias: forward",
        "element",
        rows * columns,
        graph_case(builder.graph(["y"])),
        f"naive_layer_norm({{0}}, {{1}}, {{2}}, {{3}}, {{4}}, {{5}}, {{6}}, {rows}, {columns}, 1e-5f)",
        graph([twin], {"x": shape, "scale": row, "shift": row}, {"y": shape}),
        (0, 4, 5, 6),
        True,
    )


def _one(
    title: str,
    op: str,
    shapes: Sequence[Shape],
    attrs: Mapping[str, AttrValue] | None = None,
    naive: str = "",
    onnx_op: str = "",
    onnx_attrs: Mapping[str, object] | None = None,
    *,
    sizes: Sequence[int] = (),
    ends: Mapping[int, int] | None = None,
    counted: int = 0,
    short: bool = False,
) -> Row:
    """A row by the element of the input at position `counted`; its twin is one ONNX node of the same inputs."""
    made = case(op, shapes, dict(attrs or {}), sizes=sizes, ends=ends)
    twin, tensors = None, ()
    if onnx_op:
        names = [f"in{i}" for i in range(len(shapes))]
        node = make_node(onnx_op, names, ["out"], **(onnx_attrs or {}))
        twin = graph([node], dict(zip(names, shapes, strict=True)), {"out": _output(op, shapes, attrs)})
        tensors = tuple(range(len(shapes) + 1))
    return Row(title, "element", prod(shapes[counted]), made, naive, twin, tensors, short)


def _output(op: str, shapes: Sequence[Shape], attrs: Mapping[str, AttrValue] | None) -> Shape:
    inputs = [Tensor(f"in{i}", shape) for i, shape in enumerate(shapes)]
    node = Node(op, tuple(t.name for t in inputs), (), op, attrs=dict(attrs or {}))
    return registry.get(op).shapes(inputs, node)[0]


def _element_rows() -> list[Row]:
    row, plane, flat = (64, 64), (1, 16, 32, 32), (4096,)
    axis: dict[str, AttrValue] = {"axes": (1, 2)}
    halves: dict[str, AttrValue] = {"kernel": (2, 2), "strides": (2, 2), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    averaged = halves | {"count_pads": 0}
    half = {"kernel_shape": (2, 2), "strides": (2, 2)}
    small, channels = (1, 16, 16, 16), (16,)
    epsilon: dict[str, AttrValue] = {"epsilon": 1e-5}
    adam: dict[str, AttrValue] = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    count = prod(flat)
    rows = f"{row[0]}, {row[1]}"
    return [
        _one(
            "softmax 64 x 64: forward",
            "Softmax",
            [row],
            axis,
            f"naive_softmax({{0}}, {{1}}, {rows})",
            "Softmax",
            short=True,
        ),
        _one(
            "softmax 64 x 64: gradient",
            "SoftmaxGrad",
            [row, row],
            axis,
            f"naive_softmax_grad({{0}}, {{1}}, {{2}}, {rows})",
        ),
        _one("log softmax 64 x 64: forward", "LogSoftmax", [row], axis, "", "LogSoftmax"),
        _one("cross entropy of 64 x 10 logits", "SoftmaxCrossEntropy", [(64, 10), (64,)], {}, ends={1: 10}),
        _layer_norm(*row),
        _one(
            "layer normalization 64 x 64: gradient",
            "LayerNormalizationGrad",
            [row, (64, 1), row],
            {"axis": 1, "epsilon": 1e-5},
            f"naive_layer_norm_grad({{0}}, {{1}}, {{2}}, {{3}}, {rows})",
        ),
        _one("gelu: forward", "Gelu", [flat], {}, f"naive_gelu({{0}}, {{1}}, {count})", "Gelu", short=True),
        _one("gelu: gradient", "GeluGrad", [flat, flat], {}, f"naive_gelu_grad({{0}}, {{1}}, {{2}}, {count})"),
        _one("gelu by tanh: forward", "GeluTanh", [flat], {}, "", "Gelu", {"approximate": "tanh"}),
        _one("gelu by tanh: gradient", "GeluTanhGrad", [flat, flat]),
        *(
            _one(f"{name.lower()}: forward", name, [flat], {}, "", name)
            for name in ("Sigmoid", "Tanh", "Relu", "Exp", "Erf")
        ),
        *(_one(f"{name.lower()}: gradient", f"{name}Grad", [flat, flat]) for name in ("Sigmoid", "Tanh", "Relu")),
        _one("sqrt: forward", "Sqrt", [flat], {}, "", "Sqrt", sizes=[0]),
        _one("sum of two tensors", "Add", [flat, flat], {}, "", "Add"),
        _one("product of two tensors", "Mul", [flat, flat], {}, "", "Mul"),
        _one("product, one value a column", "Mul", [row, (64,)], {}, "", "Mul"),
        _one("quotient of two tensors", "Div", [flat, flat], {}, "", "Div"),
        _one("sum over rows", "SumTo", [row], {"shape": (64,)}),
        _one("transposition 64 x 64", "Transpose", [row], {"perm": (1, 0)}, "", "Transpose", {"perm": (1, 0)}),
        _one(
            "max pooling 2x2, 16 planes of 32x32: forward",
            "MaxPool",
            [plane],
            halves,
            "naive_max_pool({0}, {1}, 16, 32, 32, 2, 2, 16, 16)",
            "MaxPool",
            half,
            short=True,
        ),
        _one("max pooling 2x2: gradient", "MaxPoolGrad", [plane, small], halves),
        _one(
            "max pooling 3x3 stride 2, padded: forward",
            "MaxPool",
            [plane],
            halves | {"kernel": (3, 3), "pads": (1, 1, 0, 0)},
            "",
            "MaxPool",
            {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 0, 0)},
        ),
        _one("average pooling 2x2: forward", "AveragePool", [plane], averaged, "", "AveragePool", half),
        _one("average pooling 2x2: gradient", "AveragePoolGrad", [small], averaged | {"extent": (32, 32)}),
        _one(
            "global average pooling: forward",
            "ReduceMean",
            [plane],
            {"axes": (2, 3), "keepdims": 1},
            "",
            "GlobalAveragePool",
        ),
        _one(
            "batch normalization, running statistics: forward",
            "BatchNormalization",
            [plane, channels, channels, channels, channels],
            epsilon,
            "",
            "BatchNormalization",
            sizes=[4],
        ),
        _one("batch normalization: statistics", "BatchStatistics", [plane]),
        _one(
            "batch normalization: gradient of scale",
            "BatchNormalizationScaleGrad",
            [plane, channels, channels, plane],
            epsilon,
            sizes=[2],
        ),
        _one(
            "batch normalization: gradient of x through the statistics",
            "BatchNormalizationTrainInputGrad",
            [plane, channels, channels, channels, channels, channels, plane],
            epsilon,
            sizes=[3],
        ),
        _one("gradient of a bias", "ConvBiasGrad", [plane]),
        _one("SGD", "Sgd", [flat, flat, (1,)]),
        _one("SGD with momentum", "Momentum", [flat, flat, flat, (1,)], {"momentum": 0.9}),
        _one("Adam", "Adam", [flat, flat, flat, flat, (1,), (1,)], adam, ends={5: 100}),
    ]


def rows() -> list[Row]:
    """All of them."""
    convolutions = (
        _Conv("conv 3x3, 16 -> 32 channels, 16x16", 1, 16, 16, 32, 3, pad=1, short=True),
        _Conv("conv 3x3, 3 -> 16 channels, 32x32", 1, 3, 32, 16, 3, pad=1),
        _Conv("conv 3x3 stride 2, 16 -> 32 channels, 32x32", 1, 16, 32, 32, 3, stride=2, pad=1),
        _Conv("conv 3x3, 8 -> 8 channels, 8x8, batch 8", 8, 8, 8, 8, 3, pad=1),
        _Conv("conv 5x5, 8 -> 8 channels, 16x16", 1, 8, 16, 8, 5, pad=2),
        _Conv("conv 7x7, 4 -> 4 channels, 16x16", 1, 4, 16, 4, 7, pad=3),
        _Conv("pointwise 1x1, 32 -> 64 channels, 16x16", 1, 32, 16, 64, 1, short=True),
        _Conv("depthwise 3x3, 32 channels, 16x16", 1, 32, 16, 32, 3, pad=1, groups=32, short=True),
        _Conv("depthwise 3x3 stride 2, 32 channels, 16x16", 1, 32, 16, 32, 3, stride=2, pad=1, groups=32),
    )
    dense = [(1, True), (1, False), (8, True), (8, False)]
    return [
        *(row for conv in convolutions for row in conv.rows()),
        *(row for batch, by_output in dense for row in _dense_rows(batch, 256, 128, by_output)),
        *(_matmul_row(64, trans_b) for trans_b in (False, True)),
        *_element_rows(),
    ]

"""Results and gradients of layers, reductions and moves against PyTorch, over drawn shapes and attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from poet_codegen.onnx_import import import_onnx
from poet_codegen.selection import select_trainable

from .op_cases import Case, Check, against, drawn, needs_torch, shapes, values

pytestmark = needs_torch


@pytest.fixture(scope="module")
def against_pytorch(torch_oracle: Any, tmp_path_factory: pytest.TempPathFactory) -> Check:
    return against(torch_oracle, tmp_path_factory)


def ints(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


@st.composite
def reduction(draw: st.DrawFn) -> Case:
    shape = draw(shapes(4, 4, 1))
    kind = draw(
        st.sampled_from(["ReduceSum", "ReduceMean", "GlobalAveragePool", "GlobalMaxPool", "Expand", "Transpose"])
    )
    if kind in ("GlobalAveragePool", "GlobalMaxPool"):
        line_or_image = draw(st.sampled_from([(4,), (2, 3)]))
        volume = (3,) * len(shape[2:]) if kind == "GlobalAveragePool" else ()
        shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *volume, *line_or_image)
        return Case([helper.make_node(kind, ["x"], ["y"])], {"x": values(draw, shape)})
    if kind == "Expand":
        part = tuple(size if draw(st.booleans()) else 1 for size in shape)
        node = helper.make_node(kind, ["x", "s"], ["y"])
        return Case([node], {"x": values(draw, part)}, {"s": ints(*shape)})
    if kind == "Transpose":
        perm = draw(st.permutations(range(len(shape))))
        return Case([helper.make_node(kind, ["x"], ["y"], perm=perm)], {"x": values(draw, shape)})
    axes = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    node = helper.make_node(kind, ["x", "a"], ["y"], keepdims=draw(st.integers(0, 1)))
    return Case([node], {"x": values(draw, shape)}, {"a": ints(*sorted(axes))})


@drawn(reduction(), 3)
def test_reductions_and_transposition(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@st.composite
def product(draw: st.DrawFn) -> Case:
    m, k, n = (draw(st.integers(1, 5)) for _ in range(3))
    if draw(st.booleans()):
        attrs = {
            "transA": draw(st.integers(0, 1)),
            "transB": draw(st.integers(0, 1)),
            "alpha": draw(st.sampled_from([1.0, 0.5])),
            "beta": draw(st.sampled_from([1.0, 0.25])),
        }
        feeds = {
            "a": values(draw, (k, m) if attrs["transA"] else (m, k)),
            "b": values(draw, (n, k) if attrs["transB"] else (k, n)),
        }
        bias = draw(st.sampled_from([None, (n,), (1, n), (m, 1), (m, n), (1,)]))
        if bias:
            feeds["c"] = values(draw, bias)
        return Case([helper.make_node("Gemm", list(feeds), ["y"], **attrs)], feeds)
    batch = draw(shapes(2, 3))
    left = tuple(size if draw(st.booleans()) else 1 for size in batch)
    right = tuple(size if part == 1 or draw(st.booleans()) else 1 for size, part in zip(batch, left, strict=True))
    left, right = left[draw(st.integers(0, len(left))) :], right
    a, b = draw(
        st.sampled_from(
            [
                ((*left, m, k), (*right, k, n)),
                ((k,), (*right, k, n)),
                ((*left, m, k), (k,)),
                ((*batch, m, k), (k, n)),
                ((k,), (k,)),
            ]
        )
    )
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    if draw(st.booleans()):
        return Case([node], {"a": values(draw, a)}, {"b": values(draw, b)})
    return Case([node], {"a": values(draw, a), "b": values(draw, b)})


@drawn(product(), 3)
def test_products(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@st.composite
def pooling(draw: st.DrawFn) -> Case:
    op = draw(st.sampled_from(["AveragePool", "MaxPool"]))
    kernel = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    dilations = [draw(st.integers(1, 2)), draw(st.integers(1, 2))] if op == "MaxPool" else [1, 1]
    attrs = {
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, 3)), draw(st.integers(1, 3))],
        "pads": [draw(st.integers(0, kernel[a % 2] - 1)) for a in range(4)],
    }
    attrs |= {"dilations": dilations} if op == "MaxPool" else {"count_include_pad": draw(st.integers(0, 1))}
    spans = [(size - 1) * apart + 1 for size, apart in zip(kernel, dilations, strict=True)]
    image = [max(3, span) + draw(st.integers(0, 3)) for span in spans]
    return Case(
        [helper.make_node(op, ["x"], ["y"], **attrs)], {"x": values(draw, (draw(st.integers(1, 2)), 2, *image))}
    )


@st.composite
def pooling_up(draw: st.DrawFn) -> Case:
    """With ceil_mode: what it adds never counts, the padding where that is asked for."""
    kernel = [draw(st.integers(1, 4)), draw(st.integers(1, 4))]
    pads = [draw(st.integers(0, size // 2)) for size in kernel]
    attrs = {
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, 4)), draw(st.integers(1, 4))],
        "pads": [*pads, *pads],
        "ceil_mode": 1,
        "count_include_pad": draw(st.integers(0, 1)),
    }
    x = values(draw, (1, 2, draw(st.integers(4, 7)), draw(st.integers(4, 7))))
    return Case([helper.make_node("AveragePool", ["x"], ["y"], **attrs)], {"x": x})


@drawn(pooling_up(), 4)
def test_average_pooling_rounded_up(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@st.composite
def view(draw: st.DrawFn) -> Case:
    """Squared behind, for an input that is only seen otherwise is no result."""
    shape = draw(shapes(3, 4, 1))
    kind = draw(st.sampled_from(["Identity", "Cast", "CastLike", "Squeeze", "Unsqueeze", "Flatten", "Reshape"]))
    constants: dict[str, Any] = {}
    attrs: dict[str, Any] = {}
    if kind == "Cast":
        attrs = {"to": TensorProto.FLOAT}
    elif kind == "CastLike":
        constants = {"c": np.zeros(1, np.float32)}
    elif kind == "Squeeze":
        axis = draw(st.integers(0, len(shape)))
        shape = (*shape[:axis], 1, *shape[axis:])
        constants = {"c": ints(axis - draw(st.sampled_from([0, len(shape)])))}
    elif kind == "Unsqueeze":
        constants = {"c": ints(*sorted(draw(st.sets(st.integers(0, len(shape)), min_size=1, max_size=2))))}
    elif kind == "Flatten":
        attrs = {"axis": draw(st.integers(0, len(shape)))}
    elif kind == "Reshape":
        constants = {"c": draw(st.sampled_from([ints(-1), ints(1, -1), ints(0, -1, 1)]))}
    nodes = [helper.make_node(kind, ["x", *constants], ["v"], **attrs), helper.make_node("Mul", ["v", "v"], ["y"])]
    return Case(nodes, {"x": values(draw, shape)}, constants)


@drawn(view(), 2)
def test_views(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@st.composite
def resizing(draw: st.DrawFn) -> Case:
    x = values(draw, draw(shapes(4, 3, 1)))
    factors = np.array([draw(st.integers(1, 3)) for _ in x.shape], np.float32)
    if draw(st.booleans()):
        return Case([helper.make_node("Upsample", ["x", "f"], ["y"])], {"x": x}, {"f": factors}, opset=9)
    coordinates = draw(
        st.sampled_from(
            [
                {},
                {"nearest_mode": "round_prefer_ceil"},
                {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
            ]
        )
    )
    return Case([helper.make_node("Resize", ["x", "", "f"], ["y"], **coordinates)], {"x": x}, {"f": factors})


@drawn(resizing(), 2)
def test_resizing(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@st.composite
def line(draw: st.DrawFn) -> Case:
    """Convolution and pooling over one axis."""
    kernel, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    attrs = {"strides": [draw(st.integers(1, 2))], "pads": [draw(st.integers(0, kernel - 1)) for _ in range(2)]}
    x = values(draw, (draw(st.integers(1, 2)), 2 * groups, draw(st.integers(4, 7))))
    op = draw(st.sampled_from(["Conv", "MaxPool", "AveragePool"]))
    if op != "Conv":
        return Case([helper.make_node(op, ["x"], ["y"], kernel_shape=[kernel], **attrs)], {"x": x})
    weights = {"w": values(draw, (3 * groups, 2, kernel)), "b": values(draw, (3 * groups,))}
    return Case([helper.make_node(op, ["x", "w", "b"], ["y"], group=groups, **attrs)], {"x": x}, weights)


@drawn(line())
def test_layers_over_one_axis(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@drawn(pooling(), 4)
def test_pooling(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@st.composite
def move(draw: st.DrawFn) -> Case:
    shape = draw(shapes(3, 5, 1))
    axis = draw(st.integers(0, len(shape) - 1))
    x = values(draw, shape)
    kind = draw(st.sampled_from(["Concat", "Split", "Slice", "Pad", "Gather", "Embedding"]))
    if kind == "Concat":
        others = [values(draw, (*shape[:axis], draw(st.integers(1, 3)), *shape[axis + 1 :])) for _ in range(2)]
        node = helper.make_node(kind, ["x", "p", "q", "x"], ["y"], axis=axis)
        return Case([node], {"x": x, "p": others[0], "q": others[1]})
    if kind == "Split":
        x = values(draw, (*shape[:axis], shape[axis] + 2, *shape[axis + 1 :]))
        node = helper.make_node(kind, ["x", "s"], ["a", "b", "c"], axis=axis)
        scaled = helper.make_node("Mul", ["b", "b"], ["y"])
        outputs = draw(st.sampled_from([("a", "y", "c"), ("y",), ("a", "b", "c")]))
        return Case([node, scaled], {"x": x}, {"s": ints(1, shape[axis], 1)}, outputs)
    if kind == "Slice":
        start, end, step = draw(
            st.sampled_from([(0, 10, 2), (-1, -2000, -1), (-2, 100, 1), (10, -2000, -2), (0, 1, 1)])
        )
        node = helper.make_node(kind, ["x", "s", "e", "a", "t"], ["y"])
        return Case([node], {"x": x}, {"s": ints(start), "e": ints(end), "a": ints(axis), "t": ints(step)})
    if kind == "Pad":
        pads = [draw(st.integers(-1 if shape[a % len(shape)] > 2 else 0, 2)) for a in range(2 * len(shape))]
        node = helper.make_node(kind, ["x", "p", "v"], ["y"])
        return Case([node], {"x": x}, {"p": ints(*pads), "v": np.float32(draw(st.sampled_from([0.0, 1.5])))})
    rows = draw(st.lists(st.integers(-shape[axis], shape[axis] - 1), min_size=1, max_size=5))
    index = np.array(rows, np.int64).reshape((-1, *([1] * draw(st.integers(0, 1)))))
    node = helper.make_node("Gather", ["x", "i"], ["y"], axis=axis)
    return Case([node], {"x": x}, {"i": index}) if kind == "Gather" else Case([node], {"i": index}, {"x": x})


@drawn(move(), 4)
def test_moves(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@st.composite
def normalization(draw: st.DrawFn) -> Case:
    shape = draw(shapes(3, 5, 2))
    axis = draw(st.integers(-len(shape), -1))
    kind = draw(st.sampled_from(["Softmax", "LogSoftmax", "LayerNormalization", "BatchNormalization"]))
    x = values(draw, shape)
    if kind == "BatchNormalization":
        names = ["scale", "bias", "mean", "variance"]
        constants = {name: values(draw, (shape[1],), 0.5, 2.0) for name in names}
        return Case([helper.make_node(kind, ["x", *names], ["y"], epsilon=1e-3)], {"x": x}, constants)
    if kind == "LayerNormalization":
        shape = (*shape[:-1], shape[-1] + 1)
        feeds = {"x": values(draw, shape), "s": values(draw, shape[axis:]), "b": values(draw, shape[axis:])}
        feeds = feeds if draw(st.booleans()) else {name: feeds[name] for name in "xs"}
        return Case([helper.make_node(kind, list(feeds), ["y"], axis=axis, epsilon=1e-2)], feeds)
    return Case([helper.make_node(kind, ["x"], ["y"], axis=axis)], {"x": x})


@st.composite
def group_normalization(draw: st.DrawFn) -> Case:
    groups, each = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    # Of one or two values PyTorch's float64 and our float32 part: their variance is a difference of equals.
    shape = (draw(st.integers(1, 3)), groups * each, *draw(shapes(2, 3, 0)), 3)
    feeds = {"x": values(draw, shape)}
    factors = {"s": values(draw, shape[1:2]), "b": values(draw, shape[1:2])}
    options: dict[str, Any] = {"epsilon": draw(st.sampled_from([1e-5, 1e-2]))}
    kind = draw(st.sampled_from(["InstanceNormalization", "GroupNormalization"]))
    if kind == "GroupNormalization":
        options["num_groups"] = groups
    node = helper.make_node(kind, ["x", "s", "b"], ["y"], **options)
    if draw(st.booleans()):
        return Case([node], feeds, factors, opset=21)
    return Case([node], {**feeds, **factors}, opset=21)


@drawn(group_normalization(), 2)
def test_group_normalizations(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


def test_group_normalization_as_pytorch_exports_it(against_pytorch: Check) -> None:
    """As an instance normalization by ones and zeros, which are no parameters, of another view."""
    rng = np.random.default_rng(0)
    ones, zeros = (numpy_helper.from_array(f(2, dtype=np.float32)) for f in (np.ones, np.zeros))
    nodes = [
        helper.make_node("Constant", [], ["one"], value=ones),
        helper.make_node("Constant", [], ["zero"], value=zeros),
        helper.make_node("Reshape", ["x", "grouped"], ["g"]),
        helper.make_node("InstanceNormalization", ["g", "one", "zero"], ["z"], "instance"),
        helper.make_node("Reshape", ["z", "back"], ["r"]),
        helper.make_node("Mul", ["r", "scale"], ["s"]),
        helper.make_node("Add", ["s", "shift"], ["y"]),
    ]
    factors = {name: rng.standard_normal((4, 1, 1)).astype(np.float32) for name in ("scale", "shift")}
    case = Case(
        nodes,
        {"x": rng.standard_normal((2, 4, 3, 3)).astype(np.float32)},
        {**factors, "grouped": ints(2, 2, -1), "back": ints(2, 4, 3, 3)},
    )
    graph = import_onnx(case.model()).graph
    assert select_trainable(graph, "all") == select_trainable(graph, "norm") == {"scale", "shift"}
    against_pytorch([case])


@drawn(normalization(), 3)
def test_normalizations(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@st.composite
def across_channels(draw: st.DrawFn) -> Case:
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 7)), *draw(shapes(2, 3)))
    attrs = {"size": draw(st.integers(1, 8)), "bias": draw(st.sampled_from([0.5, 2.0]))}
    attrs |= draw(st.sampled_from([{}, {"alpha": 0.9, "beta": 0.5}, {"alpha": 0.3, "beta": 1.5}, {"beta": -0.5}]))
    return Case([helper.make_node("LRN", ["x"], ["y"], **attrs)], {"x": values(draw, shape)})


@drawn(across_channels())
def test_local_response_normalization(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


def test_decomposed_layer_normalization(against_pytorch: Check) -> None:
    """As exporters write it before operator set 17."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"]),
        helper.make_node("Sub", ["x", "mean"], ["d"]),
        helper.make_node("Pow", ["d", "two"], ["square"]),
        helper.make_node("ReduceMean", ["square", "axes"], ["variance"]),
        helper.make_node("Add", ["variance", "epsilon"], ["v"]),
        helper.make_node("Sqrt", ["v"], ["deviation"]),
        helper.make_node("Div", ["d", "deviation"], ["z"]),
        helper.make_node("Mul", ["z", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["y"]),
    ]
    rng = np.random.default_rng(7)
    x, scale, bias = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 8), 8, 8))
    numbers = {"axes": ints(-1), "two": np.float32(2), "epsilon": np.float32(1e-5)}
    against_pytorch([Case(nodes, {"x": x}, {**numbers, "scale": scale, "bias": bias})])

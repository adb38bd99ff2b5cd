"""Which parameters patterns choose, by what they are to their layers, and that gradients of no others are built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from poet_codegen.autodiff import build_training_graph
from poet_codegen.errors import ModelError
from poet_codegen.graph import Graph, Role
from poet_codegen.onnx_import import import_onnx
from poet_codegen.ops.registry import Part
from poet_codegen.parts import parameters_of
from poet_codegen.recipe import BatchNorm, Recipe
from poet_codegen.selection import select_trainable

Maker = Callable[..., onnx.ModelProto]
node = helper.make_node
CLASSES = 3
CONV_BIAS, NORM, LAYER_NORM = {"conv_b"}, {"n_s", "n_b"}, {"l_s", "l_b"}
DECOMPOSED = {"d_s", "d_b"}
DENSE_BIAS = {"scaled_b", "tokens_b", "head_b"}
WEIGHTS = {"conv", "scaled", "tokens", "head", "position"}


@pytest.fixture(scope="module")
def graph(make_model: Maker) -> Graph:
    """A convolution with BatchNormalization, and three layers with biases and LayerNormalization in every form."""
    rng = np.random.default_rng(0)

    def of(*shape: int) -> np.ndarray[Any, Any]:
        return rng.uniform(0.5, 1.0, shape).astype(np.float32)

    arrays: dict[str, Any] = {
        "conv": of(4, 2, 3, 3),
        "conv_b": of(4),
        **{f"n_{k}": of(4) for k in "sbmv"},
        "position": of(4, 9),
        "target": np.array([4, 9]),
        "l_s": of(9),
        "l_b": of(9),
        "scaled": of(9, 9),
        "scaled_b": of(9),
        "axes": np.array([-1]),
        "two": np.float32(2),
        "epsilon": np.float32(1e-5),
        "d_s": of(9),
        "d_b": of(9),
        "tokens_shape": np.array([1, 4, 9]),
        "tokens": of(9, 9),
        "tokens_b": of(9),
        "axis": np.array([1]),
        "head": of(9, CLASSES),
        "head_b": of(CLASSES),
    }
    nodes = [
        node("Conv", ["x", "conv", "conv_b"], ["c"], "conv"),
        node("BatchNormalization", ["c", *(f"n_{k}" for k in "sbmv")], ["n"], "norm"),
        node("Relu", ["n"], ["r"], "relu"),
        node("Reshape", ["r", "target"], ["t"]),
        node("Add", ["t", "position"], ["p"], "position"),
        node("LayerNormalization", ["p", "l_s", "l_b"], ["l"], "layer"),
        node("Gemm", ["l", "scaled", "scaled_b"], ["g"], "scaled", alpha=0.5, beta=2.0),
        node("ReduceMean", ["g", "axes"], ["mean"], "mean"),
        node("Sub", ["g", "mean"], ["d"], "difference"),
        node("Pow", ["d", "two"], ["square"], "square"),
        node("ReduceMean", ["square", "axes"], ["variance"], "variance"),
        node("Add", ["variance", "epsilon"], ["v"], "epsilon"),
        node("Sqrt", ["v"], ["deviation"], "root"),
        node("Div", ["d", "deviation"], ["z"], "quotient"),
        node("Mul", ["z", "d_s"], ["zs"], "decomposed scale"),
        node("Add", ["zs", "d_b"], ["zb"], "decomposed shift"),
        node("Reshape", ["zb", "tokens_shape"], ["words"]),
        node("MatMul", ["words", "tokens"], ["m"], "tokens"),
        node("Add", ["tokens_b", "m"], ["mb"], "tokens bias"),
        node("ReduceMean", ["mb", "axis"], ["pooled"], "pooled", keepdims=0),
        node("Gemm", ["pooled", "head", "head_b"], ["y"], "head"),
    ]
    model = make_model(nodes, [1, 2, 5, 5], arrays)
    model.opset_import[0].version = 18
    return import_onnx(model).graph


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("all", CONV_BIAS | NORM | LAYER_NORM | DECOMPOSED | DENSE_BIAS | WEIGHTS),
        ("bias", CONV_BIAS | DENSE_BIAS | {"n_b", "l_b", "d_b"}),
        ("norm", NORM | LAYER_NORM | DECOMPOSED),
        ("bias,norm", CONV_BIAS | DENSE_BIAS | NORM | LAYER_NORM | DECOMPOSED),
        ("last:1", {"head", "head_b"}),
        ("last:1, norm", {"head", "head_b"} | NORM | LAYER_NORM | DECOMPOSED),
        ("conv,d_*", {"conv"} | DECOMPOSED),
        ("n_*", NORM),
    ],
)
def test_patterns(graph: Graph, pattern: str, expected: set[str]) -> None:
    assert select_trainable(graph, pattern) == expected


def test_parts_are_exact(graph: Graph) -> None:
    assert parameters_of(graph, Part.BIAS) == CONV_BIAS | DENSE_BIAS
    assert parameters_of(graph, Part.STATISTIC) == {"n_m", "n_v"}


@pytest.mark.parametrize("pattern", ["norm", "all,nothing", "bias,last:0", "last:1,"])
def test_parts_that_choose_nothing(make_model: Maker, pattern: str) -> None:
    model = make_model([node("Gemm", ["x", "w"], ["y"])], [1, 4], {"w": np.ones((4, 2), np.float32)})
    with pytest.raises(ModelError, match="--train"):
        select_trainable(import_onnx(model).graph, pattern)


def nodes_of(graph: Graph, pattern: str, choice: BatchNorm) -> Counter[tuple[Role, str]]:
    built = build_training_graph(graph, select_trainable(graph, pattern), Recipe(batch_norm=choice))
    return Counter((n.role, n.op) for n in built.nodes if n.role in (Role.BACKWARD, Role.UPDATE))


@pytest.mark.parametrize("choice", [BatchNorm.TRAIN, BatchNorm.FROZEN])
def test_gradients_that_nobody_needs_are_not_built(graph: Graph, choice: BatchNorm) -> None:
    everything = nodes_of(graph, "all", choice)
    assert everything[Role.BACKWARD, "ConvWeightGrad"] == 1 and everything[Role.BACKWARD, "DenseWeightGrad"] == 3
    norm = nodes_of(graph, "norm", choice)
    weights = {"ConvWeightGrad", "DenseWeightGrad", "ConvInputGrad"}
    assert not any(op in weights for _, op in norm), norm
    # The normalization behind the convolution is the last that needs a gradient: its input does not.
    inputs = {"BatchNormalizationInputGrad", "BatchNormalizationTrainInputGrad"}
    assert not any(op in inputs for _, op in norm), norm
    assert norm[Role.BACKWARD, "BatchNormalizationScaleGrad"] == 1
    assert norm[Role.BACKWARD, "DenseInputGrad"] == 3
    updates = sum(count for (role, op), count in norm.items() if role is Role.UPDATE and op != "RunningUpdate")
    assert updates == 6
    head = nodes_of(graph, "last:1", choice)
    backward = {op: count for (role, op), count in head.items() if role is Role.BACKWARD}
    assert backward == {"DenseWeightGrad": 1, "ConvBiasGrad": 1}
    assert head[Role.UPDATE, "RunningUpdate"] == (2 if choice is BatchNorm.TRAIN else 0)
    bias = nodes_of(graph, "head_b", choice)
    assert {op: n for (role, op), n in bias.items() if role is Role.BACKWARD} == {"ConvBiasGrad": 1}


@pytest.mark.parametrize("op", ["InstanceNormalization", "GroupNormalization"])
def test_normalizations_over_groups(make_model: Maker, op: str) -> None:
    options = {"num_groups": 2} if op == "GroupNormalization" else {}
    nodes = [node(op, ["x", "s", "b"], ["z"], "norm", **options), node("Conv", ["z", "w", "c"], ["y"], "conv")]
    arrays = {"s": np.ones(4), "b": np.zeros(4), "w": np.ones((3, 4, 1, 1)), "c": np.zeros(3)}
    model = make_model(nodes, [1, 4, 3, 3], {name: array.astype(np.float32) for name, array in arrays.items()})
    model.opset_import[0].version = 21
    graph = import_onnx(model).graph
    assert select_trainable(graph, "norm") == {"s", "b"}
    assert select_trainable(graph, "bias") == {"b", "c"}
    assert select_trainable(graph, "last:2") == {"s", "b", "w", "c"}


def test_a_layer_behind_views_is_one_layer(make_model: Maker) -> None:
    """A convolution over one axis reads its weights as a plane; Gemm's beta scales its bias."""
    arrays = {"v": (3, 2, 2), "c": (3,), "w": (12, 2), "b": (2,)}
    nodes = [
        node("Conv", ["x", "v", "c"], ["a"], "line"),
        node("Flatten", ["a"], ["f"]),
        node("Gemm", ["f", "w", "b"], ["y"], "head", beta=0.5),
    ]
    model = make_model(nodes, [1, 2, 5], {name: np.ones(shape, np.float32) for name, shape in arrays.items()})
    graph = import_onnx(model).graph
    assert select_trainable(graph, "bias") == {"c", "b"}
    assert select_trainable(graph, "last:3") == {"v", "c", "w", "b"}
    assert select_trainable(graph, "last:2") == {"w", "b"}, "a bias that Gemm scales is added by a node of its own"

"""A network of all operator families goes the whole way to a running program, and no schedule changes a bit of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper
from poet_codegen.export import with_weights
from poet_codegen.lower import Home
from poet_codegen.plan import Plan, make_plan, make_request
from poet_codegen.recipe import BatchNorm, Recipe

from .test_on_host import BOARD, PLENTY, run

node = helper.make_node
CHANNELS, SIZE, CLASSES = 4, 8, 3
TOKENS, WIDTH = CHANNELS, SIZE * SIZE // 4


def mixed_network(make_model: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    """Convolution with normalization and pooling, then attention over its channels, then a classifier."""
    rng = np.random.default_rng(4)

    def weights(*shape: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    arrays: dict[str, Any] = {
        "conv": weights(CHANNELS, 2, 3, 3),
        **{f"norm_{name}": rng.uniform(0.5, 1.5, CHANNELS).astype(np.float32) for name in ("s", "b", "m", "v")},
        "tokens": np.array([1, TOKENS, WIDTH]),
        "layer_s": weights(WIDTH),
        "layer_b": weights(WIDTH),
        "query": weights(WIDTH, WIDTH),
        "key": weights(WIDTH, WIDTH),
        "value": weights(WIDTH, WIDTH),
        "value_b": weights(WIDTH),
        "scale": np.float32(0.25),
        "half": np.array([WIDTH // 2, WIDTH // 2]),
        "order": np.array([2, 0, 3, 1]),
        "pads": np.array([0, 0, 1, 0, 0, 1]),
        "axis": np.array([1]),
        "head": weights(CLASSES, WIDTH + 2),
    }
    nodes = [
        node("Conv", ["x", "conv"], ["c"], "conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", *(f"norm_{name}" for name in "sbmv")], ["n"], "norm"),
        node("HardSwish", ["n"], ["h"], "hard"),
        node("AveragePool", ["h"], ["p"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Reshape", ["p", "tokens"], ["t"], "tokens"),
        node("LayerNormalization", ["t", "layer_s", "layer_b"], ["l"], "layer"),
        node("MatMul", ["l", "query"], ["q"], "query"),
        node("MatMul", ["l", "key"], ["k"], "key"),
        node("MatMul", ["l", "value"], ["v0"], "value"),
        node("Add", ["v0", "value_b"], ["v"], "value_bias"),
        node("Transpose", ["k"], ["kt"], "turn", perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s0"], "scores"),
        node("Mul", ["s0", "scale"], ["s1"], "scaled"),
        node("Softmax", ["s1"], ["s"], "attention", axis=-1),
        node("MatMul", ["s", "v"], ["a"], "mixed"),
        node("Add", ["a", "t"], ["r"], "residual"),
        node("Split", ["r", "half"], ["r1", "r2"], "halves", axis=2),
        node("Gelu", ["r1"], ["g1"], "gelu"),
        node("Tanh", ["r2"], ["g2"], "tanh"),
        node("Concat", ["g2", "g1"], ["g"], "joined", axis=2),
        node("Gather", ["g", "order"], ["o"], "shuffled", axis=1),
        node("Pad", ["o", "pads"], ["w"], "padded"),
        node("ReduceMean", ["w", "axis"], ["m"], "mean", keepdims=0),
        node("Gemm", ["m", "head"], ["y"], "head", transB=1, alpha=2.0),
    ]
    arrays["pads"] = np.array([0, 0, 1, 0, 0, 1])
    graph = make_model(nodes, [1, 2, SIZE, SIZE], arrays)
    graph.opset_import[0].version = 20
    return graph


def test_bits_do_not_depend_on_the_budget(make_model: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    proto = mixed_network(make_model)
    onnx.save(proto, path)

    def plan(ram_bytes: int, home: Home = Home.RAM, technique: str = "both") -> Plan:
        request = make_request(path, BOARD, ram_bytes, None, home, Recipe(batch_norm=BatchNorm.FROZEN), technique, 0)
        return make_plan(request, path, threads=1, time_limit_s=5)

    keep = plan(PLENTY, technique="keep")
    peak = keep.train.schedule.peak_bytes
    losses, weights = run(keep, tmp_path / "keep")
    assert len(set(losses)) == len(losses)
    assert all(weights[name] == keep.model.weights[name].tobytes() for name in ("norm_m", "norm_v"))
    assert all(weights[name] != keep.model.weights[name].tobytes() for name in ("norm_s", "norm_b"))
    assert run(plan(int(peak * 0.8), Home.STORAGE), tmp_path / "tight") == (losses, weights)

    arrays = {name: np.frombuffer(weights[name], np.float32).reshape(a.shape) for name, a in keep.model.weights.items()}
    back = with_weights(proto, arrays)
    changed = {i.name for i, j in zip(back.graph.initializer, proto.graph.initializer, strict=True) if i != j}
    assert changed >= {"conv", "query", "head", "layer_s", "value_b", "norm_s"} and not changed & {"norm_m", "norm_v"}

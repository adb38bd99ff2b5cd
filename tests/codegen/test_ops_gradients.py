"""Results and gradients of every operator against PyTorch, over drawn shapes, broadcasts and attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from onnx import helper

from .op_cases import Case, Check, against, broadcast_pair, drawn, needs_torch, shapes, values

pytestmark = needs_torch


@pytest.fixture(scope="module")
def against_pytorch(torch_oracle: Any, tmp_path_factory: pytest.TempPathFactory) -> Check:
    return against(torch_oracle, tmp_path_factory)


@st.composite
def arithmetic(draw: st.DrawFn) -> Case:
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Pow"]))
    a, b = draw(broadcast_pair())
    if op == "Pow":
        x, y = values(draw, a, 0.5, 2.0), values(draw, b, -3.0, 3.0)
    else:
        x, y = values(draw, a), values(draw, b, 0.5, 2.0, signed=True)
    node = helper.make_node(op, ["a", "b"], ["y"])
    kind = draw(st.sampled_from(["tensors", "parameter", "number"]))
    if kind == "parameter" and b:
        return Case([node], {"a": x}, {"b": y})
    if kind == "number":
        number = draw(st.sampled_from([2.0, 0.5, -1.0, 3.0, 0.1]))
        return Case([node], {"a": x}, {"b": np.asarray(number, np.float32)})
    return Case([node], {"a": x, "b": y})


@drawn(arithmetic(), 3)
def test_arithmetic(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@st.composite
def from_an_axis(draw: st.DrawFn) -> Case:
    """Broadcasting up to operator set 6."""
    shape = draw(shapes(4, 3, 1))
    axis = draw(st.integers(0, len(shape) - 1))
    part = shape[axis : draw(st.integers(axis + 1, len(shape)))]
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]))
    node = helper.make_node(op, ["a", "b"], ["y"], broadcast=1, axis=axis)
    x, y = values(draw, shape), values(draw, part, 0.5, 2.0)
    return Case([node], {"a": x}, {"b": y}, opset=6) if draw(st.booleans()) else Case([node], {"a": x, "b": y}, opset=6)


@drawn(from_an_axis(), 2)
def test_arithmetic_from_an_axis(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@st.composite
def choice(draw: st.DrawFn) -> Case:
    a, b = draw(broadcast_pair())
    where = np.random.default_rng(draw(st.integers(0, 99))).random(draw(st.sampled_from([a, b, ()]))) < 0.5
    node = helper.make_node("Where", ["c", "a", "b"], ["y"])
    constants: dict[str, Any] = {"c": np.asarray(where)}
    if draw(st.booleans()):
        return Case([node], {"a": values(draw, a), "b": values(draw, b)}, constants)
    number = np.float32(draw(st.sampled_from([-1e4, 0.5])))
    return Case([node], {"a": values(draw, a)}, constants | {"b": number})


@drawn(choice(), 3)
def test_where(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@st.composite
def variadic(draw: st.DrawFn) -> Case:
    a, b = draw(broadcast_pair())
    feeds = {"a": values(draw, a), "b": values(draw, b), "c": values(draw, a)}
    names = draw(st.sampled_from(["a", "ab", "bac", "aab"]))
    return Case([helper.make_node("Sum", list(names), ["y"])], {name: feeds[name] for name in sorted(set(names))})


@drawn(variadic(), 2)
def test_sum(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@st.composite
def same_operand(draw: st.DrawFn) -> Case:
    x = values(draw, draw(shapes()), 0.5, 2.0)
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]))
    return Case([helper.make_node(op, ["a", "a"], ["y"])], {"a": x})


@drawn(same_operand(), 2)
def test_both_operands_the_same(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@st.composite
def activation(draw: st.DrawFn) -> Case:
    choices: dict[str, list[dict[str, Any]]] = {
        "Neg": [{}],
        "Exp": [{}],
        "Log": [{}],
        "Sqrt": [{}],
        "Erf": [{}],
        "Tanh": [{}],
        "Sigmoid": [{}],
        "Relu": [{}],
        "HardSwish": [{}],
        "LeakyRelu": [{}, {"alpha": 0.3}, {"alpha": -0.5}],
        "HardSigmoid": [{}, {"alpha": 0.7, "beta": -0.1}],
        "Gelu": [{}, {"approximate": "tanh"}],
    }
    op = draw(st.sampled_from(sorted(choices)))
    x = values(draw, draw(shapes()), *((0.2, 4.0) if op in ("Log", "Sqrt") else (-4.0, 4.0)))
    return Case([helper.make_node(op, ["x"], ["y"], **draw(st.sampled_from(choices[op])))], {"x": x})


@st.composite
def prelu(draw: st.DrawFn) -> Case:
    shape = draw(shapes(4, 4, 1))
    slope = tuple(size if draw(st.booleans()) else 1 for size in shape)
    slopes = values(draw, slope[draw(st.integers(0, 1)) if slope[0] == 1 and len(slope) > 1 else 0 :])
    node = helper.make_node("PRelu", ["x", "s"], ["y"])
    x = np.maximum(values(draw, shape, -4.0, 4.0), draw(st.sampled_from([-4.0, 0.0])))  # behind a Relu, zeros
    return Case([node], {"x": x}, {"s": slopes}) if draw(st.booleans()) else Case([node], {"x": x, "s": slopes})


@drawn(prelu(), 2)
def test_prelu(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@drawn(activation(), 3)
def test_activations(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)


@st.composite
def clip(draw: st.DrawFn) -> Case:
    limits = {"low": draw(st.floats(-2, 0)), "high": draw(st.floats(0.1, 2))}
    low, high = draw(st.sampled_from([("low", "high"), ("", "high"), ("low", "")]))
    names = ["x", low, high]
    constants = {name: np.asarray(limits[name], np.float32) for name in (low, high) if name}
    return Case([helper.make_node("Clip", names, ["y"])], {"x": values(draw, draw(shapes()), -4.0, 4.0)}, constants)


@drawn(clip(), 2)
def test_clip(against_pytorch: Check, cases: list[Case]) -> None:
    against_pytorch(cases)

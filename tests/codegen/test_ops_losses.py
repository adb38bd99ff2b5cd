"""Losses and their gradients against PyTorch in float64, over drawn shapes; and what they do at the edges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from poet_codegen.autodiff import build_training_graph
from poet_codegen.errors import ModelError
from poet_codegen.graph import DType, Graph, GraphBuilder, Kind, Node, Tensor
from poet_codegen.ops.loss import loss_op
from poet_codegen.ops.registry import get
from poet_codegen.recipe import Loss, Recipe

from .host_kernels import HostKernels
from .op_cases import needs_torch, shapes

Array = np.ndarray[Any, Any]
CASES = 12


@dataclass
class LossCase:
    loss: Loss
    y: Array
    label: Array


def graph_of(loss: Loss, shape: tuple[int, ...]) -> Graph:
    """The loss of an input of this shape, as autodiff adds it."""
    builder = GraphBuilder("loss")
    y = builder.tensor(Tensor("y", shape, kind=Kind.INPUT))
    label = builder.tensor(loss_op(loss).label(builder.tensors[y]))
    builder.tensor(Tensor("loss", (1,), kind=Kind.LOSS))
    builder.tensor(Tensor("dy", shape))
    builder.node(Node(loss_op(loss).name, (y, label), ("loss", "dy"), "loss"))
    return builder.graph(["loss"])


def of_pytorch(case: LossCase) -> tuple[float, Array]:
    import torch
    from torch.nn import functional as f

    y = torch.tensor(case.y.astype(np.float64), requires_grad=True)
    label = torch.tensor(case.label if case.loss is Loss.CROSS_ENTROPY else case.label.astype(np.float64))
    if case.loss is Loss.MSE:
        loss = f.mse_loss(y, label)
    elif case.loss is Loss.BCE:
        loss = f.binary_cross_entropy_with_logits(y, label)
    else:
        rows = y.reshape(-1, y.shape[-1])
        loss = f.cross_entropy(
            rows, label.reshape(-1) if case.loss is Loss.CROSS_ENTROPY else label.reshape(rows.shape)
        )
    loss.backward()  # type: ignore[no-untyped-call]
    assert y.grad is not None
    return float(loss.detach()), y.grad.numpy()


def ours(folder: Path, cases: list[LossCase]) -> list[tuple[np.float32, Array]]:
    graphs = [graph_of(case.loss, case.y.shape) for case in cases]
    kernels = HostKernels(folder, graphs)
    results = [
        kernels.run(graph, {"y": case.y, "label": case.label}) for graph, case in zip(graphs, cases, strict=True)
    ]
    return [(result["loss"][0], result["dy"]) for result in results]


@st.composite
def cases(draw: st.DrawFn) -> LossCase:
    loss = draw(st.sampled_from(Loss))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.1, 3.0, 30.0]))
    if loss in (Loss.CROSS_ENTROPY, Loss.SOFT_CROSS_ENTROPY):
        shape = (*draw(shapes(3, 4, 1)), draw(st.integers(2, 11)))
    else:
        shape = draw(shapes(4, 5, 1))
    y = rng.standard_normal(shape) * scale
    if loss is Loss.CROSS_ENTROPY:
        label: Array = rng.integers(0, shape[-1], shape[:-1])
    elif loss is Loss.SOFT_CROSS_ENTROPY:
        label = rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    elif loss is Loss.BCE:
        label = rng.choice([0.0, 1.0, 0.3], shape)
    else:
        label = rng.standard_normal(shape)
    if label.dtype == np.float64:
        label = label.astype(np.float32)
    return LossCase(loss, y.astype(np.float32), label)


@needs_torch
@settings(
    max_examples=4, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(drawn=st.lists(cases(), min_size=CASES, max_size=CASES))
def test_losses_and_gradients(tmp_path_factory: pytest.TempPathFactory, drawn: list[LossCase]) -> None:
    for case, (loss, gradient) in zip(drawn, ours(tmp_path_factory.mktemp("losses"), drawn), strict=True):
        loss_there, gradient_there = of_pytorch(case)
        what = f"{case.loss} of {case.y.shape}"
        assert loss == pytest.approx(loss_there, rel=2e-6, abs=1e-7), what
        assert gradient.shape == gradient_there.shape
        scale = float(np.abs(gradient_there).max())
        assert float(np.abs(gradient - gradient_there).max()) <= 2e-6 * scale + 1e-8, what


def test_binary_cross_entropy_far_from_zero(tmp_path: Path) -> None:
    """Where e^-|x| is lost beside 1, loss and gradient are still right to a few ulp: of log(1 + e^z) and sigmoid(z)."""
    x = np.array([1e-4, 5, 17, 20, 60, 85, 120, 3e38], np.float32)
    both = [LossCase(Loss.BCE, y[None], np.array([t], np.float32)) for t in (0, 1) for y in np.concatenate([x, -x])]
    for case, (loss, gradient) in zip(both, ours(tmp_path, both), strict=True):
        sign = 1.0 - 2.0 * float(case.label[0])
        z = sign * float(case.y[0])
        assert loss == pytest.approx(np.logaddexp(0.0, z), rel=5e-7, abs=1e-37), case
        assert gradient[0] == pytest.approx(sign * np.exp(-np.logaddexp(0.0, -z)), rel=5e-7, abs=1e-37), case


@pytest.mark.parametrize("loss", list(Loss))
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
def test_a_finite_loss_has_a_finite_gradient(tmp_path: Path, loss: Loss, bad: float) -> None:
    """The device leaves the updates out when the loss is not finite; it does not look at gradients."""
    drawn = []
    for at in range(3):
        y = np.array([[0.5, -1.0, 2.0]], np.float32)
        y[0, at] = bad
        label: Array = np.array([1]) if loss is Loss.CROSS_ENTROPY else np.array([[0.0, 1.0, 0.0]], np.float32)
        drawn.append(LossCase(loss, y, label))
    for number, (value, gradient) in enumerate(ours(tmp_path, drawn)):
        assert np.isfinite(gradient).all() or not np.isfinite(value), number
        assert np.isfinite(bad) or not np.isfinite(value), number


def forward_of(shape: tuple[int, ...]) -> Graph:
    builder = GraphBuilder("m")
    x = builder.tensor(Tensor("x", shape, kind=Kind.INPUT))
    w = builder.tensor(Tensor("w", shape, kind=Kind.PARAM))
    y = builder.tensor(Tensor("y", shape))
    builder.node(Node("Add", (x, w), (y,), "add"))
    return builder.graph([y])


@pytest.mark.parametrize(
    ("loss", "shape", "label"),
    [
        (Loss.CROSS_ENTROPY, (2, 3), (2,)),
        (Loss.CROSS_ENTROPY, (2, 5, 3), (2, 5)),
        (Loss.SOFT_CROSS_ENTROPY, (2, 5, 3), (2, 5, 3)),
        (Loss.MSE, (2, 1, 4, 4), (2, 1, 4, 4)),
        (Loss.BCE, (7,), (7,)),
    ],
)
def test_the_label_follows_from_the_output(loss: Loss, shape: tuple[int, ...], label: tuple[int, ...]) -> None:
    graph = build_training_graph(forward_of(shape), frozenset({"w"}), Recipe(loss=loss))
    tensor = graph.one(Kind.LABEL)
    assert tensor.shape == label
    assert tensor.dtype is (DType.INT32 if loss is Loss.CROSS_ENTROPY else DType.FLOAT32)


@pytest.mark.parametrize("loss", [Loss.CROSS_ENTROPY, Loss.SOFT_CROSS_ENTROPY])
@pytest.mark.parametrize("shape", [(), (3,), (2, 1)])
def test_outputs_that_are_no_logits_of_classes_are_refused(loss: Loss, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"'y' has shape .*\[batch, classes\].*--loss"):
        build_training_graph(forward_of(shape), frozenset({"w"}), Recipe(loss=loss))


TAILS = {
    "view": Node("Reshape", ("p",), ("q",), "flat", attrs={"shape": (6,)}),
    "transposition": Node("Transpose", ("p",), ("q",), "move", attrs={"perm": (1, 0)}),
    "another head": Node("Concat", ("y", "p"), ("q",), "join", attrs={"axis": 1}),
    "activation": Node("Relu", ("p",), ("q",), "relu"),
}


def ends_in(op: str, tail: Node | None) -> Graph:
    builder = GraphBuilder("m", forward_of((2, 3)))
    attrs = {"axes": (1, 2)} if op == "Softmax" else {"alpha": 0.2, "beta": 0.5} if op == "HardSigmoid" else {}
    builder.node(Node(op, ("y",), (builder.tensor(Tensor("p", (2, 3))),), "end", attrs=attrs))
    if tail is None:
        return builder.graph(["p"])
    (shape,) = get(tail.op).shapes([builder.tensors[name] for name in tail.inputs], tail)
    builder.tensor(Tensor("q", shape))
    builder.node(tail)
    return builder.graph(["q"])


@pytest.mark.parametrize("op", ["Sigmoid", "HardSigmoid", "Softmax"])
@pytest.mark.parametrize("tail", [None, "view", "transposition", "another head"])
def test_binary_cross_entropy_of_probabilities_is_refused(op: str, tail: str | None) -> None:
    graph = ends_in(op, TAILS[tail] if tail else None)
    with pytest.raises(ModelError, match=f"'[pq]' comes from the {op} 'end', but --loss bce .*without it, or .*mse"):
        build_training_graph(graph, frozenset({"w"}), Recipe(loss=Loss.BCE))
    build_training_graph(graph, frozenset({"w"}), Recipe(loss=Loss.MSE))


def test_binary_cross_entropy_of_what_follows_a_sigmoid() -> None:
    graph = build_training_graph(ends_in("Sigmoid", TAILS["activation"]), frozenset({"w"}), Recipe(loss=Loss.BCE))
    assert graph.one(Kind.LABEL).shape == (2, 3)


def test_an_output_without_an_axis_is_refused() -> None:
    with pytest.raises(ModelError, match="'y' is a single number"):
        build_training_graph(forward_of(()), frozenset({"w"}), Recipe(loss=Loss.MSE))

"""Drawn models of a node or two, and the check of their results and gradients against PyTorch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from poet_codegen.graph import Kind
from poet_codegen.onnx_import import import_onnx

from .host_kernels import HostKernels, gradient_ends, with_gradients

Array = np.ndarray[Any, Any]
TOLERANCE = 2e-5
OPSET = 20


@dataclass
class Case:
    """A model and what is fed to it. `constants` are initializers."""

    nodes: list[onnx.NodeProto]
    feeds: dict[str, Array]
    constants: dict[str, Array] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    opset: int = OPSET

    def model(self) -> onnx.ModelProto:
        """The ONNX model; shapes of the outputs are left open."""
        kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
        graph = helper.make_graph(
            self.nodes,
            "case",
            [helper.make_tensor_value_info(n, kinds[a.dtype], a.shape) for n, a in self.feeds.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.outputs],
            [numpy_helper.from_array(np.asarray(a), n) for n, a in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)


def values(
    draw: st.DrawFn, shape: tuple[int, ...], low: float = -2.0, high: float = 2.0, signed: bool = False
) -> Array:
    """Random float32 within [low, high); `signed`: with random signs."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = rng.uniform(low, high, shape)
    return np.asarray(array * rng.choice([-1, 1], shape) if signed else array, np.float32)


def shapes(most_axes: int = 4, most: int = 4, least_axes: int = 0) -> st.SearchStrategy[tuple[int, ...]]:
    """Small shapes, axes of size 1 included."""
    return st.lists(st.integers(1, most), min_size=least_axes, max_size=most_axes).map(tuple)


@st.composite
def broadcast_pair(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast, in either order."""
    full = draw(shapes(4, 4))
    whose = [draw(st.sampled_from(["both", "first", "second"])) for _ in full]
    first, second = (
        tuple(size if owner in ("both", name) else 1 for size, owner in zip(full, whose, strict=True))
        for name in ("first", "second")
    )
    leading_ones = next((axis for axis, size in enumerate(second) if size > 1), len(second))
    return first, second[draw(st.integers(0, leading_ones)) :]


def check(folder: Path, oracle: Any, cases: list[Case]) -> None:
    """Outputs and gradients of all cases, compiled together, against PyTorch's in float64."""
    models = [case.model() for case in cases]
    imported = [import_onnx(model) for model in models]
    graphs = [with_gradients(model.graph) for model in imported]
    kernels = HostKernels(folder, graphs)
    rng = np.random.default_rng(0)
    for case, proto, model, graph in zip(cases, models, imported, graphs, strict=True):
        forward = model.graph
        seeds = [rng.uniform(-1, 1, forward.tensors[o].shape).astype(np.float32) for o in forward.outputs]
        fed = {t.name for t in forward.of_kind(Kind.INPUT)}
        given = {f"seed.{o}": seed for o, seed in zip(forward.outputs, seeds, strict=True)}
        feeds = {name: array for name, array in case.feeds.items() if name in fed}
        result = kernels.run(graph, {**model.weights, **feeds, **given})
        outputs, gradients = oracle.outputs_and_gradients(proto, case.feeds, seeds)
        text = onnx.printer.to_text(proto)
        for name, theirs in zip(forward.outputs, outputs, strict=True):
            _assert_close(result[name], theirs, f"{name} of {text}")
        for name, ours in zip(gradient_ends(forward), graph.outputs, strict=True):
            _assert_close(result[ours], gradients[name], f"gradient of {name} of {text}")


def _assert_close(ours: Array, theirs: Array, what: str) -> None:
    assert ours.shape == theirs.shape, f"{what}: {ours.shape} for {theirs.shape}"
    scale = float(np.max(np.abs(theirs), initial=0.0))
    error = float(np.max(np.abs(ours - theirs), initial=0.0))
    assert error <= TOLERANCE * scale + 1e-6, f"{what}: {error} of {scale}"


Check = Callable[[list[Case]], None]
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed; it is the oracle of these tests"
)
CASES = 14
"""Cases that are compiled together: one compiler run costs more than a case."""


def drawn(strategy: st.SearchStrategy[Case], examples: int = 3) -> Any:
    """Run a test on lists of drawn cases, the first of which is the simplest there is.

    No shrinking: a failure prints its model.
    """
    options = settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: options(given(cases=st.lists(strategy, min_size=CASES, max_size=CASES))(test))


def against(oracle: Any, folders: pytest.TempPathFactory) -> Check:
    """check() as a fixture gives it to tests."""
    return lambda cases: check(folders.mktemp("ops"), oracle, cases)

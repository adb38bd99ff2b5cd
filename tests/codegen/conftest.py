"""Fixtures: small ONNX models, and an executor that runs a graph's C kernels one by one on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from poet_codegen.graph import Graph

from .host_kernels import Arrays, HostKernels

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def digits_path() -> Path:
    return REPOSITORY / "examples" / "digits" / "digits.onnx"


@pytest.fixture(scope="session")
def make_model() -> Callable[..., onnx.ModelProto]:
    return build_model


def build_model(
    nodes: list[onnx.NodeProto],
    x_shape: list[int | str],
    weights: Mapping[str, np.ndarray[Any, Any]],
    *,
    name: str = "test",
    x: str = "x",
    y: str = "y",
    x_type: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A checked ONNX model of one input and one output."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(x, x_type, x_shape)],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="session")
def run_graph(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Graph, Arrays], Arrays]:
    """run_graph(graph, values): every tensor after running all nodes in order, nothing shared, nothing dropped."""

    def run(graph: Graph, values: Arrays) -> Arrays:
        return HostKernels(tmp_path_factory.mktemp("kernels"), [graph]).run(graph, values)

    return run


@pytest.fixture(scope="session")
def torch_oracle() -> Any:
    """tests/codegen/torch_oracle.py, loaded only where PyTorch is."""
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("torch_oracle", Path(__file__).parent / "torch_oracle.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

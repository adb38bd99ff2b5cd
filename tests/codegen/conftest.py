"""Fixtures: small ONNX models, and an executor that runs a graph's C kernels one by one on this machine."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from poet_codegen.emit.steps import choose_kernels
from poet_codegen.graph import Graph, Kind
from poet_codegen.lower import view_roots
from poet_codegen.platformio.flags import host_flags
from poet_codegen.render import render
from poet_codegen.resources import data_dir

REPOSITORY = Path(__file__).parents[2]
Arrays = dict[str, np.ndarray[Any, Any]]


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
        kernels = choose_kernels(graph)
        library = _compile(tmp_path_factory.mktemp("kernels"), {k.name: k for k in kernels.values()}.values())
        root = view_roots(graph)
        arrays = {
            name: np.full(tensor.elements, np.nan, np.float32)
            for name, tensor in graph.tensors.items()
            if root[name] == name
        }
        for name, value in values.items():
            dtype = np.int32 if graph.tensors[name].kind is Kind.LABEL else np.float32
            arrays[name] = np.ascontiguousarray(value, dtype).ravel().copy()
        for name, tensor in graph.tensors.items():
            if tensor.updates is not None:
                arrays[name] = arrays[tensor.updates].copy()
        for kernel in kernels.values():
            pointers = [arrays[root[name]].ctypes.data_as(ctypes.c_void_p) for name in kernel.arguments]
            getattr(library, kernel.name)(*pointers)
        return {name: arrays[root[name]].reshape(tensor.shape) for name, tensor in graph.tensors.items()}

    return run


def _compile(folder: Path, kernels: Any) -> ctypes.CDLL:
    sources = [render(f"kernels/{kernel.template}", **kernel.values) for kernel in kernels]
    head = '#include <math.h>\n#include <stdint.h>\n#include "poet/math.h"\n'
    prototypes = [next(line for line in s.splitlines() if line.startswith("void ")) + ";" for s in sources]
    code = folder / "kernels.c"
    code.write_text(head + "\n".join(prototypes) + "\n" + "\n".join(sources))
    firmware = data_dir("firmware")
    target = folder / "kernels.so"
    command = [
        "cc",
        *host_flags(),
        "-Wno-missing-prototypes",
        "-fPIC",
        "-shared",
        f"-I{firmware / 'include'}",
    ]
    subprocess.run([*command, str(code), str(firmware / "src" / "math.c"), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


@pytest.fixture(scope="session")
def torch_oracle() -> Any:
    """tests/codegen/torch_oracle.py, loaded only where PyTorch is."""
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("torch_oracle", Path(__file__).parent / "torch_oracle.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""What emx-onnx-cgen, another generator of C, makes of an ONNX graph: the baseline of `make bench-kernels`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec

import onnx
from onnx import TensorProto, helper

DISTRIBUTION = "emx-onnx-cgen"
_OPSET = 20
_KEEP_ON_STACK = 0
"""Bytes above which temporaries go to the heap; 0: none do, which takes the fewest cycles."""


def is_installed() -> bool:
    """Whether the generator is there; `pip install -e .[bench]` brings it."""
    return find_spec("emx_onnx_cgen") is not None


def title() -> str:
    """Name and version."""
    return f"{DISTRIBUTION} {version(DISTRIBUTION)}"


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
) -> onnx.ModelProto:
    """A model of these nodes; weights are inputs, as they change in training."""
    made = helper.make_graph(
        list(nodes),
        "case",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)


def generated(model: onnx.ModelProto, name: str) -> str:
    """The C of a model by the generator's defaults, as a function `name` of the inputs, then the outputs."""
    from emx_onnx_cgen.compiler import Compiler, CompilerOptions

    options = CompilerOptions(model_name=name, large_temp_threshold_bytes=_KEEP_ON_STACK)
    return re.sub(r"\b_Bool model_load\b", f"_Bool {name}_load", Compiler(options).compile(model))

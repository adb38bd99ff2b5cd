"""ONNX's own node tests, forward, through the generated C on this machine.

    python -m tests.codegen.onnx_conformance [-v] [operator ...]

Every float32 case of `onnx.backend.test` for the supported operators is run, those written as a function's body
(`..._expanded`) too where all their operators are supported. What is an input of the case is an input of the graph;
where the import needs a constant there, the case's value is one. Exit status 1 when a case fails.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from poet_codegen.errors import ModelError
from poet_codegen.graph import Graph, Kind
from poet_codegen.onnx_import import Model, import_onnx
from poet_codegen.ops import registry
from poet_codegen.recipe import BatchNorm, Recipe
from poet_codegen.training_form import training_form

from .host_kernels import HostKernels

_BATCH = 50
"""Cases in one shared object."""
_INTEGERS = (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)


@dataclass
class Tally:
    """What became of the cases."""

    passed: list[str] = field(default_factory=list)
    not_applicable: dict[str, str] = field(default_factory=dict)
    """Case -> reason."""
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """An imported case with its arrays by ONNX name."""

    name: str
    model: Model
    feeds: dict[str, np.ndarray[Any, Any]]
    expected: list[np.ndarray[Any, Any]]
    rtol: float
    atol: float


class NotApplicable(Exception):
    """The case is outside what poet-mcu is for."""


def node_cases(ops: Collection[str]) -> Iterator[Any]:
    """ONNX's cases whose operators are all among `ops`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    for case in found:
        if {node.op_type for node in case.model.graph.node} <= set(ops):
            yield case


def load(case: Any) -> Case:
    """Import a case. Raises NotApplicable with the reason."""
    inputs, outputs = case.data_sets[0]
    graph = case.model.graph
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type.elem_type
        is_output = value in list(graph.output)
        if kind != TensorProto.FLOAT and (is_output or kind not in _INTEGERS):
            name = TensorProto.DataType.Name(kind) if kind else value.type.WhichOneof("value")
            raise NotApplicable(f"type {name}")
    arrays = {value.name: np.asarray(array) for value, array in zip(graph.input, inputs, strict=True)}
    if any(_is_random(node, arrays) for node in graph.node):
        raise NotApplicable("expects the mask that numpy's generator draws")
    if not arrays:
        raise NotApplicable("no input")
    first = graph.input[0].name
    integers = {name for name, array in arrays.items() if array.dtype != np.float32}
    if any(np.size(array) == 0 for array in (arrays[first], *outputs)):
        raise NotApplicable("a tensor without elements")
    reason = ""
    training = _is_training(graph)
    if training:
        del graph.output[1:]
    others = set(arrays) - {first}
    for constants in (others,) if training else (set(), integers, others):
        try:
            model = import_onnx(_with_constants(case.model, arrays, constants))
        except ModelError as error:
            reason = str(error)
            continue
        feeds = {name: array for name, array in arrays.items() if name not in constants}
        expected = [np.asarray(o) for o in outputs]
        if training:
            model = _in_training(model)
            expected[2] = _unbiased(expected[2], arrays, model.graph)
        return Case(case.name, model, feeds, expected, case.rtol, case.atol)
    sentence = reason.partition(": ")[2].split("\n")[0]
    raise NotApplicable(re.sub(r"\[[^]]*\]", "[...]", sentence))


def _with_constants(
    model: onnx.ModelProto, arrays: dict[str, np.ndarray[Any, Any]], constants: Collection[str]
) -> onnx.ModelProto:
    result = onnx.ModelProto()
    result.CopyFrom(model)
    kept = [value for value in model.graph.input if value.name not in constants]
    del result.graph.input[:]
    for value in kept:
        named = result.graph.input.add()
        named.CopyFrom(value)
        del named.type.tensor_type.shape.dim[:]
        for size in arrays[value.name].shape:
            named.type.tensor_type.shape.dim.add().dim_value = size
    result.graph.initializer.extend(numpy_helper.from_array(arrays[name], name) for name in sorted(constants))
    return result


def _is_random(node: onnx.NodeProto, arrays: dict[str, np.ndarray[Any, Any]]) -> bool:
    """Whether a node is a Dropout in training mode that drops something."""
    if node.op_type != "Dropout" or len(node.input) < 3 or not arrays[node.input[2]]:
        return False
    return bool(arrays[node.input[1]] if node.input[1] else True)


def _is_training(graph: onnx.GraphProto) -> bool:
    """Whether the case is of batch normalization by batch statistics, which the training graph has."""
    nodes = [node for node in graph.node if node.op_type == "BatchNormalization"]
    return any(a.name == "training_mode" and a.i for node in nodes for a in node.attribute)


def _in_training(model: Model) -> Model:
    """The forward pass of a training step, whose outputs are the answer and the running statistics."""
    graph, updates = training_form(model.graph, Recipe(batch_norm=BatchNorm.TRAIN))
    (answer,) = graph.outputs
    nodes = (*graph.nodes, *(replace(node, inputs=(*node.inputs, answer)) for node in updates))
    outputs = (answer, *(node.outputs[0] for node in updates))
    return Model(replace(graph, nodes=nodes, outputs=outputs), model.weights)


def _unbiased(expected: np.ndarray[Any, Any], arrays: dict[str, np.ndarray[Any, Any]], graph: Graph) -> Any:
    """ONNX's running variance follows the batch's biased variance, PyTorch's and ours the unbiased one."""
    node = next(node for node in graph.nodes if node.op == "RunningUpdate" and node.float("correction") != 1.0)
    kept = (1.0 - node.float("momentum")) * arrays[node.inputs[0]]
    return kept + (expected - kept) * node.float("correction")


def run(cases: Sequence[Case], tally: Tally) -> None:
    """Compile the cases' kernels, run them and compare."""
    with tempfile.TemporaryDirectory() as folder:
        kernels = HostKernels(Path(folder), [case.model.graph for case in cases])
        for case in cases:
            graph = case.model.graph
            inputs = {name: case.feeds[name] for name in (t.name for t in graph.of_kind(Kind.INPUT))}
            result = kernels.run(graph, {**case.model.weights, **inputs})
            try:
                for name, expected in zip(graph.outputs, case.expected, strict=True):
                    np.testing.assert_allclose(result[name], expected, case.rtol, case.atol)
                    assert result[name].shape == expected.shape, "shapes differ"
                tally.passed.append(case.name)
            except AssertionError as error:
                tally.failed[case.name] = " ".join(str(error).split())[:300]


def conformance(ops: Collection[str], skip_expanded: bool = False) -> Tally:
    """Run all cases of the operators."""
    tally = Tally()
    loaded: list[Case] = []
    for case in node_cases(ops):
        if skip_expanded and "_expanded" in case.name:
            continue
        try:
            loaded.append(load(case))
        except NotApplicable as reason:
            tally.not_applicable[case.name] = str(reason)
    for start in range(0, len(loaded), _BATCH):
        run(loaded[start : start + _BATCH], tally)
    return tally


def supported_ops() -> set[str]:
    """Operators that import, with those that only ever fold."""
    return {*registry.onnx_ops(), "Constant", "Shape", "Size"}


def main() -> int:
    """Print the tally."""
    parser = argparse.ArgumentParser(description="ONNX's node tests through the generated C.")
    parser.add_argument("ops", nargs="*", help="operators to test; default: all supported")
    parser.add_argument("-v", "--verbose", action="store_true", help="name every case that is not applicable")
    arguments = parser.parse_args()
    tally = conformance(set(arguments.ops) or supported_ops())
    if arguments.verbose:
        for name, reason in sorted(tally.not_applicable.items()):
            print(f"not applicable  {name}: {reason}")
    else:
        for reason, count in sorted(Counter(tally.not_applicable.values()).items()):
            print(f"not applicable  {count:4d} x {reason}")
    for name, reason in sorted(tally.failed.items()):
        print(f"FAILED          {name}: {reason}")
    print(f"passed {len(tally.passed)}, not applicable {len(tally.not_applicable)}, failed {len(tally.failed)}")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Low-rank adapters (LoRA, arXiv 2106.09685) as ordinary nodes of the ONNX model: y = x W + (x A) B, W frozen.

A [inputs, rank] starts uniform within 1 / sqrt(inputs), as in the paper's code, drawn by a seed that the weight's name
gives; B [rank, outputs] starts at zero, so that the model begins as it was. The factor alpha / rank is 1.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx
from onnx import helper

from poet_codegen.errors import ModelError
from poet_codegen.onnx_edit import ModelEditor

_ENDS = (".lora_A", ".lora_B")


@dataclass(frozen=True)
class Adapters:
    """A part of --train: lora:RANK, or lora:RANK:PATTERN."""

    rank: int
    pattern: str
    """Of the weights that get adapters."""


def adapters_of(part: str, option: str = "--train") -> Adapters | None:
    """None for another kind of part. Raises ModelError for a malformed one."""
    kind, _, rest = part.partition(":")
    if kind != "lora":
        return None
    rank, _, pattern = rest.partition(":")
    if not rank.isdigit() or int(rank) < 1:
        raise ModelError(f"{option} {part!r}: write lora:RANK or lora:RANK:WEIGHTS, as lora:8 or lora:8:*.query.*.")
    return Adapters(int(rank), pattern or "*")


def is_adapter(name: str, pattern: str) -> bool:
    """Whether a parameter is part of an adapter of a weight that `pattern` chooses."""
    return any(name.endswith(end) and fnmatchcase(name.removesuffix(end), pattern) for end in _ENDS)


def add_adapters(model: ModelEditor, parts: Sequence[str]) -> None:
    """Give the weights of the matrix products that `parts` of --train choose an adapter; who has one keeps it.

    Weights with no more inputs or outputs than the rank are left out. Raises ModelError where nothing is left.
    """
    for part in parts:
        adapters = adapters_of(part)
        if adapters is None:
            continue
        done = {i.name.removesuffix(_ENDS[0]) for i in model.graph.initializer if i.name.endswith(_ENDS[0])}
        chosen = {name for name in done if fnmatchcase(name, adapters.pattern)}
        given: set[str] = set()
        for node in list(model.graph.node):
            product = _product(model, node)
            if product is None or product[0] in done or product[0].endswith(_ENDS):
                continue
            weight, (inputs, outputs) = product
            if fnmatchcase(weight, adapters.pattern) and min(inputs, outputs) > adapters.rank:
                if weight not in given:
                    _declare(model, weight, inputs, outputs, adapters.rank)
                given.add(weight)
                _insert(model, node, weight)
        if not chosen | given:
            raise ModelError(
                f"--train {part!r} finds no weight of a dense layer with more than {adapters.rank} inputs and outputs. "
                "Choose a smaller rank, or other weights."
            )


def _product(model: ModelEditor, node: onnx.NodeProto) -> tuple[str, tuple[int, int]] | None:
    """(weight, (inputs, outputs)) of a product of data with a matrix of the model; None for other nodes."""
    if node.op_type not in ("MatMul", "Gemm"):
        return None
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if attrs.get("transA", 0) or attrs.get("alpha", 1.0) != 1.0:
        return None
    name, is_transposed = str(node.input[1]), bool(attrs.get("transB", 0))
    while (maker := model.maker(name)) is not None and maker.op_type in ("Identity", "Transpose"):
        is_transposed ^= maker.op_type == "Transpose"
        name = str(maker.input[0])
    weight = next((i for i in model.graph.initializer if i.name == name), None)
    if weight is None or len(weight.dims) != 2 or weight.data_type != onnx.TensorProto.FLOAT:
        return None
    if any(i.name == node.input[0] for i in model.graph.initializer):
        return None
    first, second = weight.dims
    return name, (second, first) if is_transposed else (first, second)


def _declare(model: ModelEditor, weight: str, inputs: int, outputs: int, rank: int) -> None:
    bound = 1.0 / np.sqrt(inputs)
    # numpy promises that this generator draws the same in every version.
    drawn = np.random.RandomState(zlib.crc32(weight.encode())).uniform(-bound, bound, (inputs, rank))
    model.declare(weight + _ENDS[0], drawn.astype(np.float32))
    model.declare(weight + _ENDS[1], np.zeros((rank, outputs), np.float32))


def _insert(model: ModelEditor, node: onnx.NodeProto, weight: str) -> None:
    """Add the adapter's result behind the product, or behind the bias that follows it."""
    last = node
    readers = [n for n in model.graph.node if node.output[0] in n.input]
    is_bias = len(readers) == 1 and readers[0].op_type == "Add" and model.readers()[node.output[0]] == 1
    if is_bias and any(i.name in readers[0].input and len(i.dims) == 1 for i in model.graph.initializer):
        last = readers[0]
    y = str(last.output[0])
    names = {end: f"{y}.{end}" for end in ("frozen", "lora_A", "lora_B")}
    last.output[0] = names["frozen"]
    label = node.name or y
    added = [
        helper.make_node("MatMul", [node.input[0], weight + _ENDS[0]], [names["lora_A"]], f"{label}.lora_A"),
        helper.make_node("MatMul", [names["lora_A"], weight + _ENDS[1]], [names["lora_B"]], f"{label}.lora_B"),
        helper.make_node("Add", [names["frozen"], names["lora_B"]], [y], f"{label}.lora"),
    ]
    at = next(i for i, other in enumerate(model.graph.node) if other.output and other.output[0] == names["frozen"])
    for offset, new in enumerate(added):
        model.graph.node.insert(at + 1 + offset, new)

"""Weights in panels: groups of columns one behind the other, where RAM has no room for tiles of whole rows.

A tile of a dense layer's weights is some rows and some columns. Of a matrix that lies row by row, that is a transfer a
row; of one in panels as wide as the tile, it is one. Lowering chooses, for it knows the budget: nodes get an attribute
(ops/dense.py), and the weights lie so on the device alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from poet_codegen.graph import Array, Graph, Node, Role
from poet_codegen.ops import registry
from poet_codegen.ops.dense import PANELS, is_by_feature
from poet_codegen.ops.update import Update

_FLOAT_BYTES = 4
_LEAST_ROWS = 8
"""Of a tile of whole rows."""
_LEAST_WIDTH = 8
_SHARES = (0.2, 0.4, 0.9)
"""Of RAM, for tiles of the matrices whose features are a panel's columns: panels so wide are tried."""


@dataclass(frozen=True)
class Choice:
    """Weights that may lie in panels."""

    weights: str
    forward: Node
    counts: tuple[int, ...]
    """Of panels, to be tried; 1 is none."""


def panel_choices(graph: Graph, ram_bytes: int, on_storage: Collection[str]) -> Iterator[Choice]:
    """Of layers with one matrix by feature, whose tiles go with rows, where RAM is short of the other side's, x and dx
    or y alone, and some whole rows."""
    readers = Counter(name for node in graph.nodes if node.role is Role.FORWARD for name in node.inputs)
    for node in graph.nodes:
        if node.op != "Dense" or is_by_feature(node, "x") == is_by_feature(node, "y"):
            continue
        weights = graph.tensors[node.inputs[1]]
        by_outputs = bool(node.int("transposed"))
        if weights.name not in on_storage or readers[weights.name] > 1 or by_outputs != is_by_feature(node, "y"):
            continue
        height, columns = weights.shape
        rows = graph.tensors[node.inputs[0]].elements // (columns if by_outputs else height)
        bytes_a_column = _FLOAT_BYTES * rows * (2 if by_outputs else 1)
        if columns * (bytes_a_column + _LEAST_ROWS * _FLOAT_BYTES) <= ram_bytes:
            continue
        widths = [width for width in range(_LEAST_WIDTH, columns) if columns % width == 0]
        fitting = ([w for w in widths if w * bytes_a_column <= share * ram_bytes] for share in _SHARES)
        counts = dict.fromkeys(columns // some[-1] for some in fitting if some)
        yield Choice(weights.name, node, (1, *counts))


def with_panels(graph: Graph, panels: Mapping[str, int]) -> Graph:
    """The graph whose nodes say which weights lie in panels."""
    nodes = []
    for node in graph.nodes:
        count = next((panels[name] for name in node.inputs if name in panels), None)
        if count is not None:
            node = replace(node, attrs={**node.attrs, PANELS: count})
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def with_states(graph: Graph, panels: Mapping[str, int]) -> dict[str, int]:
    """`panels`, with those of the optimizer's states of these weights."""
    found = dict(panels)
    for node in graph.nodes:
        if isinstance(registry.get(node.op), Update) and node.inputs[0] in panels:
            found |= dict.fromkeys(node.inputs[: len(node.outputs)], panels[node.inputs[0]])
    return found


def in_panels(weights: Array, count: int) -> Array:
    """[rows, columns] as it lies on the device."""
    rows, columns = weights.shape
    return weights.reshape(rows, count, columns // count).swapaxes(0, 1)


def stored(name: str, weights: Array, graph: Graph, panels: Mapping[str, int]) -> Array:
    """A model's tensor as it lies on the device."""
    tensor = graph.tensors.get(name)
    if tensor is not None and tensor.is_transposed:
        weights = weights.T
    return in_panels(weights, panels[name]) if name in panels else weights


def has_panels(node: Node) -> bool:
    """Whether a node, or one that it stands for, has its weights in panels."""
    return PANELS in node.attrs or any(has_panels(part) for part in node.stands_for)

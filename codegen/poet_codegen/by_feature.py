"""Which matrices of a model lie feature by feature: what fully connected layers and products of heads pass on to such.

Layers over many rows (tokens) are cut by features where they outgrow memory. Of a matrix [rows, features] that is a run
a row, each a transfer of its own; of [features, rows] it is one piece. So where the result of a layer or product
reaches only layers and products, through views, transpositions and formulas an element, all of that is stored
transposed, and the transpositions are gone. No term and no order of terms changes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from poet_codegen.graph import AttrValue, Graph, Kind, Node
from poet_codegen.ops import registry
from poet_codegen.ops.pointwise import Pointwise
from poet_codegen.verify import verify

_Positions = np.ndarray[Any, Any]

_MOST_ELEMENTS = 1 << 24
"""Of a result that is looked at: its positions take eight bytes each, and no board has storage for many more."""


def by_feature(graph: Graph) -> Graph:
    """All such results, one after the other."""
    made = [node.outputs[0] for node in graph.nodes if node.op in ("Dense", "MatMul")]
    for name in [name for name in made if graph.tensors[name].elements <= _MOST_ELEMENTS]:
        graph = _Transposed(graph, name).graph() or graph
    return graph


class _Transposed:
    """The graph with the result of one layer or product transposed."""

    def __init__(self, graph: Graph, result: str) -> None:
        self._graph, self._result = graph, result
        shape = graph.tensors[result].shape
        positions = np.arange(prod(shape)).reshape(shape)
        self._reached: dict[str, _Positions] = {result: positions}
        """Tensor that depends on the result -> which element of the result each of its own comes from."""
        self._source = {result: result}
        """Such a tensor -> the stored one that it is a view of."""
        self._stored = positions.swapaxes(-1, -2) if len(shape) > 1 else positions
        self._tensors = {**graph.tensors, result: replace(graph.tensors[result], shape=self._stored.shape)}
        self._nodes: list[Node] = []
        self._has_layer = False
        """A layer makes it or reads it."""

    def graph(self) -> Graph | None:
        """None where something could not read it, or no layer would."""
        if self._stored.ndim < 2 or min(self._stored.shape[-2:]) == 1:
            return None
        for node in self._graph.nodes:
            if self._result in node.outputs:
                self._nodes.append(_made_transposed(node))
                self._has_layer |= node.op == "Dense"
            elif self._reached.keys().isdisjoint(node.inputs):
                self._nodes.append(node)
            elif not self._passes_on(node) and not self._reads(node):
                return None
        if not self._has_layer or self._reached.keys() & set(self._graph.outputs):
            return None
        mentioned = {name for node in self._nodes for name in (*node.inputs, *node.outputs)}
        views = self._reached.keys() - mentioned
        tensors = {name: tensor for name, tensor in self._tensors.items() if name not in views}
        changed = replace(self._graph, tensors=tensors, nodes=tuple(self._nodes))
        verify(changed)
        return changed

    def _passes_on(self, node: Node) -> bool:
        """Whether what a node makes is stored transposed as well, or is another view of what is stored."""
        output, x = node.outputs[0], self._reached.get(node.inputs[0])
        if x is None:
            return False
        if node.op in ("Reshape", "Transpose"):
            self._reached[output] = (
                x.reshape(node.ints("shape")) if node.op == "Reshape" else x.transpose(node.ints("perm"))
            )
            self._source[output] = self._source[node.inputs[0]]
            return True
        others = [self._reached.get(name) for name in node.inputs]
        if not isinstance(registry.get(node.op), Pointwise) or not all(
            other is not None and other.shape == x.shape and np.array_equal(other, x) for other in others
        ):
            return False
        self._reached[output], self._source[output] = x, output
        self._tensors[output] = replace(self._tensors[output], shape=self._stored.shape)
        self._nodes.append(replace(node, inputs=tuple(self._source[name] for name in node.inputs)))
        return True

    def _reads(self, node: Node) -> bool:
        """Whether a layer or product can read what is stored."""
        flags = {"Dense": ("x_by_feature",), "MatMul": ("trans_a", "trans_b")}.get(node.op, ())
        inputs, attrs = list(node.inputs), dict(node.attrs)
        for position, name in enumerate(node.inputs):
            if name not in self._reached:
                continue
            x = self._reached[name]
            is_as_it_is = node.op == "MatMul" and np.array_equal(x.ravel(), self._stored.ravel())
            turned = x.swapaxes(-1, -2)
            if position >= len(flags) or not (is_as_it_is or np.array_equal(turned.ravel(), self._stored.ravel())):
                return False
            inputs[position] = self._view(name, x.shape if is_as_it_is else turned.shape)
            if not is_as_it_is:
                flag: AttrValue = 1 if node.op == "Dense" else 1 - node.int(flags[position])
                attrs[flags[position]] = flag
        self._nodes.append(replace(node, inputs=tuple(inputs), attrs=attrs))
        self._has_layer |= node.op == "Dense"
        return True

    def _view(self, name: str, shape: tuple[int, ...]) -> str:
        """Of what is stored, under a shape; in place of the view `name`."""
        source = self._source[name]
        if self._tensors[source].shape == shape:
            return source
        made = next((node.outputs[0] for node in self._nodes if node.op == "Reshape" and node.inputs == (source,)), "")
        if made and self._tensors[made].shape == shape:
            return made
        new = name if name != source and not made else f"{source}.by_feature"
        self._tensors[new] = replace(self._tensors[source], name=new, shape=shape)
        self._nodes.append(Node("Reshape", (source,), (new,), f"view of {source}", attrs={"shape": shape}))
        return new


def _made_transposed(node: Node) -> Node:
    """The layer or product whose result is stored transposed."""
    if node.op == "Dense":
        return replace(node, attrs={**node.attrs, "y_by_feature": 1})
    flags = {"trans_a": 1 - node.int("trans_b"), "trans_b": 1 - node.int("trans_a")}
    return replace(node, inputs=node.inputs[::-1], attrs={**node.attrs, **flags})


def with_rows_by_feature(graph: Graph) -> Graph:
    """The weights of a layer that reads or makes one matrix feature by feature, with a row for each such feature.

    A tile of features is then one piece of the weights, too, in both passes. Parameters that lie otherwise than in the
    model are marked (Tensor.is_transposed). No term and no order of terms changes.
    """
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    tensors, nodes = dict(graph.tensors), []
    for node in graph.nodes:
        wanted = {"x_by_feature": 0, "y_by_feature": 1}
        layouts = [transposed for name, transposed in wanted.items() if name in node.attrs]
        if node.op == "Dense" and len(layouts) == 1 and layouts[0] != node.int("transposed"):
            weights = tensors[node.inputs[1]]
            if weights.kind is Kind.PARAM and readers[weights.name] == 1:
                tensors[weights.name] = replace(weights, shape=weights.shape[::-1], is_transposed=True)
                node = replace(node, attrs={**node.attrs, "transposed": layouts[0]})
        nodes.append(node)
    changed = replace(graph, tensors=tensors, nodes=tuple(nodes))
    verify(changed)
    return changed

"""Rewrites of an imported graph that save memory and time on a board."""

from __future__ import annotations

from dataclasses import replace

from poet_codegen.graph import Graph, Kind, Node
from poet_codegen.verify import verify


def join_biases(graph: Graph) -> Graph:
    """Give a fully connected layer without bias the vector that is added right behind it.

    Exporters write a layer over tokens as MatMul and Add. Joined, the product before the addition is never stored, and
    the bias's gradient is applied without being stored. Views between the two stay.
    """
    makers = {name: node for node in graph.nodes for name in node.outputs}
    readers: dict[str, int] = dict.fromkeys(graph.outputs, 1)
    for node in graph.nodes:
        for name in node.inputs:
            readers[name] = readers.get(name, 0) + 1
    replaced: dict[int, Node | None] = {}
    for add in graph.nodes:
        found = _layer_behind(graph, add, makers, readers)
        if found is None:
            continue
        dense, view, bias = found
        joined = replace(dense, inputs=(*dense.inputs, bias), outputs=add.outputs if view is None else dense.outputs)
        replaced[id(dense)] = joined
        replaced[id(add)] = None
        if view is not None:
            replaced[id(view)] = replace(view, outputs=add.outputs)
    nodes = tuple(new for node in graph.nodes if (new := replaced.get(id(node), node)) is not None)
    mentioned = {name for node in nodes for name in (*node.inputs, *node.outputs)} | set(graph.outputs)
    kept = {n: t for n, t in graph.tensors.items() if n in mentioned or t.kind is not Kind.VALUE}
    result = replace(graph, tensors=kept, nodes=nodes)
    verify(result)
    return result


def _layer_behind(
    graph: Graph, add: Node, makers: dict[str, Node], readers: dict[str, int]
) -> tuple[Node, Node | None, str] | None:
    """(layer, view of its result or None, bias) when `add` adds a bias that the layer can take."""
    if add.op != "Add" or len(add.inputs) != 2:
        return None
    for product, bias in (add.inputs, add.inputs[::-1]):
        view: Node | None = makers.get(product)
        dense = view
        if view is not None and view.op == "Reshape":
            dense = makers.get(view.inputs[0]) if readers[view.inputs[0]] == 1 else None
        else:
            view = None
        if dense is None or dense.op != "Dense" or len(dense.inputs) != 2 or readers[product] != 1:
            continue
        columns = graph.tensors[dense.outputs[0]].shape[1:]
        # The bias must be there before the layer runs: a computed one may come later.
        if graph.tensors[product].shape[-1:] == columns == graph.tensors[bias].shape and bias not in makers:
            return dense, view, bias
    return None

"""Rewrites of an imported graph that save memory and time on a board."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from poet_codegen.graph import Graph, Kind, Node
from poet_codegen.verify import verify


def simplify(graph: Graph) -> Graph:
    """All rewrites."""
    return join_biases(join_transpositions(join_paddings(graph)))


def join_paddings(graph: Graph) -> Graph:
    """Give a convolution the zeros that are padded right before it: exporters of Keras' padding "same" write a Pad."""

    def joined(node: Node, pad: Node) -> Node | None:
        inner, outer = graph.tensors[pad.inputs[0]].shape, graph.tensors[pad.outputs[0]].shape
        if node.op != "Conv" or pad.op != "Place" or pad.float("fill") != 0.0 or inner[:2] != outer[:2]:
            return None
        (top, left), (_, _, h, w), (_, _, all_h, all_w) = pad.ints("starts")[2:], inner, outer
        around = (top, left, all_h - h - top, all_w - w - left)
        pads = tuple(own + more for own, more in zip(node.ints("pads"), around, strict=True))
        return replace(node, inputs=(pad.inputs[0], *node.inputs[1:]), attrs={**node.attrs, "pads": pads})

    return _without_makers(graph, 0, joined)


def join_transpositions(graph: Graph) -> Graph:
    """Let a product read its matrix transposed instead of making a transposed copy, of a layer's weights above all."""

    def joined(node: Node, transpose: Node) -> Node | None:
        flag = {"Dense": "transposed", "MatMul": "trans_b"}.get(node.op)
        perm = transpose.ints("perm") if transpose.op == "Transpose" else ()
        rank = len(perm)
        if flag is None or rank < 2 or perm != (*range(rank - 2), rank - 1, rank - 2):
            return None
        attrs = {**node.attrs, flag: 1 - node.int(flag)}
        return replace(node, inputs=(node.inputs[0], transpose.inputs[0], *node.inputs[2:]), attrs=attrs)

    return _without_makers(graph, 1, joined)


def _without_makers(graph: Graph, position: int, joined: Callable[[Node, Node], Node | None]) -> Graph:
    """Merge nodes with the maker of their input at `position`, where `joined(node, maker)` says how.

    A maker that others read as well stays.
    """
    makers = {name: node for node in graph.nodes for name in node.outputs}
    nodes = []
    for node in graph.nodes:
        maker = makers.get(node.inputs[position]) if len(node.inputs) > position else None
        nodes.append((joined(node, maker) if maker is not None else None) or node)
    result = without_dead_nodes(replace(graph, nodes=tuple(nodes)))
    verify(result)
    return result


def without_dead_nodes(graph: Graph) -> Graph:
    """The graph without nodes that no output depends on, and without tensors that nothing mentions."""
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs, node.outputs)
            kept.append(node)
    tensors = {name: t for name, t in graph.tensors.items() if name in needed or t.kind is Kind.INPUT}
    return Graph(graph.name, tensors, tuple(reversed(kept)), graph.outputs)


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

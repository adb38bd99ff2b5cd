"""What every pass over a graph relies on, checked after each."""

from __future__ import annotations

from poet_codegen.errors import ModelError
from poet_codegen.graph import Graph, Kind
from poet_codegen.ops import registry


def verify(graph: Graph) -> None:
    """Check what every pass relies on. Raises ModelError; a failure after a pass is a bug of that pass.

    Checked: tensors exist, are assigned once and before use; shapes agree with each op's shape rule; an updated
    parameter is read by nobody after its update.
    """
    ready = {t.name for t in graph.tensors.values() if t.kind not in (Kind.VALUE, Kind.UPDATED, Kind.LOSS, Kind.OUTPUT)}
    replaced: dict[str, str] = {}
    for node in graph.nodes:
        where = f"graph {graph.name!r}, node {node.label!r} ({node.op})"
        for name in (*node.inputs, *node.outputs):
            if name not in graph.tensors:
                raise ModelError(f"{where}: tensor {name!r} is not declared.")
        for name in node.inputs:
            if name not in ready:
                raise ModelError(f"{where}: reads {name!r} before it is computed.")
            if name in replaced:
                raise ModelError(f"{where}: reads {name!r} after {replaced[name]!r} updated it.")
        expected = registry.get(node.op).shapes(tuple(graph.tensors[i] for i in node.inputs), node)
        actual = tuple(graph.tensors[o].shape for o in node.outputs)
        if expected != actual:
            raise ModelError(f"{where}: outputs have shapes {actual}, the op's rule gives {expected}.")
        for name in node.outputs:
            if name in ready:
                raise ModelError(f"{where}: assigns {name!r} twice.")
            ready.add(name)
            old = graph.tensors[name].updates
            if old is not None:
                replaced[old] = node.label
    for name in graph.outputs:
        if name not in ready:
            raise ModelError(f"graph {graph.name!r}: output {name!r} is never computed.")

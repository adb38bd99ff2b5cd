"""Who reads which value of an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence

import onnx


class Readers:
    """Who reads each value of an ONNX graph; nodes read for their subgraphs too."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in _names_read(node):
                self._readers.setdefault(name, []).append(node)
        self._outputs = {output.name for output in graph.output}

    def of(self, name: str) -> Sequence[onnx.NodeProto]:
        """The nodes that read a value."""
        return self._readers.get(name, ())

    def is_read(self, name: str) -> bool:
        """Whether a node or the outside reads a value."""
        return name in self._readers or name in self._outputs


def _names_read(node: onnx.NodeProto) -> set[str]:
    inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return {*node.input, *(name for graph in inner for child in graph.node for name in _names_read(child))} - {""}

"""What each parameter is to the layers that read it: bias, scale or shift of a normalization, running statistic.

Ops say it of their own inputs (`Op.parts`). Exporters also write biases and normalizations as arithmetic: a bias that
is added behind a product, and the scale and shift behind a value that was normalized, by LayerNormalization or by the
subtraction and division that older operator sets have for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from poet_codegen.graph import Graph, Kind, Node
from poet_codegen.ops import registry
from poet_codegen.ops.registry import Part

_LAYERS = ("Conv", "Dense", "MatMul")


def parameters_of(graph: Graph, *parts: Part) -> frozenset[str]:
    """The parameters that are one of these parts of some node; a shared one may be several."""
    return frozenset(name for name, part in _Parts(graph).all() if part in parts)


def layers_of(graph: Graph) -> list[frozenset[str]]:
    """For every node that reads parameters, which; behind a view or a factor they are read by who reads that."""
    return [names for names in _Parts(graph).read() if names]


class _Parts:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._makers = {name: node for node in graph.nodes for name in node.outputs}

    def all(self) -> Iterator[tuple[str, Part]]:
        for node in self._graph.nodes:
            for position, part in (*registry.get(node.op).parts, *self._in_arithmetic(node)):
                name = self._source(node.inputs[position]) if position < len(node.inputs) else ""
                if name and self._graph.tensors[name].kind is Kind.PARAM:
                    yield name, part

    def read(self) -> Iterator[frozenset[str]]:
        for node in self._graph.nodes:
            if not self._is_transparent(node):
                sources = (self._source(name) for name in node.inputs)
                yield frozenset(name for name in sources if self._graph.tensors[name].kind is Kind.PARAM)

    def _in_arithmetic(self, node: Node) -> tuple[tuple[int, Part], ...]:
        if node.op == "Affine" and self._is_normalized(node.inputs[0]):
            return ((1, Part.SCALE), (2, Part.SHIFT))
        if node.op not in ("Add", "Mul") or len(node.inputs) != 2:
            return ()
        for position, other in ((0, node.inputs[1]), (1, node.inputs[0])):
            if node.op == "Mul" and self._is_normalized(other):
                return ((position, Part.SCALE),)
            if node.op == "Add" and self._is_scaled(other):
                return ((position, Part.SHIFT),)
            if node.op == "Add" and self._made_by(self._source(other)) in _LAYERS:
                return ((position, Part.BIAS),)
        return ()

    def _is_normalized(self, name: str) -> bool:
        """z, of LayerNormalization or as a difference from a mean over a root."""
        z = self._maker(name)
        if z is None or z.op == "LayerNormalization":
            return z is not None
        return (
            z.op == "Div"
            and len(z.inputs) == 2
            and self._made_by(z.inputs[0]) == "Sub"
            and self._made_by(z.inputs[1]) == "Sqrt"
        )

    def _is_scaled(self, name: str) -> bool:
        """z times a parameter."""
        product = self._maker(name)
        if product is None or product.op != "Mul" or len(product.inputs) != 2:
            return False
        first, second = product.inputs
        return any(
            self._is_normalized(z) and self._graph.tensors[self._source(scale)].kind is Kind.PARAM
            for z, scale in ((first, second), (second, first))
        )

    def _source(self, name: str) -> str:
        """What `name` is a view of, or a multiple by a number, such as Gemm's alpha or beta."""
        maker = self._makers.get(name)
        while maker is not None and self._is_transparent(maker):
            name = maker.inputs[0]
            maker = self._makers.get(name)
        return name

    @staticmethod
    def _is_transparent(node: Node) -> bool:
        return registry.get(node.op).is_view or (node.op == "Mul" and len(node.inputs) == 1)

    def _made_by(self, name: str) -> str:
        maker = self._maker(name)
        return "" if maker is None else maker.op

    def _maker(self, name: str) -> Node | None:
        """The node that computes a tensor, seen through views."""
        maker = self._makers.get(name)
        while maker is not None and registry.get(maker.op).is_view:
            maker = self._makers.get(maker.inputs[0])
        return maker

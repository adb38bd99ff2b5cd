"""Vectors that an exporter let several layers read become each layer's own again.

PyTorch's exporters merge initializers of equal values: in a fresh model all scales are ones and all biases zeros. Left
so, layers that PyTorch trains apart would train as one. Matrices are drawn at random: where layers share one, the
model does (tied embeddings), and it stays shared.

A vector that the model itself shares, such as that of a module that is called twice, stays shared too, where the
exporter left evidence: the newer one notes each node's parameters of the source in its metadata, the older one writes
an Identity for what it merged, and names nodes by their module (/norm/Add, /norm_1/Add for the second call). Without
any, layers share a vector where they share the weight beside it.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np
import onnx

from poet_codegen.onnx_edit import ModelEditor

_ARITHMETIC = ("Add", "Mul")
_PLACES: dict[str, tuple[int, ...]] = {
    "LayerNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "BatchNormalization": (1, 2, 3, 4),
    "PRelu": (1,),
    "Conv": (2,),
    "Gemm": (2,),
    # A bias behind a product; scale and shift of decomposed normalizations.
    **dict.fromkeys(_ARITHMETIC, (0, 1)),
}
_LAYERS = ("Conv", "Gemm", "MatMul")
_FX_NODE = "pkg.torch.onnx.fx_node"
_SCOPES = "pkg.torch.onnx.name_scopes"
_NUMBER = ("number",)
_PLACEHOLDER = re.compile(r"%([pb]_\w+)")
_QUOTED = re.compile(r"'([^']*)'")
_MODULE = re.compile(r"(/.+)/[^/]+")
_CALL = re.compile(r"_\d+(?=/|$)")


def own_vectors(model: ModelEditor) -> None:
    """Give every layer its own copy of a vector that others read for their own; names are the source's where known."""
    aliases = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Identity"}
    reads: dict[str, list[_Read]] = {}
    for read in _reads(model.graph):
        root = read.name
        while root in aliases:
            root = aliases[root]
        reads.setdefault(root, []).append(read)
    constants = [i.name for i in model.graph.initializer]
    constants += [n.output[0] for n in model.graph.node if n.op_type == "Constant"]
    for root in constants:
        array = model.array(root) if root in reads else None
        if array is not None and array.dtype == np.float32 and array.ndim and array.size == max(array.shape):
            _part(model, root, array, reads[root])


class _Read:
    """An input of a node."""

    def __init__(self, index: int, node: onnx.NodeProto, position: int, weight: str | None) -> None:
        self.node = node
        self.position = position
        self.name = str(node.input[position])
        self._index = index
        self._weight = weight
        self._notes = {entry.key: entry.value for entry in node.metadata_props}

    def owner(self, root: str) -> Hashable:
        """Equal for reads of what is one vector in the model's source; None where a tensor of any kind is read."""
        node = self.node
        if self.position not in _PLACES.get(node.op_type, ()):
            return None
        if self.is_number():
            return _NUMBER
        if self.name != root:
            return self.name
        place = (node.op_type, None if node.op_type in _ARITHMETIC else self.position)
        source, module = self._source(), _MODULE.fullmatch(node.name)
        if source is not None:
            return source
        if module is not None:
            return (_CALL.sub("", module[1]), *place)
        if self._weight is not None:
            return (self._weight, *place)
        return (self._index, *place)

    def is_number(self) -> bool:
        """Whether it is the one or zero that PyTorch's GroupNorm, normalized as instances, has in a scale's place."""
        grouped = "aten.group_norm." in self._notes.get(_FX_NODE, "")
        return grouped and self.node.op_type == "InstanceNormalization"

    def wish(self, root: str) -> str:
        """What the vector is called in the model's source, as far as it is known."""
        source = self._source()
        if self.name != root or source is None:
            return self.name
        scopes = _QUOTED.findall(self._notes.get(_SCOPES, ""))
        module = scopes[-2] if len(scopes) > 1 else ""
        rest = source[2:].removeprefix(module.replace(".", "_") + "_")
        return f"{module}.{rest}" if module and rest != source[2:] else source[2:]

    def _source(self) -> str | None:
        """The parameter or buffer of the source, by the exporter's note: its arguments stand in a layer's order."""
        sources = _PLACEHOLDER.findall(self._notes.get(_FX_NODE, ""))
        if self.node.op_type == "Mul":
            at = 0
        elif self.node.op_type.endswith("Normalization"):
            at = self.position - 1
        else:
            at = len(sources) - 1
        return sources[at] if at < len(sources) and sources else None


def _reads(graph: onnx.GraphProto) -> Iterator[_Read]:
    weights = {n.output[0]: str(n.input[1]) for n in graph.node if n.op_type in _LAYERS}
    for index, node in enumerate(graph.node):
        if node.op_type == "Identity":
            continue
        # Of the layer itself, or of the product that a bias is added to.
        beside = node.output if node.op_type in _LAYERS else node.input if node.op_type == "Add" else ()
        weight = next((weights[name] for name in beside if name in weights), None)
        yield from (_Read(index, node, position, weight) for position in range(len(node.input)))


def _part(model: ModelEditor, root: str, array: np.ndarray[Any, Any], reads: list[_Read]) -> None:
    is_node = model.maker(root) is not None
    groups: dict[Hashable, list[_Read]] = {}
    for read in reads:
        groups.setdefault(read.owner(root), []).append(read)
    # Who reads the constant by its own name may keep it, first of all those that it is named after.
    mine = {owner: group for owner, group in groups.items() if owner != _NUMBER}
    direct = [owner for owner, group in mine.items() if any(read.name == root for read in group)]
    keeps = min(direct, key=lambda o: (o is not None, all(r.wish(root) != root for r in groups[o])), default=root)
    for owner, group in groups.items():
        if owner is None or owner == keeps:
            continue
        wish, old = root if owner == _NUMBER else group[0].wish(root), group[0].name
        for read in group:
            read.node.input[read.position] = ""
        model.drop_unread([old])
        as_node = owner == _NUMBER or is_node
        name = model.hold_node(wish, array) if as_node else model.hold(wish, array)
        for read in group:
            read.node.input[read.position] = name

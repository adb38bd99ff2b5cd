"""The graph: what an ONNX model becomes, before and after autodiff (DESIGN §2, §3).

A graph is a list of nodes in topological order over named tensors. Every value is assigned once; an update makes a
new tensor that replaces its parameter (`Tensor.updates`). Passes take a graph and return a new one; verify() of
verify.py runs after each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from poet_codegen.errors import ModelError
from poet_codegen.numerics import Numerics

AttrValue = int | float | str | bool | tuple[int, ...]
Array = npt.NDArray[np.float32]


class DType(StrEnum):
    """Element type of a tensor."""

    FLOAT32 = "float32"
    INT32 = "int32"

    @property
    def size_bytes(self) -> int:
        """Bytes of one element."""
        return 4

    @property
    def c_type(self) -> str:
        """Type of one element in C."""
        return "int32_t" if self is DType.INT32 else "float"


class Kind(StrEnum):
    """What a tensor is to the outside of the graph; decides where it may live."""

    INPUT = "input"  # the sample; a static buffer the host fills
    LABEL = "label"  # what the loss compares with; a static buffer the host fills
    OUTPUT = "output"  # the answer of an inference graph; a static buffer
    LOSS = "loss"  # a static float
    LEARNING_RATE = "learning_rate"  # a static float the host may change between steps
    STEP = "step"  # a static int32: how many steps were trained before this one, the same all through it
    PARAM = "param"  # a parameter before its update (or frozen)
    CONSTANT = "constant"  # numbers that never train; read in place from flash, like a frozen parameter
    STATE = "state"  # lives on between steps like a parameter that learns, but is no weight of the model; 0 at first
    UPDATED = "updated"  # the same parameter or state after its update
    VALUE = "value"  # everything else: lives in the arena

    @property
    def is_static(self) -> bool:
        """True for buffers outside the arena."""
        return self in (Kind.INPUT, Kind.LABEL, Kind.OUTPUT, Kind.LOSS, Kind.LEARNING_RATE, Kind.STEP)


class Role(StrEnum):
    """Part of the training step that a node belongs to."""

    FORWARD = "forward"
    LOSS = "loss"
    BACKWARD = "backward"
    UPDATE = "update"


@dataclass(frozen=True)
class Tensor:
    """A named value of fixed shape."""

    name: str
    shape: tuple[int, ...]
    dtype: DType = DType.FLOAT32
    kind: Kind = Kind.VALUE
    updates: str | None = None
    """For kind UPDATED: the parameter or state this is the new version of."""
    is_transposed: bool = False
    """A parameter or state that lies transposed: its shape is the model's, backwards."""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.elements * self.dtype.size_bytes


@dataclass(frozen=True)
class Node:
    """One operation. `op` is a key of the registry in poet_codegen.ops."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    label: str
    """Name for messages and comments: the ONNX node it came from."""
    role: Role = Role.FORWARD
    attrs: Mapping[str, AttrValue] = field(default_factory=dict)
    stands_for: tuple[Node, ...] = ()
    """Of a node that lowering made of several (ops/chain.py, ops/backward.py): those, in their order."""

    def ints(self, name: str) -> tuple[int, ...]:
        """An attribute that is a tuple of ints."""
        value = self.attrs[name]
        assert isinstance(value, tuple), (self.op, name)
        return value

    def int(self, name: str) -> int:
        """An attribute that is an int."""
        value = self.attrs[name]
        assert isinstance(value, int), (self.op, name)
        return value

    def float(self, name: str) -> float:
        """An attribute that is a number."""
        value = self.attrs[name]
        assert isinstance(value, float), (self.op, name)
        return value


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order over named tensors."""

    name: str
    tensors: Mapping[str, Tensor]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    """Tensors that the outside reads: the model's answer, or the loss."""

    def of_kind(self, *kinds: Kind) -> tuple[Tensor, ...]:
        """Tensors of these kinds in declaration order."""
        return tuple(t for t in self.tensors.values() if t.kind in kinds)

    def one(self, kind: Kind) -> Tensor:
        """The only tensor of a kind. Raises ModelError when there are none or several."""
        found = self.of_kind(kind)
        if len(found) != 1:
            names = ", ".join(repr(t.name) for t in found) or "none"
            raise ModelError(
                f"The model must have exactly one {kind.value}, but has {len(found)} ({names}). Export it with one."
            )
        return found[0]

    def params(self) -> tuple[Tensor, ...]:
        """Parameters, constants and state in declaration order: that of manifest.json and of the firmware's table."""
        return self.of_kind(Kind.PARAM, Kind.CONSTANT, Kind.STATE)

    def learned(self) -> frozenset[str]:
        """Names of the parameters and the state that this graph updates."""
        return frozenset(t.updates for t in self.tensors.values() if t.updates is not None)

    def to_json(self) -> str:
        """Canonical text form; equal graphs give equal text."""
        return json.dumps(graph_to_dict(self), indent=1) + "\n"


def graph_to_dict(graph: Graph) -> dict[str, Any]:
    """The graph as plain JSON values."""
    tensors = [
        {
            "name": t.name,
            "shape": list(t.shape),
            "dtype": t.dtype.value,
            "kind": t.kind.value,
            **({"updates": t.updates} if t.updates else {}),
            **({"transposed": True} if t.is_transposed else {}),
        }
        for t in graph.tensors.values()
    ]
    nodes = [
        {
            "op": n.op,
            "label": n.label,
            "role": n.role.value,
            "inputs": list(n.inputs),
            "outputs": list(n.outputs),
            "attrs": {k: list(v) if isinstance(v, tuple) else v for k, v in sorted(n.attrs.items())},
        }
        for n in graph.nodes
    ]
    return {"name": graph.name, "tensors": tensors, "nodes": nodes, "outputs": list(graph.outputs)}


def graph_from_dict(data: Mapping[str, Any]) -> Graph:
    """Inverse of graph_to_dict. Raises ModelError for a malformed dict."""
    try:
        tensors = {
            t["name"]: Tensor(
                t["name"],
                tuple(t["shape"]),
                DType(t["dtype"]),
                Kind(t["kind"]),
                t.get("updates"),
                t.get("transposed", False),
            )
            for t in data["tensors"]
        }
        nodes = tuple(
            Node(
                n["op"],
                tuple(n["inputs"]),
                tuple(n["outputs"]),
                n["label"],
                Role(n["role"]),
                {k: tuple(v) if isinstance(v, list) else v for k, v in n["attrs"].items()},
            )
            for n in data["nodes"]
        )
        return Graph(data["name"], tensors, nodes, tuple(data["outputs"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"graph.json is damaged ({error!r}). Run `poet plan` again.") from error


def model_digest(graph: Graph, weights: Mapping[str, Array], numerics: Numerics) -> str:
    """SHA-256 over all that decides the bits, in hex: what a firmware says it was built from.

    That is the graph, the initial weights, and numerics other than the default.
    """
    digest = hashlib.sha256(graph.to_json().encode())
    if numerics is not Numerics.SEPARATE:
        digest.update(numerics.value.encode())
    for param in graph.of_kind(Kind.PARAM, Kind.CONSTANT):
        digest.update(np.ascontiguousarray(weights[param.name], dtype="<f4").tobytes())
    return digest.hexdigest()


class GraphBuilder:
    """Collects tensors and nodes for a new graph; names are made unique here."""

    def __init__(self, name: str, base: Graph | None = None) -> None:
        self.name = name
        self.tensors: dict[str, Tensor] = dict(base.tensors) if base else {}
        self.nodes: list[Node] = list(base.nodes) if base else []

    def unique(self, wish: str) -> str:
        """`wish`, with a number behind it when it is taken."""
        if wish not in self.tensors:
            return wish
        number = 2
        while f"{wish}.{number}" in self.tensors:
            number += 1
        return f"{wish}.{number}"

    def tensor(self, tensor: Tensor) -> str:
        """Declare a tensor under a unique name; returns the name."""
        name = self.unique(tensor.name)
        self.tensors[name] = replace(tensor, name=name)
        return name

    def step(self) -> str:
        """The tensor of kind STEP, declared when it is first asked for; returns the name."""
        for tensor in self.tensors.values():
            if tensor.kind is Kind.STEP:
                return tensor.name
        return self.tensor(Tensor("step", (1,), DType.INT32, Kind.STEP))

    def node(self, node: Node) -> None:
        """Append a node."""
        self.nodes.append(node)

    def graph(self, outputs: Iterable[str]) -> Graph:
        """The graph so far."""
        return Graph(self.name, dict(self.tensors), tuple(self.nodes), tuple(outputs))

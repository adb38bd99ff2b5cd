"""The op registry: what an op must say about itself, and where the others find it.

To add an op: write one file in this package that calls `register`, one template in templates/kernels, one test.
Nothing else lists the ops.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from poet_codegen.errors import ModelError
from poet_codegen.graph import Graph, Node, Tensor
from poet_codegen.ops.split import Blocks

if TYPE_CHECKING:
    from poet_codegen.autodiff import Tape
    from poet_codegen.onnx_import import ImportedNode, Importer
    from poet_codegen.training_form import TrainingForm

Shape = tuple[int, ...]


class Part(StrEnum):
    """What a parameter is to the op that reads it, where it is no weight that values are multiplied by and summed."""

    BIAS = "bias"  # of a layer
    SCALE = "scale"  # of a normalization
    SHIFT = "shift"  # of a normalization
    STATISTIC = "statistic"  # follows the data, never a gradient


@dataclass(frozen=True)
class Work:
    """How much a node computes, in units that a core's cycle table prices (poet_codegen.cycles)."""

    kernel: str
    """Key in the cycle table: 'conv2d', 'elementwise', ..."""
    macs: int = 0
    """Multiply-adds."""
    elements: int = 0
    """Elements touched beside the multiply-adds."""
    also: tuple[Work, ...] = ()
    """What the same call does beside that."""


@dataclass(frozen=True)
class Blocked:
    """A faster form of a kernel for cores with the Cortex-M4F's instructions; its results have the same bits."""

    template: str
    """File below templates/kernels."""
    values: Mapping[str, Any]
    compact: Blocked | None = None
    """With less code, and a little slower; None: there is none in between this one and the plain kernel."""
    fuses: bool = False
    """There is one for fused numerics, too; its template is told by `fused`."""

    def render_values(self, fused: bool) -> dict[str, Any]:
        """What the template renders with for these numerics."""
        return {**self.values, "fused": fused}


@dataclass(frozen=True)
class Kernel:
    """A C function for a node: the template that renders it and the values it renders with.

    Two nodes with equal kernels share one function.
    """

    template: str
    """File below templates/kernels."""
    name: str
    """C function name; equal kernels have equal names, different ones differ."""
    values: Mapping[str, Any]
    arguments: tuple[str, ...]
    """Names of the tensors passed, in the order of the C parameters: inputs, then outputs."""
    blocked: Blocked | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"{self.name!r} is no C name")


WORKSPACE = "*workspace*"
"""In a kernel's arguments: memory that it needs while it runs, no tensor."""

FIRST_UNIT = "*first unit*"
"""In the arguments of a part's kernel: the number of the part's first unit of the first axis, a uint32_t."""


@dataclass(frozen=True)
class Variant:
    """One way to compute a node in RAM; the solver chooses between those of an op, which all leave the same bits."""

    title: str
    """In words, '' for the one that needs nothing more than its operands."""
    kernel: Kernel
    work: Work
    workspace_bytes: int = 0


class Op(ABC):
    """One operator. Stateless; `register` makes it known."""

    name: str
    onnx: tuple[str, ...] = ()
    """ONNX op types that import as this op."""
    is_view: ClassVar[bool] = False
    """True when the output is the input's bytes under another shape: no code, no memory."""
    in_place: ClassVar[tuple[tuple[int, int], ...]] = ()
    """(input, output) positions where the output always takes over the input's bytes (updates)."""
    repeatable: ClassVar[bool] = True
    """False when running the op twice would change the result (updates)."""
    parts: ClassVar[tuple[tuple[int, Part], ...]] = ()
    """What parameters at these input positions are."""
    supported: str = ""
    """One line for the table of supported operators: limits on attributes and shapes."""

    def load(self, importer: Importer, node: ImportedNode) -> None:
        """Add this op for an ONNX node. Raises ModelError for attributes outside `supported`."""
        raise NotImplementedError

    @abstractmethod
    def shapes(self, inputs: Sequence[Tensor], node: Node) -> tuple[Shape, ...]:
        """Shapes of the outputs."""

    def for_training(self, form: TrainingForm, node: Node) -> None:
        """Append the node to the forward pass of a training step, or the nodes that stand for it there."""
        form.builder.node(node)

    def gradient(self, tape: Tape, node: Node, grads: Sequence[str]) -> None:
        """Add nodes that compute the gradients of the inputs `tape.wants`, given those of the outputs.

        `grads` has the name of each output's gradient; '' for one of several outputs that nobody differentiates.
        """
        raise ModelError(f"Node {node.label!r} ({node.op}) has no gradient; freeze the layers before it.")

    def in_place_pairs(self, node: Node) -> tuple[tuple[int, int], ...]:
        """`in_place`; an op whose number of outputs is not fixed has its own."""
        return self.in_place

    def may_overwrite(self, graph: Graph, node: Node) -> Sequence[int]:
        """Positions of inputs of the output's size whose bytes the only output may be written over.

        The kernel must read each of their elements before it writes to that place, and not after; so must its blocked
        form. Its C pointers are then equal, so that none may be `restrict`.
        """
        return ()

    @abstractmethod
    def work(self, graph: Graph, node: Node) -> Work:
        """How much the node computes."""

    @abstractmethod
    def kernel(self, graph: Graph, node: Node) -> Kernel:
        """The C function that runs the node."""

    def variants(self, graph: Graph, node: Node) -> tuple[Variant, ...]:
        """All ways to run the node at once. The first is that of `work` and `kernel`, and takes no workspace."""
        return (Variant("", self.kernel(graph, node), self.work(graph, node)),)

    def splits(self, graph: Graph, node: Node) -> tuple[Blocks, ...]:
        """Ways to run the node a part at a time, with operands that are never whole in RAM."""
        return ()


_OPS: dict[str, Op] = {}


def register(op: Op) -> None:
    """Make an op known. A second op of the same name is an error."""
    if op.name in _OPS:
        raise ValueError(f"op {op.name} is registered twice")
    _OPS[op.name] = op


@cache
def _load_families() -> None:
    package = importlib.import_module("poet_codegen.ops")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"poet_codegen.ops.{module.name}")


def get(name: str) -> Op:
    """The op of that name. KeyError for an unknown one: names in graphs come from this registry."""
    _load_families()
    return _OPS[name]


def all_ops() -> tuple[Op, ...]:
    """Every op, by name."""
    _load_families()
    return tuple(_OPS[name] for name in sorted(_OPS))


@cache
def onnx_ops() -> Mapping[str, Op]:
    """ONNX op type -> op that imports it."""
    return {onnx_type: op for op in all_ops() for onnx_type in op.onnx}


def operator_table() -> str:
    """The README's table of supported ONNX operators, in Markdown; operators with the same limits share a row."""
    rows: dict[str, list[str]] = {}
    for onnx_type, op in onnx_ops().items():
        rows.setdefault(op.supported, []).append(onnx_type)
    lines = sorted(f"| {', '.join(sorted(names))} | {limits} |" for limits, names in rows.items())
    return "\n".join(["| ONNX operator | limits |", "|---|---|", *lines]) + "\n"

"""How an op can be run a part at a time, each part by the op's own kernel for a smaller shape.

A part gives whole results, in their own order of terms; or, where an op `adds_up`, each part goes on with the sums of
the one before, whose order the parts follow. So no split changes a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from poet_codegen.graph import AttrValue, Graph, Node

Shape = tuple[int, ...]
CONTINUES = "continues"
"""Attribute of a node whose sums start from what its output holds, not from zero or a bias."""


@dataclass(frozen=True)
class Part:
    """A node for some units: what differs from the whole node."""

    shapes: Mapping[str, Shape]
    attrs: Mapping[str, AttrValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """One axis along which a node can be cut."""

    unit: str
    """What a unit is, in words: 'output channel'."""
    count: int
    elements: Mapping[str, int]
    """Tensor -> elements of one unit, which lie together, units in ascending order. What is not named, every part
    reads whole, or adds to."""
    part: Callable[[int], Part]
    """For a number of units."""
    adds_up: bool = False
    """The output is whole in every part; parts run in ascending order, all but the first with CONTINUES."""


def by_planes(graph: Graph, *names: str) -> Split:
    """Of an op that treats each [H, W] plane of its tensors [N, C, H, W] by itself."""
    shapes = {name: graph.tensors[name].shape for name in names}

    def some_planes(units: int) -> Part:
        return Part({name: (1, units, *shape[2:]) for name, shape in shapes.items()})

    return Split("plane", prod(shapes[names[0]][:2]), {n: prod(s[2:]) for n, s in shapes.items()}, some_planes)


def part_of(graph: Graph, node: Node, part: Part) -> tuple[Graph, Node]:
    """A node of its own, and a graph that has its tensors, for a part of a node."""
    names = (*node.inputs, *node.outputs)
    whole = {name: graph.tensors[name] for name in names}
    tensors = {name: replace(tensor, shape=part.shapes.get(name, tensor.shape)) for name, tensor in whole.items()}
    small = replace(node, attrs={**node.attrs, **part.attrs})
    return Graph(graph.name, tensors, (small,), node.outputs), small

"""How an op can be run a part at a time, each part by the op's own kernel for a smaller shape.

A part gives whole results, in their own order of terms; or, along an axis that `sums`, each part goes on with the sums
of the one before, whose order the parts follow. So no split changes a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TypeAlias

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
class Axis:
    """One of the axes along which a node can be cut at once."""

    unit: str
    """What a unit is, in words: 'output'."""
    count: int
    sums: bool = False
    """Outputs are whole in every part; parts run in ascending order, all but the first with CONTINUES."""
    most: int | None = None
    """Units that a part may have."""


Dims: TypeAlias = tuple[tuple[int, int | None], ...]
"""A tensor seen as (size, number of the axis that cuts it or None), outermost first."""


@dataclass(frozen=True)
class Blocks:
    """Axes along which a node can be cut at once: a part is a block of units of each."""

    axes: tuple[Axis, ...]
    dims: Mapping[str, Dims]
    """What is not named, every part reads whole, or adds to."""
    part: Callable[[tuple[int, ...]], Part]
    """For a number of units of each axis."""
    sizes: int | None = None
    """So many of each axis are tried; None: as many as is usual for so many axes."""

    def alike(self, name: str, others: Sequence[str]) -> Blocks:
        """The same with `others` cut as the tensor `name` is, if that is cut."""
        if name not in self.dims:
            return self

        def part(units: tuple[int, ...]) -> Part:
            small = self.part(units)
            return replace(small, shapes={**small.shapes, **dict.fromkeys(others, small.shapes[name])})

        return replace(self, dims={**self.dims, **dict.fromkeys(others, self.dims[name])}, part=part)

    def for_update(self, gradient: str, versions: Sequence[str]) -> Blocks:
        """Of the update that is fused with a gradient: its versions of the parameter are cut as the gradient is."""
        dims = {name: dims for name, dims in self.dims.items() if name != gradient}
        dims |= dict.fromkeys(versions, self.dims[gradient])
        return replace(self.alike(gradient, versions), dims=dims)


def by_axes(
    graph: Graph,
    node: Node,
    axes: Sequence[Axis],
    dims: Mapping[str, Sequence[int | None]],
    attrs: Callable[[Mapping[str, Shape]], Mapping[str, AttrValue]] = lambda shapes: {},
) -> Blocks:
    """Where each axis of a tensor is cut along one of `axes`, or not at all (None).

    `attrs` gives, for the shapes of a part, the attributes that differ from those of the whole node.
    """
    shapes = {name: graph.tensors[name].shape for name in dims}

    def part(units: tuple[int, ...]) -> Part:
        small = {
            name: tuple(size if cut is None else units[cut] for size, cut in zip(shapes[name], cuts, strict=True))
            for name, cuts in dims.items()
        }
        return Part(small, attrs(small))

    return Blocks(tuple(axes), {n: tuple(zip(shapes[n], cuts, strict=True)) for n, cuts in dims.items()}, part)


def by_units(
    unit: str, count: int, elements: Mapping[str, int], part: Callable[[int], Part], adds_up: bool = False
) -> Blocks:
    """Along one axis of `count` units, each of which is `elements` of a tensor that lie together, in ascending order.

    `part` is for a number of units; where it `adds_up`, the axis sums.
    """
    dims = {name: ((count, 0), (size, None)) for name, size in elements.items()}
    return Blocks((Axis(unit, count, adds_up),), dims, lambda units: part(units[0]))


def by_planes(graph: Graph, *names: str) -> Blocks:
    """Of an op that treats each [H, W] plane of its tensors [N, C, H, W] by itself."""
    shapes = {name: graph.tensors[name].shape for name in names}

    def some_planes(units: int) -> Part:
        return Part({name: (1, units, *shape[2:]) for name, shape in shapes.items()})

    return by_units("plane", prod(shapes[names[0]][:2]), {n: prod(s[2:]) for n, s in shapes.items()}, some_planes)


def part_of(graph: Graph, node: Node, part: Part) -> tuple[Graph, Node]:
    """A node of its own, and a graph that has its tensors, for a part of a node."""
    names = (*node.inputs, *node.outputs)
    whole = {name: graph.tensors[name] for name in names}
    tensors = {name: replace(tensor, shape=part.shapes.get(name, tensor.shape)) for name, tensor in whole.items()}
    small = replace(node, attrs={**node.attrs, **part.attrs})
    return Graph(graph.name, tensors, (small,), node.outputs), small

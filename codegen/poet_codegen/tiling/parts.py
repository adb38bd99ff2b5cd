"""Programs of ops that are run a part at a time (ops/split.py): a loop an axis, tiles that are boxes of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations, product
from math import prod

from poet_codegen.graph import Graph, Node
from poet_codegen.ops import registry
from poet_codegen.ops.registry import FIRST_UNIT, Kernel, Work
from poet_codegen.ops.split import CONTINUES, Blocks, Dims, Part, part_of
from poet_codegen.tiling import nest
from poet_codegen.tiling.nest import Where
from poet_codegen.tiling.program import FLOAT_BYTES, Call, Index, Move, Number, Operand, Program, Shape, Statement

CallOf = Callable[[Graph, Node], tuple[Kernel, Work]]
"""The kernel of a part, and what it does."""

VARIABLES = "ijklmn"
"""Of loops, by the axis."""
_FEW = 64
"""An axis of so many units, such as the rows of a short sequence, is tried whole, one by one and half way."""


def kernel_of(graph: Graph, node: Node) -> tuple[Kernel, Work]:
    """The kernel of a part as it is called."""
    rule = registry.get(node.op)
    return rule.kernel(graph, node), rule.work(graph, node)


@dataclass(frozen=True)
class Streams:
    """Which of a node's tensors are on storage while it runs. An updated tensor has the name of its new version."""

    inputs: frozenset[str]
    outputs: frozenset[str]
    old_version: Mapping[str, str]
    """New version -> the old one, which is read from storage where the new one is written there."""

    def has(self, name: str) -> bool:
        """Whether a tensor, by that name, is on storage."""
        return name in self.inputs or name in self.outputs


@dataclass(frozen=True)
class Cut:
    """How a node is cut along the axes of its blocks."""

    units: tuple[int, ...]
    """Of each axis, in one part."""
    order: tuple[int, ...]
    """The axes as loops, outermost first; one that sums is the last, so that sums are whole before they leave RAM."""


def cuts(blocks: Blocks, most: int) -> Iterator[Cut]:
    """Every way that is tried: up to `most` sizes an axis, and all orders of the loops."""
    sizes = (thinned(axis.most or axis.count, most if axis.count > _FEW else min(most, 3)) for axis in blocks.axes)
    for units in product(*sizes):
        loops = [n for n, axis in enumerate(blocks.axes) if units[n] < axis.count]
        if not loops:
            continue
        free = [n for n in loops if not blocks.axes[n].sums]
        single = tuple(n for n in range(len(units)) if n not in loops)
        for order in permutations(free):
            yield Cut(units, (*single, *order, *(n for n in loops if n not in free)))


def tile_bytes(blocks: Blocks, cut: Cut, names: Iterable[str]) -> int:
    """Bytes of one tile of each of these tensors."""
    return FLOAT_BYTES * sum(
        prod(size if axis is None else cut.units[axis] for size, axis in blocks.dims[name]) for name in names
    )


def thinned(count: int, most: int) -> list[int]:
    """Divisors of `count`, itself included, at most `most` of them, about evenly apart on a logarithmic scale."""
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    if len(divisors) <= most:
        return divisors
    step = (len(divisors) - 1) / (most - 1)
    return [divisors[round(i * step)] for i in range(most)]


@dataclass(frozen=True)
class Box:
    """The part of a tensor that a tile has."""

    shape: Shape
    steps: tuple[tuple[int, int], ...]
    """(axis, bytes from one tile to the next along it)."""
    is_whole: bool
    """The tensor is not cut."""

    @property
    def is_run(self) -> bool:
        """It lies in one piece."""
        return self.shape.runs == 1

    def at(self, where: Where) -> Index:
        """Where the tile begins."""
        return nest.add(*(where[VARIABLES[axis]].index(step) for axis, step in self.steps))


def box_of(dims: Dims, units: tuple[int, ...]) -> Box | None:
    """None where a tile would be no runs of equal length at equal distances."""
    levels: list[tuple[int, int]] = []
    steps = []
    stride = 1
    for size, axis in reversed(dims):
        count = size if axis is None else units[axis]
        if axis is not None:
            steps.append((axis, count * stride * FLOAT_BYTES))
        if count > 1:
            if levels and levels[-1][0] * levels[-1][1] == stride:
                levels[-1] = (levels[-1][0] * count, levels[-1][1])
            else:
                levels.append((count, stride))
        stride *= size
    run = levels.pop(0)[0] if levels and levels[0][1] == 1 else 1
    if len(levels) > 1:
        return None
    runs, distance = levels[0] if levels else (1, 0)
    shape = Shape(run * FLOAT_BYTES, runs, distance * FLOAT_BYTES)
    return Box(shape, tuple(steps), run * runs == stride)


@dataclass(frozen=True)
class Tiles:
    """Where parts find their tensors: in tiles in the workspace, or where the tensors are."""

    boxes: Mapping[str, Box]
    """Of what is cut; an updated tensor has the name of its new version."""
    buffers: Mapping[str, int]
    """Of what is streamed or not in one piece: where its tile is in the workspace."""
    workspace_bytes: int
    new_version: Mapping[str, str]
    """Old version -> the new one, in the same place."""
    streams: Streams

    def load(self, name: str) -> nest.Operand:
        """Its tile comes."""
        return self._moved(name, self.streams.old_version.get(name, name), False)

    def store(self, name: str) -> nest.Operand:
        """Its tile goes."""
        return self._moved(name, name, True)

    def _moved(self, name: str, tensor: str, to_tensor: bool) -> nest.Operand:
        box, buffer, streamed = self.boxes[name], self.buffers[name], self.streams.has(name)

        def move(where: Where) -> Move:
            return Move(tensor, box.at(where), box.shape, buffer, to_tensor, streamed)

        return nest.Operand("".join(VARIABLES[axis] for axis, _ in box.steps), move)

    def place(self, name: str, where: Where) -> Operand:
        """What a kernel is given of a tensor."""
        name = self.new_version.get(name, name)
        if name in self.buffers:
            return Operand(None, Index(self.buffers[name]))
        return Operand(name, self.boxes[name].at(where) if name in self.boxes else Index())


def tiles_of(
    names: Iterable[str], blocks: Blocks, cut: Cut, new_version: Mapping[str, str], streams: Streams
) -> Tiles | None:
    """Of these tensors and their new versions; None where tiles of one are not runs."""
    boxes: dict[str, Box] = {}
    buffers: dict[str, int] = {}
    top = 0
    for name in dict.fromkeys(names):
        if name not in blocks.dims or name in new_version:
            continue
        box = box_of(blocks.dims[name], cut.units)
        if box is None:
            return None
        boxes[name] = box
        if streams.has(name) or not box.is_run:
            buffers[name] = top
            top += box.shape.size_bytes
    return Tiles(boxes, buffers, top, new_version, streams)


def part_program(
    graph: Graph, node: Node, blocks: Blocks, cut: Cut, streams: Streams, call_of: CallOf
) -> Program | None:
    """The node in parts; None where tiles of a tensor are not runs, or are all of it. `call_of` gives the kernels."""
    new = {node.inputs[old]: node.outputs[to] for old, to in registry.get(node.op).in_place_pairs(node)}
    tiles = tiles_of((*node.inputs, *node.outputs), blocks, cut, new, streams)
    # A tile that is all of its tensor is none: a page-in or page-out does the same.
    if tiles is None or any(tiles.boxes[name].is_whole for name in tiles.buffers):
        return None
    loads = [tiles.load(name) for name in tiles.buffers if name in node.inputs or name in new.values()]
    stores = [tiles.store(name) for name in tiles.buffers if name in node.outputs]
    part = blocks.part(cut.units)
    sums = next((n for n, axis in enumerate(blocks.axes) if axis.sums and cut.units[n] < axis.count), None)

    def body(where: Where) -> list[Statement]:
        goes_on = sums is not None and not where[VARIABLES[sums]].is_first
        small_part = replace(part, attrs={**part.attrs, CONTINUES: 1}) if goes_on else part
        first, *others = node.stands_for or (node,)
        calls = [call(first, small_part, where)]
        return calls if sums is not None else [*calls, *(call(other, part, where) for other in others)]

    def call(one: Node, small: Part, where: Where) -> Statement:
        kernel, work = call_of(*part_of(graph, one, small))
        places: list[Operand | Number] = []
        for name in kernel.arguments:
            if name == FIRST_UNIT:
                places.append(Number(where[VARIABLES[0]].index(cut.units[0])))
            else:
                places.append(tiles.place(name, where))
        return Call(kernel, work, tuple(places))

    def after_sums(where: Where) -> list[Statement]:
        return [call(other, part, where) for other in node.stands_for[1:]]

    axes = [
        nest.Axis(VARIABLES[n], blocks.axes[n].count // cut.units[n], peeled=blocks.axes[n].sums) for n in cut.order
    ]
    behind = after_sums if sums is not None and len(node.stands_for) > 1 else None
    return Program(cut_title(blocks, cut), tiles.workspace_bytes, nest.nest(axes, loads, body, stores, behind))


def cut_title(blocks: Blocks, cut: Cut) -> str:
    """In words: '4 tiles of 8 outputs'."""
    cuts = [(axis, units) for axis, units in zip(blocks.axes, cut.units, strict=True) if units < axis.count]
    words = (axis.unit if axis.most == 1 else f"{units} {axis.unit}{'s' if units > 1 else ''}" for axis, units in cuts)
    return f"{prod(axis.count // units for axis, units in cuts)} tiles of {' x '.join(words)}"

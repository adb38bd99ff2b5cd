"""Programs of ops that are an input gradient and an update in one (ops/backward.py).

One pass: tiles of input channels, and in each all output channels in ascending order. A tile of weights is read,
adds its terms to the tile of dx, is updated and written. The order of every sum is that of the whole kernels: (output
channel, row, column) for dx; a weight's gradient is whole in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from poet_codegen.graph import AttrValue, Graph, Node
from poet_codegen.ops import registry
from poet_codegen.ops.chain import first_of, operands_behind
from poet_codegen.ops.dense import panels_of
from poet_codegen.ops.split import CONTINUES, Part, part_of
from poet_codegen.tiling import nest
from poet_codegen.tiling.behind import Beside, behind, pieces_of
from poet_codegen.tiling.conv import Conv
from poet_codegen.tiling.nest import Axis, Where, add
from poet_codegen.tiling.parts import CallOf, Cut, Streams, part_program, thinned
from poet_codegen.tiling.program import FLOAT_BYTES, Call, Index, Move, Operand, Program, Shape, Statement

_MOST_SIZES = 8
_MOST_UNEVEN = 7
"""Tiles of input channels that may be of two sizes; more are finely enough cut by divisors."""
_TILE_WORDS = (("o", "output channel"), ("c", "input channel"))


@dataclass(frozen=True)
class Channels:
    """Of a tile of weights."""

    outputs: int
    inputs: int


def channel_sizes(conv: Conv, streams: Streams, room_bytes: int) -> Iterator[Channels]:
    """Those that are tried: tiles of streamed operands fit into `room_bytes`."""
    x, y = (prod(shape[2:]) * FLOAT_BYTES for shape in (conv.x_shape, conv.y_shape))
    x *= (conv.x in streams.inputs) + len(streams.outputs - streams.old_version.keys())
    y *= conv.y in streams.inputs
    some_inputs = {*thinned(conv.w_shape[1], _MOST_SIZES), *_uneven(conv.w_shape[1])}
    for outputs in thinned(conv.w_shape[0], _MOST_SIZES):
        for inputs in sorted(some_inputs):
            weights = len(streams.old_version) * outputs * inputs * conv.taps
            is_cut = outputs < conv.w_shape[0] or inputs < conv.w_shape[1]
            if is_cut and weights + inputs * x + outputs * y <= room_bytes:
                yield Channels(outputs, inputs)


def _uneven(count: int) -> Iterator[int]:
    """Even numbers of which so many are no whole number: tiles that are as large as possible for how many there are."""
    for tiles in range(2, _MOST_UNEVEN + 1):
        units = 2 * -(-count // (2 * tiles))
        if count % units and -(-count // units) == tiles:
            yield units


def pass_program(
    graph: Graph, parts: tuple[Node, ...], conv: Conv, size: Channels, streams: Streams, call_of: CallOf
) -> Program:
    """All parts of a node of ops/backward.py in one pass. `conv` is what the update is of a convolution."""
    whole_first, update, *biases = parts
    first, besides = first_of(whole_first), operands_behind(whole_first)
    extent = {"o": (size.outputs, conv.w_shape[0]), "c": (size.inputs, conv.w_shape[1])}
    count, rest = -(-conv.w_shape[1] // size.inputs), conv.w_shape[1] % size.inputs or size.inputs
    # A bias is updated with the first tile of input channels.
    axes = [
        Axis("c", count, peeled=bool(biases), is_uneven=rest < size.inputs),
        Axis("o", conv.w_shape[0] // size.outputs, peeled=True),
    ]
    top = 0

    def take(size_bytes: int) -> int:
        nonlocal top
        top += size_bytes
        return top - size_bytes

    def inputs(where: Where) -> int:
        tile = where["c"]
        return rest if tile.first == count - 1 and tile.variable is None else size.inputs

    def image(name: str, shape: tuple[int, ...], axis: str, streamed: bool) -> _Tile:
        plane = prod(shape[2:]) * FLOAT_BYTES

        def tile(where: Where) -> Shape:
            return Shape((inputs(where) if axis == "c" else size.outputs) * plane)

        step = extent[axis][0] * plane
        return _Tile(name, axis, {axis: step}, tile, take(step) if streamed else None, streamed)

    def weights(name: str) -> _Tile:
        streamed = name in streams.old_version
        row, window = conv.w_shape[1] * conv.taps, size.inputs * conv.taps
        is_run = size.inputs == conv.w_shape[1]

        def tile(where: Where) -> Shape:
            return Shape(size.outputs * row) if is_run else Shape(inputs(where) * conv.taps, size.outputs, row)

        steps = {"o": size.outputs * row, "c": window}
        buffer = take(size.outputs * window) if streamed or not is_run else None
        return _Tile(name, "oc", steps, tile, buffer, streamed)

    dx = first.outputs[0]
    x = image(conv.x, conv.x_shape, "c", conv.x in streams.inputs)
    dy = image(conv.y, conv.y_shape, "o", conv.y in streams.inputs)
    gradient = image(dx, conv.x_shape, "c", dx in streams.outputs)
    versions = [weights(name) for name in update.outputs]
    tiles = {tile.name: tile for tile in (x, dy, gradient, *versions)} | {conv.node.inputs[0]: versions[0]}
    plane = conv.x_shape[2:]
    vectors = {name for bias in biases for name in (*bias.inputs[: len(bias.outputs)], *bias.outputs)}

    def shapes(where: Where) -> dict[str, tuple[int, ...]]:
        filter_shape = (size.outputs, inputs(where), *conv.w_shape[2:])
        found = dict.fromkeys((*update.inputs[: len(versions)], *update.outputs), filter_shape)
        found |= dict.fromkeys((conv.x, dx), (1, inputs(where), *plane))
        return found | {conv.y: (1, size.outputs, *conv.y_shape[2:])} | dict.fromkeys(vectors, (size.outputs,))

    def place(name: str, where: Where) -> Operand:
        if name in vectors:
            return Operand(name, where["o"].index(size.outputs * FLOAT_BYTES))
        return tiles[name].place(where) if name in tiles else Operand(name, Index())

    def call(node: Node, attrs: Mapping[str, AttrValue], where: Where) -> Statement:
        small_graph, small = part_of(graph, node, Part(shapes(where), attrs))
        kernel, work = call_of(small_graph, small)
        return Call(kernel, work, tuple(place(name, where) for name in kernel.arguments))

    def body(where: Where) -> list[Statement]:
        goes_on: dict[str, AttrValue] = {} if where["o"].is_first else {CONTINUES: 1}
        once = [call(bias, {}, where) for bias in biases if where["c"].is_first]
        return [call(first, goes_on, where), call(update, {}, where), *once]

    loads = [x.move(x.name, False), dy.move(dy.name, False)]
    loads += [tile.move(streams.old_version.get(tile.name, tile.name), False) for tile in versions]
    stores = [tile.move(tile.name, True) for tile in (*versions, gradient)]
    moved = ([one for one in some if one is not None] for some in (loads, stores))
    own = [name for name in besides if name != conv.x]
    piece_bytes = max(pieces_of(units, plane[0], *plane).size_bytes for units in (size.inputs, rest))
    buffers = {name: take(piece_bytes) for name in own if name in streams.inputs}

    def after(where: Where) -> list[Statement]:
        """The tile of dx is whole: what a chain does to it. A mask of x has it beside it."""
        at, pieces = gradient.at(where), pieces_of(inputs(where), plane[0], *plane)
        places = {dx: gradient.place(where), conv.x: x.place(where)}
        places |= {name: Operand(name, at) for name in own if name not in buffers}
        beside = {name: Beside(at, buffer, True) for name, buffer in buffers.items()}
        return behind(graph, whole_first.stands_for[1:], pieces, places, beside, call_of)

    statements = nest.nest(axes, next(moved), body, next(moved), after if first is not whole_first else None)
    cut = [
        f"{extent[name][0]} {word}{'s' if extent[name][0] > 1 else ''}"
        for name, word in _TILE_WORDS
        if extent[name][0] < extent[name][1]
    ]
    return Program(f"one pass, tiles of {' x '.join(cut)}", top, statements)


def in_turn(*programs: Program) -> Program:
    """Of input gradient, weights, and bias if there is one: one after the other, in the same workspace."""
    what = zip(("input gradient", "weights", "bias"), programs, strict=False)
    title = "; ".join(f"{name}: {one.title or 'whole'}" for name, one in what)
    body = tuple(statement for one in programs for statement in one.body)
    return Program(title, max(one.workspace_bytes for one in programs), body)


def whole_calls(graph: Graph, node: Node, call_of: CallOf) -> Program:
    """A node by its kernel, or by those of the nodes that it stands for, with all operands in RAM."""
    if node.stands_for:
        parts = [whole_calls(graph, part, call_of) for part in node.stands_for]
        top = max(part.workspace_bytes for part in parts)
        return Program("", top, tuple(call for part in parts for call in part.body))
    if panels_of(node) > 1:
        (blocks,) = registry.get(node.op).splits(graph, node)
        order = sorted(range(len(blocks.axes)), key=lambda number: blocks.axes[number].most == 1)
        cut = Cut(tuple(axis.most or axis.count for axis in blocks.axes), tuple(order))
        program = part_program(graph, node, blocks, cut, Streams(frozenset(), frozenset(), {}), call_of)
        assert program is not None, node.label
        return replace(program, title="")
    kernel, work = call_of(graph, node)
    return Program("", 0, (Call(kernel, work, tuple(Operand(name, Index()) for name in kernel.arguments)),))


def streams_of(node: Node, streams: Streams) -> Streams:
    """Of the streams of an op those of one of its parts; weights that the part does not update are only read."""
    names = {*node.inputs, *node.outputs}
    old = {new: old for new, old in streams.old_version.items() if new in names}
    read = {old for new, old in streams.old_version.items() if new not in names and old in names}
    return replace(streams, inputs=(streams.inputs & names) | read, outputs=streams.outputs & names, old_version=old)


@dataclass(frozen=True)
class _Tile:
    """Part of a tensor, in the workspace or where the tensor is."""

    name: str
    along: str
    steps: Mapping[str, int]
    """Axis -> bytes from a tile to the next in the tensor."""
    shape: Callable[[Where], Shape]
    buffer: int | None
    streamed: bool

    def at(self, where: Where) -> Index:
        return add(*(where[axis].index(step) for axis, step in self.steps.items()))

    def place(self, where: Where) -> Operand:
        return Operand(self.name, self.at(where)) if self.buffer is None else Operand(None, Index(self.buffer))

    def move(self, tensor: str, to_tensor: bool) -> nest.Operand | None:
        buffer = self.buffer
        if buffer is None:
            return None

        def one(where: Where) -> Move:
            return Move(tensor, self.at(where), self.shape(where), buffer, to_tensor, self.streamed)

        return nest.Operand(self.along, one)

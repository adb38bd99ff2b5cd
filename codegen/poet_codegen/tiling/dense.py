"""A dense layer's input gradient and the update of its weights in one pass over the weights.

A tile is so many outputs x inputs of the weights: it is read, adds its terms to the tile of dx, is updated and written.
Tiles of inputs are the outer loop, and in each the outputs ascend: so a sum of dx has its terms in the order of the
whole kernel, and is whole before its tile is written; a weight's gradient is whole in one call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from poet_codegen.graph import AttrValue, Graph, Node
from poet_codegen.ops import registry
from poet_codegen.ops.chain import first_of, operands_behind
from poet_codegen.ops.split import CONTINUES, Blocks, Dims, part_of
from poet_codegen.tiling import nest
from poet_codegen.tiling.nest import Where
from poet_codegen.tiling.parts import VARIABLES, CallOf, Cut, Streams, cut_title, thinned, tile_bytes, tiles_of
from poet_codegen.tiling.program import Call, Program, Statement

_MOST_SIZES = 24
"""Units of each axis that are tried."""
_OUTPUT, _INPUT = 0, 1
"""Axes of the update's blocks."""


@dataclass(frozen=True)
class Layer:
    """Both halves of a dense layer's backward pass, and how they are cut together.

    Where a chain is behind the input gradient, it is called on a tile of dx as soon as that is whole.
    """

    first: Node
    """dx from dy and w; or a chain that begins so."""
    update: Node
    blocks: Blocks
    """Of all tensors of both, by outputs and inputs."""

    @property
    def dx(self) -> str:
        """The gradient of x."""
        return self.first.outputs[0]


def layer_of(graph: Graph, halves: tuple[Node, Node]) -> Layer | None:
    """None where the halves are not of a dense layer."""
    first, update = halves
    if first_of(first).op != "DenseInputGrad":
        return None
    (blocks,) = registry.get(update.op).splits(graph, update)
    x, dx = next(name for name in update.inputs if _is_cut_like_x(blocks.dims.get(name, ()))), first.outputs[0]
    axes = tuple(replace(axis, sums=number == _OUTPUT) for number, axis in enumerate(blocks.axes))
    both = replace(blocks.alike(x, (dx, *operands_behind(first))), axes=axes)
    return Layer(first, update, both)


def _is_cut_like_x(dims: Dims) -> bool:
    return {axis for _, axis in dims} == {None, _INPUT}


def pass_cuts(layer: Layer, streams: Streams, room_bytes: int) -> Iterator[Cut]:
    """Those that are tried: tiles of streamed operands fit into `room_bytes`."""
    streamed = (*streams.inputs, *streams.outputs)
    counts = tuple(axis.count for axis in layer.blocks.axes)
    sizes = [thinned(axis.most or axis.count, _MOST_SIZES) for axis in layer.blocks.axes]
    for outputs in sizes[_OUTPUT]:
        for inputs in sizes[_INPUT]:
            cut = Cut((outputs, inputs), (_INPUT, _OUTPUT))
            if cut.units != counts and tile_bytes(layer.blocks, cut, streamed) <= room_bytes:
                yield cut


def pass_program(graph: Graph, layer: Layer, cut: Cut, streams: Streams, call_of: CallOf) -> Program | None:
    """The program, or None where tiles of a tensor are not runs."""
    first, update, blocks = layer.first, layer.update, layer.blocks
    names = (*update.inputs, *update.outputs, *operands_behind(first), layer.dx)
    tiles = tiles_of(names, blocks, cut, dict(zip(update.inputs, update.outputs, strict=False)), streams)
    if tiles is None:
        return None
    loads = [tiles.load(name) for name in tiles.buffers if name != layer.dx]
    stores = [tiles.store(name) for name in tiles.buffers if name in (*update.outputs, layer.dx)]
    part = blocks.part(cut.units)

    def call(node: Node, attrs: Mapping[str, AttrValue], where: Where) -> Statement:
        kernel, work = call_of(*part_of(graph, node, replace(part, attrs={**part.attrs, **attrs})))
        return Call(kernel, work, tuple(tiles.place(name, where) for name in kernel.arguments))

    def body(where: Where) -> list[Statement]:
        goes_on: dict[str, AttrValue] = {} if where[VARIABLES[_OUTPUT]].is_first else {CONTINUES: 1}
        return [call(first_of(first), goes_on, where), call(update, {}, where)]

    def after(where: Where) -> list[Statement]:
        return [call(node, {}, where) for node in first.stands_for[1:]]

    axes = [
        nest.Axis(VARIABLES[n], blocks.axes[n].count // cut.units[n], peeled=blocks.axes[n].sums) for n in cut.order
    ]
    statements = nest.nest(axes, loads, body, stores, after)
    return Program(f"one pass, {cut_title(blocks, cut)}", tiles.workspace_bytes, statements)

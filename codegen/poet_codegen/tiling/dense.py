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
from poet_codegen.tiling.parts import VARIABLES, Box, CallOf, Cut, Streams, box_of, cut_title, thinned, tile_bytes
from poet_codegen.tiling.program import Call, Index, Move, Operand, Program, Statement

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
    new = dict(zip(update.outputs, update.inputs, strict=False))
    boxes: dict[str, Box] = {}
    buffers: dict[str, int] = {}
    loads, stores = [], []
    top = 0
    for name in dict.fromkeys((*update.inputs, *update.outputs, *operands_behind(first), layer.dx)):
        if name not in blocks.dims or name in new.values():
            continue
        box = box_of(blocks.dims[name], cut.units)
        if box is None:
            return None
        boxes[name] = box
        streamed = name in streams.inputs or name in streams.outputs
        if box.is_run and not streamed:
            continue
        buffers[name] = top
        top += box.shape.size_bytes

        def move(where: Where, name: str = name, box: Box = box, on: bool = streamed) -> Move:
            tensor = streams.old_version.get(name, name)
            return Move(tensor, box.at(where), box.shape, buffers[name], False, on)

        def move_back(where: Where, name: str = name, box: Box = box, on: bool = streamed) -> Move:
            return Move(name, box.at(where), box.shape, buffers[name], True, on)

        along = "".join(VARIABLES[axis] for axis, _ in box.steps)
        if name != layer.dx:
            loads.append(nest.Operand(along, move))
        if name == layer.dx or name in new:
            stores.append(nest.Operand(along, move_back))
    places = {**{name: name for name in boxes}, **{old: name for name, old in new.items()}}
    part = blocks.part(cut.units)

    def call(node: Node, attrs: Mapping[str, AttrValue], where: Where) -> Statement:
        kernel, work = call_of(*part_of(graph, node, replace(part, attrs={**part.attrs, **attrs})))
        operands = []
        for argument in kernel.arguments:
            name = places.get(argument)
            if name is None:
                operands.append(Operand(argument, Index()))
            elif name in buffers:
                operands.append(Operand(None, Index(buffers[name])))
            else:
                operands.append(Operand(name, boxes[name].at(where)))
        return Call(kernel, work, tuple(operands))

    def body(where: Where) -> list[Statement]:
        goes_on: dict[str, AttrValue] = {} if where[VARIABLES[_OUTPUT]].is_first else {CONTINUES: 1}
        return [call(first_of(first), goes_on, where), call(update, {}, where)]

    def after(where: Where) -> list[Statement]:
        return [call(node, {}, where) for node in first.stands_for[1:]]

    axes = [
        nest.Axis(VARIABLES[n], blocks.axes[n].count // cut.units[n], peeled=blocks.axes[n].sums) for n in cut.order
    ]
    return Program(f"one pass, {cut_title(blocks, cut)}", top, nest.nest(axes, loads, body, stores, after))

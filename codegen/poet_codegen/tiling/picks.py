"""Gather of rows: those that are picked, and nothing else, move; the table may be frozen on storage."""

from __future__ import annotations

from math import prod

from poet_codegen.graph import Graph, Node
from poet_codegen.ops.gather import picks_rows
from poet_codegen.tiling.parts import CallOf, Streams
from poet_codegen.tiling.program import FLOAT_BYTES, Index, Loop, Move, Operand, Pick, Program, Shape, Statement

_VARIABLE = "i"


def picked_rows(graph: Graph, node: Node) -> int | None:
    """How many rows a node picks of its first input; None for a node that does not."""
    if not picks_rows(node):
        return None
    return graph.tensors[node.outputs[0]].elements // prod(graph.tensors[node.inputs[0]].shape[1:])


def pick_program(graph: Graph, node: Node, units: int, streams: Streams, call_of: CallOf) -> Program | None:
    """The node with `units` rows at a time, without any kernel; None where that many are no part of this pattern."""
    table, *index = node.inputs
    (y,) = node.outputs
    shape = graph.tensors[table].shape
    row_bytes = prod(shape[1:]) * FLOAT_BYTES
    tiles = (picked_rows(graph, node) or 0) // units
    is_streamed = y in streams.outputs
    if is_streamed != (tiles > 1):
        return None
    constants = () if index else node.ints("rows")
    steps = ((_VARIABLE, units * FLOAT_BYTES),) if is_streamed else ()
    target = Operand(None, Index()) if is_streamed else Operand(y, Index())
    pick = Pick(
        *(table, shape[0], row_bytes, units, index[0] if index else None),
        *(constants, Index(0, steps), target, table in streams.inputs),
    )
    body: tuple[Statement, ...] = (pick,)
    tile_bytes = units * row_bytes
    if is_streamed:
        to = Index(0, ((_VARIABLE, tile_bytes),))
        body = (Loop(_VARIABLE, 0, tiles, (pick, Move(y, to, Shape(tile_bytes), 0, True, True))),)
    title = f"picks {units * tiles} rows" + (f", {units} at a time" if is_streamed else "")
    return Program(title, tile_bytes if is_streamed else 0, body)

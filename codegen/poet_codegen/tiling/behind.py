"""What a chain (ops/chain.py) does to a tile of its result before it leaves: a piece at a time.

Operands that are not beside the result in RAM come in pieces, so that they take little room however large its tile is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from poet_codegen.graph import Graph, Node
from poet_codegen.ops.split import Part, part_of
from poet_codegen.tiling.nest import add
from poet_codegen.tiling.parts import CallOf
from poet_codegen.tiling.program import FLOAT_BYTES, Call, Index, Loop, Move, Operand, Shape, Statement

_VARIABLE = "e"
_PIECE_BYTES = 8192
"""At most, where a channel's rows are not more: 17 times what a transfer's latency costs with an SD card."""


@dataclass(frozen=True)
class Pieces:
    """Of a tile of an image."""

    count: int
    kernel_shape: tuple[int, ...]
    shape: Shape
    """Of one in the tensor."""
    step_bytes: int
    """In the tensor, from one to the next; in the tile it is their size."""

    @property
    def size_bytes(self) -> int:
        """Of one."""
        return self.shape.size_bytes


@cache
def pieces_of(channels: int, rows: int, height: int, width: int) -> Pieces:
    """Of a tile of some channels' rows; it lies in one piece in the tensor where these are all rows."""
    unit = 1 if rows == height else rows * width
    units = channels * rows * width // unit
    most = _PIECE_BYTES // (unit * FLOAT_BYTES)
    size = max((n for n in range(1, min(units, most) + 1) if units % n == 0), default=1)
    elements = size * unit
    if rows == height:
        return Pieces(units // size, (elements,), Shape(elements * FLOAT_BYTES), elements * FLOAT_BYTES)
    plane = height * width * FLOAT_BYTES
    return Pieces(units // size, (elements,), Shape(unit * FLOAT_BYTES, size, plane), size * plane)


@dataclass(frozen=True)
class Beside:
    """An operand that is not beside the result: where its tile begins in the tensor, and the workspace for a piece."""

    at: Index
    buffer: int
    streamed: bool


def behind(
    graph: Graph,
    nodes: Sequence[Node],
    pieces: Pieces,
    places: Mapping[str, Operand],
    moved: Mapping[str, Beside],
    call_of: CallOf,
) -> list[Statement]:
    """`nodes` on a tile, whose beginning `places` tells for the result and what lies beside it in whole tiles."""

    def step(step_bytes: int) -> Index:
        return Index(0, ((_VARIABLE, step_bytes),) if pieces.count > 1 else ())

    here = {name: replace(place, at=add(place.at, step(pieces.size_bytes))) for name, place in places.items()}
    here |= {name: Operand(None, Index(one.buffer)) for name, one in moved.items()}
    body: list[Statement] = [
        Move(name, add(one.at, step(pieces.step_bytes)), pieces.shape, one.buffer, False, one.streamed)
        for name, one in moved.items()
    ]
    for node in nodes:
        shapes = dict.fromkeys((*node.inputs, *node.outputs), pieces.kernel_shape)
        kernel, work = call_of(*part_of(graph, node, Part(shapes)))
        body.append(Call(kernel, work, tuple(here[name] for name in kernel.arguments)))
    return [Loop(_VARIABLE, 0, pieces.count, tuple(body))] if pieces.count > 1 else body

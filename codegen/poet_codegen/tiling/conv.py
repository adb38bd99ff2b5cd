"""Convolutions of one image with tiles of all operands: bands of rows, output channels, input channels.

Loops: forward b, o, c; input gradient b, c, o; weight gradient with update o, c, b. Sums run over the innermost loop,
in the order of the whole kernel: (channel, row, column) of x forward, (output channel, ...) for dx, rows of dy for dw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from poet_codegen.graph import AttrValue, Graph, Node, Tensor
from poet_codegen.ops import registry
from poet_codegen.ops.chain import first_of, operands_behind
from poet_codegen.ops.split import CONTINUES
from poet_codegen.ops.update import Update
from poet_codegen.ops.window import Window
from poet_codegen.tiling import nest
from poet_codegen.tiling.bands import Bands, backward_bands, forward_bands
from poet_codegen.tiling.behind import Beside, Pieces, behind, pieces_of
from poet_codegen.tiling.nest import Axis, Where, add
from poet_codegen.tiling.parts import CallOf, Streams, thinned
from poet_codegen.tiling.program import FLOAT_BYTES, Call, Index, Move, Operand, Program, Shape, Statement

Shapes = Mapping[str, tuple[int, ...]]

_ROWS_TRIED, _CHANNELS_TRIED = 4, 8
_LEAST_SHARE = 64
"""Tiles are tried down to this part of the largest ones."""


@dataclass(frozen=True)
class TileSize:
    """Of one band: rows of the image that is written (of dy for the weight gradient), and channels."""

    rows: int
    outputs: int
    inputs: int


@dataclass(frozen=True)
class Conv:
    """The forward convolution that a node belongs to; names are '' where the node has no such tensor."""

    node: Node
    kind: str
    """forward, input or weight (gradient)."""
    x: str
    w: str
    y: str
    bias: str
    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    window: Window
    after: tuple[Node, ...] = ()
    """Of a chain the nodes behind `node`."""
    besides: tuple[str, ...] = ()
    """What they read beside the result."""

    @property
    def taps(self) -> int:
        """Bytes of one window of weights."""
        return prod(self.w_shape[2:]) * FLOAT_BYTES

    @property
    def rows(self) -> int:
        """Of the image that bands cut."""
        return self.x_shape[2] if self.kind == "input" else self.y_shape[2]

    def bands(self, rows: int) -> list[Bands] | None:
        """Of `rows` rows each; None where there are no such bands."""
        if self.kind == "input":
            return backward_bands(self.window, self.x_shape[2], self.y_shape[2], rows)
        return forward_bands(self.window, self.x_shape[2], self.y_shape[2], rows)


def conv_of(graph: Graph, node: Node) -> Conv | None:
    """What a node is of a convolution of one image without groups; None for others. A chain is what its first is."""
    after, besides, node = node.stands_for[1:], operands_behind(node), first_of(node)
    rule = registry.get(node.op)
    maker = node
    if isinstance(rule, Update):
        unfused = rule.unfused(node, node.inputs[0])
        if unfused is None:
            return None
        maker = unfused[0]
    x, w, y, bias, kind = "", "", "", "", ""
    if maker.op == "Conv":
        (x, w), y, kind = maker.inputs[:2], maker.outputs[0], "forward"
        bias = maker.inputs[2] if len(maker.inputs) > 2 else ""
    elif maker.op == "ConvInputGrad":
        (y, w), x, kind = maker.inputs, maker.outputs[0], "input"
    elif maker.op == "ConvWeightGrad" and isinstance(rule, Update):
        (x, y), w, kind = maker.inputs, node.outputs[0], "weight"
    if not kind or maker.int("groups") != 1 or graph.tensors[x].shape[0] != 1:
        return None
    x_shape, w_shape, y_shape = (graph.tensors[name].shape for name in (x, w, y))
    window = Window.of(maker, w_shape[2:])
    return Conv(node, kind, x, w, y, bias, x_shape, w_shape, y_shape, window, after, besides)


def tile_sizes(conv: Conv, streams: Streams, room_bytes: int) -> Iterator[TileSize]:
    """Those that are tried: at least two bands, or some of the input channels.

    Tiles of streamed operands fit into `room_bytes`, and are not much smaller than the largest that do.
    """
    found: list[tuple[int, TileSize]] = []
    written, read = ("x", "y") if conv.kind == "input" else ("y", "x")
    for rows in thinned(conv.rows, _ROWS_TRIED):
        bands = conv.bands(rows)
        if bands is None:
            continue
        high = {written: rows, read: max(band.source_rows for band in bands)}
        for outputs in thinned(conv.w_shape[0], _CHANNELS_TRIED):
            for inputs in thinned(conv.w_shape[1], _CHANNELS_TRIED):
                if rows == conv.rows and inputs == conv.w_shape[1]:
                    continue
                size = _tile_bytes(conv, streams, TileSize(rows, outputs, inputs), high)
                if size <= room_bytes:
                    found.append((size, TileSize(rows, outputs, inputs)))
    largest = max((size for size, _ in found), default=0)
    return (tile for size, tile in found if size * _LEAST_SHARE >= largest)


def _tile_bytes(conv: Conv, streams: Streams, size: TileSize, high: Mapping[str, int]) -> int:
    """Of one tile of each streamed operand; of the images so many rows."""
    streamed = streams.inputs | streams.outputs
    weights = max(len(streams.old_version), int(conv.w in streamed))
    found = weights * size.outputs * size.inputs * conv.taps
    if conv.x in streamed:
        found += size.inputs * high["x"] * conv.x_shape[3] * FLOAT_BYTES
    if conv.y in streamed:
        found += size.outputs * high["y"] * conv.y_shape[3] * FLOAT_BYTES
    return found + len(streamed.intersection(conv.besides)) * _pieces(conv, size).size_bytes


def _pieces(conv: Conv, size: TileSize) -> Pieces:
    """Of a tile of what a chain writes."""
    if conv.kind == "input":
        return pieces_of(size.inputs, size.rows, *conv.x_shape[2:])
    return pieces_of(size.outputs, size.rows, *conv.y_shape[2:])


def conv_program(graph: Graph, conv: Conv, size: TileSize, streams: Streams, call_of: CallOf) -> Program | None:
    """The node in tiles; None where bands of that height are none. `call_of` gives the kernels."""
    bands = conv.bands(size.rows)
    if bands is None:
        return None
    builder = _Builder(graph, conv, size, streams, call_of)
    tiles = {
        "b": Axis("b", conv.rows // size.rows, tuple(bands) if len(bands) > 1 or bands[0].count > 1 else ()),
        "o": Axis("o", conv.w_shape[0] // size.outputs),
        "c": Axis("c", conv.w_shape[1] // size.inputs),
    }
    if tiles["b"].tiles == 1:
        tiles["b"] = Axis("b", 1, tuple(bands))
    order = {"forward": "boc", "input": "bco", "weight": "ocb"}[conv.kind]
    axes = [tiles[name] for name in order]
    axes[-1] = replace(axes[-1], peeled=True)
    body = {"forward": builder.forward, "input": builder.input, "weight": builder.weight}[conv.kind](axes)
    words = (("b", size.rows, "row"), ("o", size.outputs, "output channel"), ("c", size.inputs, "input channel"))
    cut = [f"{n} {word}{'s' if n > 1 else ''}" for axis, n, word in words if tiles[axis].tiles > 1]
    return Program(f"tiles of {' x '.join(cut)}", builder.top, body)


@dataclass
class _Builder:
    graph: Graph
    conv: Conv
    size: TileSize
    streams: Streams
    call_of: CallOf
    top: int = 0

    def forward(self, axes: list[Axis]) -> tuple[Statement, ...]:
        conv, size = self.conv, self.size
        x = self.image(conv.x, conv.x_shape, "c", True)
        w = self.weights(conv.w)
        y = self.image(conv.y, conv.y_shape, "o", False)

        def body(where: Where) -> list[Statement]:
            pads, rows = _seen(where)
            shapes = {
                conv.x: (1, size.inputs, rows, conv.x_shape[3]),
                conv.w: (size.outputs, size.inputs, *conv.w_shape[2:]),
                conv.y: (1, size.outputs, size.rows, conv.y_shape[3]),
            }
            if conv.bias:
                shapes[conv.bias] = (size.outputs,)
            attrs: dict[str, AttrValue] = {"pads": pads}
            if where["c"].first:
                attrs[CONTINUES] = 1
            places = {conv.x: x.place(where), conv.w: w.place(where), conv.y: y.place(where)}
            if conv.bias:
                places[conv.bias] = Operand(conv.bias, where["o"].index(size.outputs * FLOAT_BYTES))
            return [self.call(conv.node, shapes, attrs, places)]

        return nest.nest(axes, [*x.loads(), *w.loads()], body, y.stores(), self.chain(y))

    def input(self, axes: list[Axis]) -> tuple[Statement, ...]:
        conv, size = self.conv, self.size
        dy = self.image(conv.y, conv.y_shape, "o", True)
        w = self.weights(conv.w)
        dx = self.image(conv.x, conv.x_shape, "c", False)

        def body(where: Where) -> list[Statement]:
            pads, rows = _seen(where)
            shapes = {
                conv.y: (1, size.outputs, rows, conv.y_shape[3]),
                conv.w: (size.outputs, size.inputs, *conv.w_shape[2:]),
                conv.x: (1, size.inputs, size.rows, conv.x_shape[3]),
            }
            attrs: dict[str, AttrValue] = {"pads": pads, "extent": (size.rows, conv.x_shape[3])}
            if where["o"].first:
                attrs[CONTINUES] = 1
            places = {conv.x: dx.place(where), conv.w: w.place(where), conv.y: dy.place(where)}
            return [self.call(conv.node, shapes, attrs, places)]

        return nest.nest(axes, [*dy.loads(), *w.loads()], body, dx.stores(), self.chain(dx))

    def chain(self, result: _Place) -> Callable[[Where], Sequence[Statement]] | None:
        """What a chain does to a tile of the result once its sums are whole; None where there is no chain."""
        conv, streamed = self.conv, self.streams.inputs
        if not conv.after:
            return None
        pieces, is_cut = _pieces(conv, self.size), self.size.rows < conv.rows
        buffers = {name: self.take(pieces.size_bytes) for name in conv.besides if name in streamed or is_cut}

        def statements(where: Where) -> list[Statement]:
            at = result.at(where)
            places = {name: Operand(name, at) for name in conv.besides if name not in buffers}
            moved = {name: Beside(at, buffer, name in streamed) for name, buffer in buffers.items()}
            places[result.name] = result.place(where)
            return behind(self.graph, conv.after, pieces, places, moved, self.call_of)

        return statements

    def weight(self, axes: list[Axis]) -> tuple[Statement, ...]:
        return self.weight_in_bands(axes) if axes[-1].tiles > 1 else self.weight_at_once(axes)

    def weight_at_once(self, axes: list[Axis]) -> tuple[Statement, ...]:
        """All rows in one call, which updates."""
        conv, size, node = self.conv, self.size, self.conv.node
        dy = self.image(conv.y, conv.y_shape, "o", False, is_input=True)
        x = self.image(conv.x, conv.x_shape, "c", True)
        versions = [self.weights(new) for new in node.outputs]

        def body(where: Where) -> list[Statement]:
            filters = (size.outputs, size.inputs, *conv.w_shape[2:])
            shapes = dict.fromkeys((*node.inputs[: len(versions)], *node.outputs), filters)
            shapes[conv.x] = (1, size.inputs, *conv.x_shape[2:])
            shapes[conv.y] = (1, size.outputs, *conv.y_shape[2:])
            return [self.call(node, shapes, {}, {one.name: one.place(where) for one in (dy, x, *versions)})]

        loads = [load for one in (dy, x, *versions) for load in one.loads()]
        return nest.nest(axes, loads, body, [store for one in versions for store in one.stores()])

    def weight_in_bands(self, axes: list[Axis]) -> tuple[Statement, ...]:
        """Sums of a tile of weights over all bands, then its update."""
        conv, size, node = self.conv, self.size, self.conv.node
        rule = registry.get(node.op)
        assert isinstance(rule, Update)
        gradient = f"d.{node.inputs[0]}"
        unfused = rule.unfused(node, gradient)
        assert unfused is not None
        maker, update = unfused
        elements = size.outputs * size.inputs * prod(conv.w_shape[2:])
        tile = self.take(elements * FLOAT_BYTES)
        sums_end = self.top
        dy = self.image(conv.y, conv.y_shape, "o", False, is_input=True)
        x = self.image(conv.x, conv.x_shape, "c", True)
        images_end = self.top
        # The last band of x and dy is of no use any more when a tile of weights is updated.
        self.top = sums_end
        versions = {new: self.weights(new) for new in node.outputs}
        self.top = max(self.top, images_end)

        def body(where: Where) -> list[Statement]:
            pads, rows = _seen(where)
            shapes = {
                conv.x: (1, size.inputs, rows, conv.x_shape[3]),
                conv.y: (1, size.outputs, size.rows, conv.y_shape[3]),
                gradient: (size.outputs, size.inputs, *conv.w_shape[2:]),
            }
            attrs: dict[str, AttrValue] = {"pads": pads}
            if where["b"].first:
                attrs[CONTINUES] = 1
            places = {conv.x: x.place(where), conv.y: dy.place(where), gradient: Operand(None, Index(tile))}
            return [self.call(maker, shapes, attrs, places)]

        def apply(where: Where) -> list[Statement]:
            shapes = dict.fromkeys((*node.inputs[: len(versions)], *versions, gradient), (elements,))
            places = {new: weights.place(where) for new, weights in versions.items()}
            places[gradient] = Operand(None, Index(tile))
            for name in update.inputs[len(versions) + 1 :]:
                places[name] = Operand(name, Index())
            loads = [operand.move(where) for weights in versions.values() for operand in weights.loads()]
            stores = [operand.move(where) for weights in versions.values() for operand in weights.stores()]
            return [*loads, self.call(update, shapes, {}, places), *stores]

        inner = [*dy.loads(), *x.loads()]
        return nest.nest(axes, inner, body, [], apply)

    def call(
        self, node: Node, shapes: Shapes, attrs: Mapping[str, AttrValue], places: Mapping[str, Operand]
    ) -> Statement:
        known = {name: self.graph.tensors.get(name) or Tensor(name, ()) for name in (*node.inputs, *node.outputs)}
        tensors = {name: replace(t, shape=shapes.get(name, t.shape)) for name, t in known.items()}
        small = replace(node, attrs={**node.attrs, **attrs})
        kernel, work = self.call_of(Graph(self.graph.name, tensors, (small,), node.outputs), small)
        return Call(kernel, work, tuple(places.get(name) or Operand(name, Index()) for name in kernel.arguments))

    def take(self, size_bytes: int) -> int:
        """Room for a tile."""
        at, self.top = self.top, self.top + size_bytes
        return at

    def image(
        self, name: str, shape: tuple[int, ...], channel: str, needs_source: bool, is_input: bool | None = None
    ) -> _Place:
        """Tiles of an image: channels along the axis `channel`, rows of the bands or those that they need."""
        channels = self.size.outputs if channel == "o" else self.size.inputs
        plane, row = prod(shape[2:]) * FLOAT_BYTES, shape[3] * FLOAT_BYTES
        needed = [bands.source_rows for bands in self.conv.bands(self.size.rows) or ()]
        rows = max(needed) if needs_source else self.size.rows
        is_read = needs_source if is_input is None else is_input
        streamed = name in (self.streams.inputs if is_read else self.streams.outputs)
        is_whole = (min(needed) if needs_source else rows) == shape[2]
        has_tile = streamed or not is_whole
        buffer = self.take(channels * rows * row) if has_tile else 0

        def at(where: Where) -> Index:
            across = where[channel].index(channels * plane)
            band = where["b"]
            if needs_source:
                return add(across, band.source_index(row))
            return add(across, band.index(rows * row))

        def shape_of(where: Where) -> Shape:
            bands = where["b"].bands
            count = bands.source_rows if needs_source and bands else rows
            again = bands.again_rows if needs_source and bands else 0
            if count == shape[2] and not again:
                return Shape(channels * plane)
            return Shape(count * row, channels, plane, again * row)

        def move(where: Where) -> Move:
            return Move(name, at(where), shape_of(where), buffer, not is_read, streamed)

        return _Place(name, f"b{channel}", buffer if has_tile else None, at, move if has_tile else None, is_read)

    def weights(self, name: str) -> _Place:
        """Tiles of weights, or of a new version of them or of state, which is read as the old one and written."""
        size, conv = self.size, self.conv
        old = self.streams.old_version.get(name)
        streamed = name in self.streams.inputs or old is not None
        window_bytes, filter_bytes = size.inputs * conv.taps, conv.w_shape[1] * conv.taps
        is_run = size.inputs == conv.w_shape[1]
        shape = Shape(size.outputs * filter_bytes) if is_run else Shape(window_bytes, size.outputs, filter_bytes)
        has_tile = streamed or not is_run
        buffer = self.take(shape.size_bytes) if has_tile else 0

        def at(where: Where) -> Index:
            return add(where["o"].index(size.outputs * filter_bytes), where["c"].index(window_bytes))

        def load(where: Where) -> Move:
            return Move(old or name, at(where), shape, buffer, False, streamed)

        def store(where: Where) -> Move:
            return Move(name, at(where), shape, buffer, True, streamed)

        is_new = conv.kind == "weight"
        return _Place(
            name,
            "oc",
            buffer if has_tile else None,
            at,
            load if has_tile else None,
            True,
            store if has_tile and is_new else None,
        )


@dataclass(frozen=True)
class _Place:
    """Where a call finds a tensor: in a tile, or in the tensor itself."""

    name: str
    along: str
    buffer: int | None
    at: Callable[[Where], Index]
    move: Callable[[Where], Move] | None
    is_read: bool
    store: Callable[[Where], Move] | None = None

    def place(self, where: Where) -> Operand:
        return Operand(self.name, self.at(where)) if self.buffer is None else Operand(None, Index(self.buffer))

    def loads(self) -> list[nest.Operand]:
        return [nest.Operand(self.along, self.move)] if self.move and self.is_read else []

    def stores(self) -> list[nest.Operand]:
        if self.store:
            return [nest.Operand(self.along, self.store)]
        return [nest.Operand(self.along, self.move)] if self.move and not self.is_read else []


def _seen(where: Where) -> tuple[tuple[int, int, int, int], int]:
    """Padding, and rows of the other image, of a band."""
    bands = where["b"].bands
    assert bands is not None
    return bands.window.pads, bands.source_rows

"""Which tiled modes an op is offered in: patterns of streamed operands, and a few tile sizes of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations, product
from math import prod
from typing import Any, TypeAlias, TypeVar

from poet_solver.problem import Mode

from poet_codegen.cost_model import CostModel
from poet_codegen.graph import Graph, Node
from poet_codegen.ops import registry
from poet_codegen.ops.backward import Backward
from poet_codegen.ops.dense import product_work
from poet_codegen.ops.registry import Kernel, Work
from poet_codegen.ops.split import Blocks
from poet_codegen.ops.update import Update
from poet_codegen.tiling.ahead import read_ahead
from poet_codegen.tiling.backward import channel_sizes, in_turn, pass_program, streams_of, whole_calls
from poet_codegen.tiling.conv import conv_of, conv_program, tile_sizes
from poet_codegen.tiling.dense import layer_of, pass_cuts
from poet_codegen.tiling.dense import pass_program as dense_pass
from poet_codegen.tiling.parts import CallOf, Cut, Streams, cuts, kernel_of, part_program, thinned, tile_bytes
from poet_codegen.tiling.picks import pick_program, picked_rows
from poet_codegen.tiling.price import Cost, cost
from poet_codegen.tiling.program import Program

_POINTS = 4
"""Tile sizes kept of each pattern; more gained at most 1 % in trials."""
_SIZES = (1, 7, 6, 8)
"""Units of each axis that are tried, by how many axes there are."""
_Size = TypeVar("_Size")


@dataclass(frozen=True)
class Place:
    """What lowering knows of a graph's tensors."""

    root: Mapping[str, str]
    """Graph tensor -> the tensor whose bytes it shares."""
    index: Mapping[str, int]
    """Root tensor in the arena -> tensor of the problem."""
    in_ram: frozenset[str]
    """Roots whose home is RAM: they are not streamed."""
    frozen: frozenset[str] = frozenset()
    """Roots that are frozen and on storage: rows are picked there."""


@dataclass(frozen=True)
class _Choice:
    """Operands that are streamed together or not at all."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    old_version: tuple[tuple[str, str], ...] = ()


ProgramOf: TypeAlias = Callable[[], Program]
"""Writes a program when it is asked for, once: blocks of kernels take long to lay out, and few modes are chosen."""


@dataclass(frozen=True)
class _Found:
    """A tile size of a pattern."""

    price: Cost
    sketch: Program
    """Its loops and moves; the kernels may be missing."""
    program: ProgramOf


@dataclass(frozen=True)
class _Way:
    """One kind of program of a node."""

    operands: frozenset[str]
    """Tensors that it can stream."""
    sizes: Callable[[Streams], Iterable[object]]
    """Of tiles, to be tried."""
    make: Callable[[Any, Streams, CallOf], Program | None]
    """The program with tiles of that size; None where there is none."""


def _both_forms(way: _Way) -> _Way:
    """Programs of a way as they are, and those that read tiles ahead."""

    def sizes(streams: Streams) -> Iterator[object]:
        return ((size, is_ahead) for size in way.sizes(streams) for is_ahead in (False, True))

    def make(choice: Any, streams: Streams, call_of: CallOf) -> Program | None:
        size, is_ahead = choice
        program = way.make(size, streams, call_of)
        return read_ahead(program) if is_ahead and program is not None else program

    return _Way(way.operands, sizes, make)


_Choices = list[tuple[int, object]]
"""(way, size) of programs."""


class Tiler:
    """Finds the tiled modes of a graph's nodes; nodes that are alike share the search for tile sizes."""

    def __init__(self, graph: Graph, costs: CostModel, ram_bytes: int, place: Place) -> None:
        self._graph, self._costs, self._ram_bytes, self._place = graph, costs, ram_bytes, place
        self._sizes = {position: graph.tensors[name].size_bytes for name, position in place.index.items()}
        self._chosen: dict[object, _Choices] = {}
        self._known: dict[object, tuple[tuple[str, ...], list[_Found]]] = {}
        """What was found, with the tensors of the node that it was found for."""
        self._kernels: dict[object, tuple[Kernel, Work]] = {}

    def modes(self, node: Node) -> list[tuple[Mode, ProgramOf]]:
        """Every tiled mode of a node that fits into the budget, with its program."""
        ways = self._ways(node)
        found: list[tuple[Mode, ProgramOf]] = []
        for streams in self._streams(node, ways):
            found += self._best(node, ways, streams)
        return found

    def least_energy_j(self, node: Node) -> float:
        """Of the best mode with all operands on storage that can be there; infinite where there is none."""
        ways = self._ways(node)
        most = [*self._streams(node, ways)][-1:]
        return min((mode.energy_j for streams in most for mode, _ in self._best(node, ways, streams)), default=math.inf)

    def whole(self, node: Node) -> tuple[Mode, ProgramOf]:
        """The nodes that a node stands for by their kernels, with all operands in RAM."""
        program = whole_calls(self._graph, node, self._kernel_of)
        return mode_of(self._graph, node, program, _NONE, self._price(node, program), self._place), lambda: program

    def _streams(self, node: Node, ways: Iterable[_Way]) -> Iterator[Streams]:
        """All patterns, that with most operands last."""
        return _patterns(node, frozenset(name for way in ways for name in way.operands), self._place)

    def _ways(self, node: Node) -> list[_Way]:
        graph, rule = self._graph, registry.get(node.op)
        if isinstance(rule, Backward):
            return self._ways_back(rule, node)
        ways = []
        for blocks in rule.splits(graph, node):
            most = blocks.sizes or _SIZES[min(sum(axis.count > 1 for axis in blocks.axes), len(_SIZES) - 1)]
            sizes = self._in_room(node, partial(_cuts, blocks, most))
            ways.append(_Way(frozenset(blocks.dims), sizes, partial(part_program, graph, node, blocks)))
        conv = conv_of(graph, node)
        if conv is not None:
            names = frozenset((*node.inputs, *node.outputs)) - {conv.bias}
            tiles = self._in_room(node, partial(tile_sizes, conv))
            ways.append(_Way(names, tiles, partial(conv_program, graph, conv)))
        rows = picked_rows(graph, node)
        if rows is not None:
            names = frozenset(node.outputs) | (self._place.frozen & frozenset(node.inputs[:1]))
            ways.append(_Way(names, lambda _: thinned(rows, 4), partial(pick_program, graph, node)))
        return self._in_forms(ways)

    def _in_forms(self, ways: list[_Way]) -> list[_Way]:
        return [*map(_both_forms, ways)] if self._costs.board.storage.overlaps else ways

    def _in_room(
        self, node: Node, sizes: Callable[[Streams, int], Iterable[object]]
    ) -> Callable[[Streams], Iterable[object]]:
        """Sizes of tiles for what the operands that are not streamed leave of the budget."""
        return lambda streams: sizes(streams, self._ram_bytes - self._resident_bytes(node, streams))

    def _ways_back(self, rule: Backward, node: Node) -> list[_Way]:
        """One part after the other, each in a way of its own, or in one pass over the weights."""
        graph, parts = self._graph, node.stands_for
        ways = [self._ways(part) for part in parts]
        conv = conv_of(graph, parts[1])
        vectors = {name for bias in rule.biases(node) for name in (*bias.inputs[: len(bias.outputs)], *bias.outputs)}
        names = frozenset((*node.inputs, *node.outputs)) - vectors

        def combined(streams: Streams) -> Iterable[object]:
            options: list[list[tuple[int, object] | None]] = []
            for part, own in zip(parts, ways, strict=True):
                some = streams_of(part, streams)
                options.append([*self._choices(part, own, some)] if some.inputs or some.outputs else [None])
            # Of a bias, whose tiles matter little, one size: the middle one.
            options[2:] = [found[len(found) // 2 :][:1] for found in options[2:]]
            return product(*options)

        sketches: dict[object, Program | None] = {}

        def made(number: int, choice: tuple[int, object] | None, streams: Streams, call_of: CallOf) -> Program:
            some = streams_of(parts[number], streams)
            key = (number, choice, some.inputs, some.outputs)
            program = sketches.get(key) if call_of is _sketch else None
            if program is None and choice is not None:
                program = ways[number][choice[0]].make(choice[1], some, call_of)
            if call_of is _sketch:
                sketches[key] = program  # the same in many combinations
            return program or whole_calls(graph, parts[number], call_of)

        def in_parts(choices: Any, streams: Streams, call_of: CallOf) -> Program:
            return in_turn(*(made(number, choice, streams, call_of) for number, choice in enumerate(choices)))

        passes = []
        if conv is not None:
            channels = self._in_room(node, partial(channel_sizes, conv))
            passes.append(_Way(names, channels, partial(pass_program, graph, parts, conv)))
        layer = layer_of(graph, rule.halves(node))
        if layer is not None:
            cuts_of = self._in_room(node, partial(pass_cuts, layer))
            passes.append(_Way(names, cuts_of, partial(dense_pass, graph, layer)))
        return [_Way(names, combined, in_parts), *self._in_forms(passes)]

    def _best(self, node: Node, ways: Sequence[_Way], streams: Streams) -> list[tuple[Mode, ProgramOf]]:
        if self._resident_bytes(node, streams) > self._ram_bytes:
            return []
        names = (*node.inputs, *node.outputs)
        key = self._signature(node, streams)
        if key not in self._known:
            choices = self._choices(node, ways, streams)
            self._known[key] = names, [self._found(node, streams, size, ways[way].make) for way, size in choices]
        known_names, known = self._known[key]
        other = dict(zip(known_names, names, strict=True))
        return [
            (
                mode_of(self._graph, node, one.sketch, streams, one.price, self._place),
                cache(lambda one=one: one.program().renamed(other)),
            )
            for one in known
        ]

    def _choices(self, node: Node, ways: Sequence[_Way], streams: Streams) -> _Choices:
        """The best of all sizes, by sketches that know no kernels."""
        key = self._signature(node, streams)
        if key not in self._chosen:
            wanted = streams.inputs | streams.outputs
            sketches = (
                (self._mode(node, way.make(size, streams, _sketch), streams), (number, size))
                for number, way in enumerate(ways)
                if wanted <= way.operands
                for size in way.sizes(streams)
            )
            fitting = ((mode, choice) for mode, choice in sketches if mode is not None and self._fits(node, mode))
            self._chosen[key] = [choice for _, choice in _pareto(fitting)]
        return self._chosen[key]

    def _kernel_of(self, graph: Graph, node: Node) -> tuple[Kernel, Work]:
        """The kernel of a part and its work; those of parts that are alike are found once."""
        every = (*node.inputs, *node.outputs)
        names = {name: number for number, name in enumerate(dict.fromkeys(every))}
        tensors = tuple((graph.tensors[name].shape, graph.tensors[name].dtype) for name in names)
        key = (node.op, tuple(sorted(node.attrs.items())), tuple(names[name] for name in every), tensors)
        if key not in self._kernels:
            kernel, work = kernel_of(graph, node)
            self._kernels[key] = replace(kernel, arguments=tuple(str(names.get(n, n)) for n in kernel.arguments)), work
        kernel, work = self._kernels[key]
        own = {str(number): name for name, number in names.items()}
        return replace(kernel, arguments=tuple(own.get(n, n) for n in kernel.arguments)), work

    def _told(self, graph: Graph, node: Node) -> tuple[Kernel, Work]:
        """Of a matrix product without its kernel."""
        return _sketch(graph, node) if _product(graph, node) else self._kernel_of(graph, node)

    def _found(
        self, node: Node, streams: Streams, size: object, make: Callable[[Any, Streams, CallOf], Program | None]
    ) -> _Found:
        """Priced by its kernels; a matrix product without a profile, whose blocks cover all shapes, by the sketch."""

        @cache
        def program() -> Program:
            whole = make(size, streams, self._kernel_of)
            assert whole is not None, node.label
            return whole

        is_told = self._costs.costs is None and any(_product(self._graph, one) for one in _parts(node))
        sketch = make(size, streams, self._told) if is_told else program()
        assert sketch is not None, node.label
        return _Found(self._price(node, sketch), sketch, program)

    def _resident_bytes(self, node: Node, streams: Streams) -> int:
        """Of the tensors in the arena that a pattern leaves in RAM, versions of one parameter once."""
        streamed = streams.inputs | streams.outputs | frozenset(streams.old_version.values())
        pairs = registry.get(node.op).in_place_pairs(node)
        left = {*node.inputs, *node.outputs} - streamed - {node.outputs[new] for _, new in pairs}
        return sum(
            self._sizes[v] for v in {self._place.index[self._place.root[n]] for n in left if self._is_in_arena(n)}
        )

    def _price(self, node: Node, program: Program) -> Cost:
        return cost(program, self._costs, {n: self._graph.tensors[n].size_bytes for n in (*node.inputs, *node.outputs)})

    def _signature(self, node: Node, streams: Streams) -> object:
        """What tile sizes depend on."""
        names = (*node.inputs, *node.outputs)
        tensors = [
            (
                *(self._graph.tensors[name].shape, names.index(name)),
                *(name in streams.inputs, name in streams.outputs, self._is_in_arena(name)),
            )
            for name in names
        ]
        return *_text(node, names), tuple(tensors), len(streams.old_version)

    def _is_in_arena(self, name: str) -> bool:
        return self._place.root[name] in self._place.index

    def _mode(self, node: Node, program: Program | None, streams: Streams) -> Mode | None:
        if program is None:
            return None
        return mode_of(self._graph, node, program, streams, self._price(node, program), self._place)

    def _fits(self, node: Node, mode: Mode) -> bool:
        outputs = (self._place.index[self._place.root[name]] for name in node.outputs if self._is_in_arena(name))
        return footprint_bytes(mode, outputs, self._sizes) <= self._ram_bytes


def has_one_pass(graph: Graph, halves: tuple[Node, Node]) -> bool:
    """Whether an input gradient and an update can share a pass over the weights."""
    return conv_of(graph, halves[1]) is not None or layer_of(graph, halves) is not None


def _cuts(blocks: Blocks, most: int, streams: Streams, room_bytes: int) -> Iterator[Cut]:
    """Those whose tiles fit."""
    streamed = (*streams.inputs, *streams.outputs)
    return (cut for cut in cuts(blocks, most) if tile_bytes(blocks, cut, streamed) <= room_bytes)


_NONE = Streams(frozenset(), frozenset(), {})
_SKETCH = Kernel("", "sketch", {}, ())
_ROWS = {"Conv": "conv2d", "ConvInputGrad": "conv2d_input_grad", "ConvWeightGrad": "conv2d_weight_grad"}


def _sketch(graph: Graph, node: Node) -> tuple[Kernel, Work]:
    """Work as if every part had a blocked kernel."""
    maker, result = _maker(node), graph.tensors[node.outputs[0]]
    if maker.op not in _ROWS:
        return _SKETCH, _product(graph, node) or Work("elementwise", elements=result.elements)
    shapes = [graph.tensors[name].shape for name in maker.inputs[:2]]
    y, w = {"Conv": (result.shape, shapes[1]), "ConvInputGrad": (shapes[0], shapes[1])}.get(
        maker.op, (shapes[1], result.shape)
    )
    return _SKETCH, Work(_ROWS[maker.op], macs=prod(y) * prod(w[1:]), elements=result.elements)


def _text(node: Node, names: Sequence[str]) -> tuple[object, ...]:
    """What a node does, its tensors by their positions in `names`."""
    tensors = tuple(names.index(name) for name in (*node.inputs, *node.outputs))
    parts = tuple(_text(part, names) for part in node.stands_for)
    return node.op, tuple(sorted(node.attrs.items())), tensors, parts


def _parts(node: Node) -> Iterator[Node]:
    """The nodes with kernels that a node stands for, or itself."""
    if not node.stands_for:
        yield node
    for part in node.stands_for:
        yield from _parts(part)


def _maker(node: Node) -> Node:
    """Of an update that is fused the node of its gradient; else the node."""
    rule = registry.get(node.op)
    unfused = rule.unfused(node, node.inputs[0]) if isinstance(rule, Update) else None
    return unfused[0] if unfused else node


def _product(graph: Graph, node: Node) -> Work | None:
    """Of matrix products."""
    maker = _maker(node)
    row = {"Dense": "dense", "DenseInputGrad": "dense_input_grad", "DenseWeightGrad": "dense_weight_grad"}.get(maker.op)
    if row is not None:
        return product_work(graph, maker, row)
    if maker.op != "MatMul":
        return None
    made, left = graph.tensors[maker.outputs[0]], graph.tensors[maker.inputs[0]]
    return Work("matmul", macs=made.elements * left.shape[-2 if maker.int("trans_a") else -1], elements=made.elements)


def _patterns(node: Node, candidates: frozenset[str], place: Place) -> Iterator[Streams]:
    """Which of the candidates are streamed: every choice but none; an updated tensor and its new version together."""
    places = registry.get(node.op).in_place_pairs(node)
    updated = {name for old, new in places for name in (node.inputs[old], node.outputs[new])}
    pairs = tuple((node.outputs[new], node.inputs[old]) for old, new in places if node.inputs[old] in candidates)

    def may_stream(name: str) -> bool:
        root = place.root[name]
        return root in place.index and root not in place.in_ram and name in candidates and name not in updated

    aliases = [place.root[name] for name in dict.fromkeys(node.inputs)]
    choices = [
        _Choice(inputs=(name,))
        for name in dict.fromkeys(node.inputs)
        if may_stream(name) and aliases.count(place.root[name]) == 1
    ]
    choices += [_Choice(outputs=(name,)) for name in node.outputs if may_stream(name)]
    if pairs and all(place.root[old] not in place.in_ram for _, old in pairs):
        choices.append(_Choice(outputs=tuple(new for new, _ in pairs), old_version=pairs))
    for count in range(1, len(choices) + 1):
        for some in combinations(choices, count):
            yield Streams(
                frozenset(name for choice in some for name in choice.inputs),
                frozenset(name for choice in some for name in choice.outputs),
                dict(pair for choice in some for pair in choice.old_version),
            )


def mode_of(graph: Graph, node: Node, program: Program, streams: Streams, price: Cost, place: Place) -> Mode:
    """The program as a mode of the problem."""
    on_storage = streams.inputs | frozenset(streams.old_version.values())
    inputs = {place.root[name]: name in on_storage for name in node.inputs if place.root[name] in place.index}
    pairs = registry.get(node.op).in_place_pairs(node)
    return Mode(
        time_s=price.time_s,
        energy_j=price.energy_j,
        resident=tuple(place.index[root] for root, streamed in inputs.items() if not streamed),
        streamed=tuple(place.index[root] for root, streamed in inputs.items() if streamed),
        outputs_to_storage=tuple(place.index[place.root[name]] for name in node.outputs if name in streams.outputs),
        in_place=tuple(
            (place.index[place.root[node.inputs[old]]], place.index[place.root[node.outputs[new]]])
            for old, new in pairs
            if node.outputs[new] not in streams.outputs
        ),
        workspace_bytes=program.workspace_bytes,
        wear_bytes=price.wear_bytes,
        name=program.title,
    )


def footprint_bytes(mode: Mode, outputs: Iterable[int], sizes: Mapping[int, int]) -> int:
    """Bytes that must be live while an op with these outputs runs in a mode; `sizes` are those of the tensors."""
    not_new = {new for _, new in mode.in_place} | set(mode.outputs_to_storage)
    made = (v for v in outputs if v not in not_new)
    return mode.workspace_bytes + sum(sizes[v] for v in (*mode.resident, *made))


def _pareto(modes: Iterable[tuple[Mode, _Size]]) -> list[tuple[Mode, _Size]]:
    """Those that no other beats in both workspace and energy, at most _POINTS: the ends, and what lies between."""
    kept: list[tuple[Mode, _Size]] = []
    for mode, program in sorted(modes, key=lambda item: (item[0].workspace_bytes, item[0].energy_j)):
        if not kept or mode.energy_j < kept[-1][0].energy_j * (1 - 1e-3):
            kept.append((mode, program))
    if len(kept) <= _POINTS:
        return kept
    step = (len(kept) - 1) / (_POINTS - 1)
    return [kept[round(i * step)] for i in range(_POINTS)]

"""Random ops with programs for random tiles: what test_tiles.py runs, and test_ahead.py prices."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from poet_codegen.graph import AttrValue, DType, Graph, Kind, Node, Role, Tensor
from poet_codegen.ops import registry
from poet_codegen.ops.backward import Backward, merge_backward
from poet_codegen.ops.chain import merge_chains
from poet_codegen.ops.dense import PANELS
from poet_codegen.ops.update import Update
from poet_codegen.panels import in_panels, with_panels
from poet_codegen.tiling.ahead import read_ahead
from poet_codegen.tiling.backward import channel_sizes, in_turn, pass_program, streams_of, whole_calls
from poet_codegen.tiling.conv import conv_of, conv_program, tile_sizes
from poet_codegen.tiling.dense import layer_of, pass_cuts
from poet_codegen.tiling.dense import pass_program as dense_pass
from poet_codegen.tiling.parts import Streams, cuts, kernel_of, part_program
from poet_codegen.tiling.picks import pick_program
from poet_codegen.tiling.program import Program

from .host_kernels import matrices

CASES_AN_OP = 4
PLENTY = 1 << 20
CASES_AN_AXIS = 1
NO_STREAMS = Streams(frozenset(), frozenset(), {})
IN_TURN = "; weights: "
"""In titles of programs that are two in turn."""


def node_of(op: str, inputs: dict[str, tuple[int, ...]], attrs: dict[str, AttrValue]) -> tuple[Graph, Node]:
    """A graph of one node; an update's outputs take over its first inputs."""
    rule = registry.get(op)
    tensors = {
        name: Tensor(name, shape, DType.INT32 if name in ("step", "index") else DType.FLOAT32, Kind.PARAM)
        for name, shape in inputs.items()
    }
    bare = Node(op, tuple(inputs), (), "n", Role.FORWARD, attrs)
    shapes = rule.shapes(tuple(tensors.values()), bare)
    olds = tuple(inputs) if isinstance(rule, Update) else ()
    outputs = []
    for number, shape in enumerate(shapes):
        old = olds[number] if olds else None
        name = f"{old}.new" if old else f"out{number}"
        tensors[name] = Tensor(name, shape, kind=Kind.UPDATED if old else Kind.VALUE, updates=old)
        outputs.append(name)
    node = Node(op, tuple(inputs), tuple(outputs), "n", Role.FORWARD, attrs)
    return Graph("g", tensors, (node,), node.outputs), node


def convolutions(rng: random.Random, inputs_of: Sequence[int] = (2, 4)) -> Iterator[tuple[Graph, Node]]:
    """Of one random shape: forward, input gradient, and weight gradient with two optimizers."""
    channels, filters = rng.choice(inputs_of), rng.choice((2, 3, 6))
    k, s = rng.choice(((3, 1), (3, 2), (1, 1), (1, 2), (5, 1), (2, 2)))
    pad = rng.choice((0, (k - 1) // 2, k - 1)) if k > 1 else 0
    height, width = rng.choice((4, 6, 8, 12)), max(rng.choice((4, 5, 7)), k - 2 * pad)
    attrs: dict[str, AttrValue] = {"strides": (s, s), "dilations": (1, 1), "pads": (pad, pad, pad, pad), "groups": 1}
    x, w = (1, channels, height, width), (filters, channels, k, k)
    inputs = {"x": x, "w": w} | ({"b": (filters,)} if rng.random() < 0.5 else {})
    forward, node = node_of("Conv", inputs, attrs)
    y = forward.tensors[node.outputs[0]].shape
    yield forward, node
    yield node_of("ConvInputGrad", {"dy": y, "w": w}, {**attrs, "extent": x[2:]})
    update: dict[str, AttrValue] = {**attrs, "kernel": (k, k)}
    yield node_of("ConvWeightGradSgd", {"w": w, "x": x, "dy": y, "rate": (1,)}, update)
    adam: dict[str, AttrValue] = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    states = {"w": w, "m": w, "v": w, "x": x, "dy": y, "rate": (1,), "step": (1,)}
    yield node_of("ConvWeightGradAdam", states, {**update, **adam})


def others(rng: random.Random) -> Iterator[tuple[Graph, Node]]:
    """Ops that are cut along axes of their tensors."""
    inputs, outputs, transposed = rng.choice((4, 6)), rng.choice((3, 8)), rng.choice((0, 1))
    layer: dict[str, AttrValue] = {"transposed": transposed}
    w = (outputs, inputs) if transposed else (inputs, outputs)
    for rows in (1, 4):
        layout, x, y = matrices(rng, rows, inputs, outputs)
        for op, shapes in {
            "Dense": {"x": x, "w": w, "b": (outputs,)},
            "DenseInputGrad": {"dy": y, "w": w},
            "DenseWeightGradSgd": {"w": w, "x": x, "dy": y, "rate": (1,)},
        }.items():
            graph, node = node_of(op, shapes, layer | layout)
            yield graph, node
            yield graph, in_some_panels(graph).nodes[0]
        yield node_of("ConvBiasGradSgd", {"w": (outputs,), "dy": (rows, outputs), "rate": (1,)}, {})
    yield from sequences(rng)
    yield from embeddings(rng)
    image = (1, 6, 4, 4)
    yield node_of("Relu", {"x": image}, {})
    yield node_of("Add", {"a": image, "b": image}, {})
    yield node_of("Add", {"a": (1, 4, 6), "b": (6,)}, {})
    yield node_of("ConvBiasGradSgd", {"w": (6,), "dy": image, "rate": (1,)}, {})
    yield node_of("Sgd", {"w": (4, 6), "d": (4, 6), "rate": (1,)}, {})
    pool: dict[str, AttrValue] = {"strides": (2, 2), "dilations": (1, 1), "pads": (0, 0, 0, 0), "kernel": (2, 2)}
    yield node_of("MaxPool", {"x": image}, pool)
    yield node_of("MaxPoolGrad", {"x": image, "dy": (1, 6, 2, 2)}, pool)
    group: dict[str, AttrValue] = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "groups": 3}
    yield node_of("Conv", {"x": image, "w": (9, 2, 3, 3), "b": (9,)}, group)
    yield node_of("ConvInputGrad", {"dy": (1, 9, 4, 4), "w": (9, 2, 3, 3)}, {**group, "extent": (4, 4)})


def sequences(rng: random.Random) -> Iterator[tuple[Graph, Node]]:
    """What a transformer has beside dense layers, of a random shape."""
    heads, tokens, size = rng.choice((1, 2, 3)), rng.choice((4, 6)), rng.choice((2, 8))
    a, b, y = (1, heads, tokens, size), (1, heads, size, tokens), (1, heads, tokens, tokens)
    for left, right in ((0, 0), (1, 0), (0, 1)):
        attrs: dict[str, AttrValue] = {"trans_a": left, "trans_b": right}
        yield node_of("MatMul", {"a": b if left else a, "b": a if right else b}, attrs | ({"shape": y} if left else {}))
    yield node_of("Transpose", {"x": a}, {"perm": rng.choice(((0, 2, 1, 3), (0, 2, 3, 1), (0, 3, 1, 2)))})
    for op, names in (("Softmax", ("x",)), ("SoftmaxGrad", ("y", "dy")), ("LogSoftmaxGrad", ("y", "dy"))):
        yield node_of(op, dict.fromkeys(names, y), {"axes": (3, 4)})
    x, row = (1, tokens, size), (1, tokens, 1)
    yield node_of("LayerNormalization", {"x": x}, {"axis": 2, "epsilon": 1e-5})
    yield node_of("LayerNormalizationGrad", {"z": x, "inverse": row, "dz": x}, {"axis": 2, "epsilon": 1e-5})
    yield node_of("Affine", {"x": x, "scale": (size,), "shift": (size,)}, {})
    yield node_of("Mul", {"dy": x, "z": x}, {"shape": (size,)})
    yield node_of("SumTo", {"dy": x}, {"shape": (size,)})
    yield node_of("Add", {"a": x, "b": row}, {})
    yield node_of("Gelu", {"x": x}, {})
    first: dict[str, AttrValue] = {"starts": (0, 1, 0), "steps": (1, 1, 1)}
    yield node_of("Slice", {"x": x}, {**first, "shape": (1, 1, size)})
    yield node_of("Place", {"x": (1, 1, size)}, {**first, "shape": x, "fill": 0.0})
    yield node_of("Concat", {"a": x, "b": (1, 2, size)}, {"axis": 1})
    yield node_of("Split", {"x": x}, {"axis": 1, "sizes": (1, tokens - 1)})


def embeddings(rng: random.Random) -> Iterator[tuple[Graph, Node]]:
    """Rows of a table that learns, by a sample's indices or by constants, some of them again and again."""
    count, size, columns = 5, rng.choice((4, 6)), rng.choice((2, 6))
    table, picked, attrs = (size, columns), (count, columns), {"axis": 0}
    rows: dict[str, AttrValue] = {"rows": tuple(rng.choices(range(size), k=count))}
    by = {"index": (count,)}
    grad: dict[str, AttrValue] = {**attrs, "shape": table}
    yield node_of("Gather", {"x": table, **by}, {**attrs, "shape": picked})
    yield node_of("Gather", {"x": table}, {**attrs, "shape": picked, **rows})
    yield node_of("GatherGrad", {**by, "dy": picked}, grad)
    yield node_of("GatherGradSgd", {"w": table, **by, "dy": picked, "rate": (1,)}, grad)
    yield node_of("GatherGradSgd", {"w": table, "dy": picked, "rate": (1,)}, {**grad, **rows})
    adam: dict[str, AttrValue] = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    states = {"w": table, "m": table, "v": table, **by, "dy": picked, "rate": (1,), "step": (1,)}
    yield node_of("GatherGradAdam", states, {**grad, **adam})


def drawn_streams(rng: random.Random, graph: Graph, node: Node, candidates: set[str]) -> Streams:
    """Some of the candidates, but for states, which go with their parameter."""
    versions = {new: old for new in node.outputs if (old := graph.tensors[new].updates) in candidates}
    old_version = versions if versions and rng.random() < 0.7 else {}
    free = candidates - versions.keys() - set(versions.values())
    inputs = {name for name in node.inputs if name in free and rng.random() < 0.6}
    outputs = {name for name in node.outputs if name in free and rng.random() < 0.6}
    return Streams(frozenset(inputs), frozenset(outputs | old_version.keys()), old_version)


def programs(rng: random.Random) -> Iterator[tuple[Graph, Node, Streams, Program]]:
    for graph, node in convolutions(rng):
        conv = conv_of(graph, node)
        assert conv is not None
        for _ in range(CASES_AN_OP):
            streams = drawn_streams(rng, graph, node, {*node.inputs, *node.outputs} - {"b", "rate", "step"})
            size = rng.choice(list(tile_sizes(conv, streams, PLENTY)))
            program = conv_program(graph, conv, size, streams, kernel_of)
            assert program is not None
            yield graph, node, streams, program
    yield from chains(rng)
    yield from layers_back(rng)
    yield from dense_back(rng)
    for graph, node in others(rng):
        splits = registry.get(node.op).splits(graph, node)
        assert splits, node.op
        for blocks in splits:
            tried = list(cuts(blocks, 4))
            parts = 0
            while parts < CASES_AN_AXIS * len(blocks.axes) and tried:
                cut = tried.pop(rng.randrange(len(tried)))
                streams = drawn_streams(rng, graph, node, set(blocks.dims) - {"rate"})
                part = part_program(graph, node, blocks, cut, streams, kernel_of)
                if part is not None:
                    parts += 1
                    yield graph, node, streams, part
            assert parts, node.op


def with_chain(graph: Graph) -> Graph:
    """A residual sum, a rectifier and a mask behind the first node's result, as a block and its gradient have them."""
    (y,) = graph.nodes[0].outputs
    names = dict.fromkeys(("beside", "y_mask", "sum", "positive", "masked"))
    tensors = graph.tensors | {name: replace(graph.tensors[y], name=name) for name in names}
    behind = (
        ("Add", (y, "beside"), "sum"),
        ("Relu", ("sum",), "positive"),
        ("ReluGrad", ("y_mask", "positive"), "masked"),
    )
    nodes = (Node(op, inputs, (output,), output) for op, inputs, output in behind)
    return Graph(
        "g",
        tensors,
        (graph.nodes[0], *nodes, *graph.nodes[1:]),
        ("masked", *(name for name in graph.outputs if name != y)),
    )


def chains(rng: random.Random) -> Iterator[tuple[Graph, Node, Streams, Program]]:
    """Convolutions and input gradients with elementwise ops behind them, cut by rows and channels, and by groups."""
    drawn = list(convolutions(rng))[:2]
    group: dict[str, AttrValue] = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "groups": 3}
    drawn.append(node_of("Conv", {"x": (1, 6, 4, 4), "w": (9, 2, 3, 3), "b": (9,)}, group))
    drawn.append(node_of("ConvInputGrad", {"dy": (1, 9, 4, 4), "w": (9, 2, 3, 3)}, {**group, "extent": (4, 4)}))
    for single, _ in drawn:
        graph = with_chain(single)
        (node,) = merge_chains(graph, lambda _: True)
        conv, (blocks, *_) = conv_of(graph, node), registry.get(node.op).splits(graph, node)
        for _ in range(CASES_AN_OP):
            streams = drawn_streams(rng, graph, node, {*node.inputs, *node.outputs} - {"b"})
            size = rng.choice(list(tile_sizes(conv, streams, PLENTY))) if conv else None
            program = conv_program(graph, conv, size, streams, kernel_of) if conv and size else None
            if program is not None:
                yield graph, node, streams, program
            streams = drawn_streams(rng, graph, node, set(blocks.dims))
            program = part_program(graph, node, blocks, rng.choice(list(cuts(blocks, 4))), streams, kernel_of)
            if program is not None:
                yield graph, node, streams, program


def layers_back(rng: random.Random) -> Iterator[tuple[Graph, Node, Streams, Program]]:
    """Input gradient, with a chain behind it or without, and updates of a convolution as one op: in one pass over the
    weights, and one after the other."""
    drawn = list(convolutions(rng, (4, 6)))
    first_graph, first = drawn[1]
    for graph, update in drawn[2:]:
        dx = Tensor("dx", first_graph.tensors[first.outputs[0]].shape)
        whole = Graph("g", {**graph.tensors, "dx": dx}, (replace(first, outputs=("dx",)), update), update.outputs)
        if rng.random() < 0.5:
            whole = with_bias(whole)
        if rng.random() < 0.5:
            whole = with_chain(whole)
            whole = replace(whole, nodes=tuple(reading(node, {"y_mask": "x"}) for node in whole.nodes))
        both = replace(whole, nodes=merge_chains(whole, lambda _: True))
        (node,) = merge_backward(both, lambda *_: True)
        parts = node.stands_for
        convs = [conv_of(both, part) for part in parts[:2]]
        assert convs[0] and convs[1]
        vectors = {name for part in parts[2:] for name in (*part.inputs, *part.outputs) if name != "dy"}
        candidates = {*node.inputs, *node.outputs} - vectors - {"rate", "step"}
        for _ in range(CASES_AN_OP // 2):
            streams = drawn_streams(rng, both, node, candidates)
            channels = rng.choice(list(channel_sizes(convs[1], streams, PLENTY)))
            yield whole, node, streams, pass_program(both, parts, convs[1], channels, streams, kernel_of)
            programs = []
            for part, conv in zip(parts, convs, strict=False):
                some = streams_of(part, streams)
                sizes = [*tile_sizes(conv, some, PLENTY)] if conv else []
                programs.append(
                    conv_program(both, conv, rng.choice(sizes), some, kernel_of) if conv and sizes else None
                )
            for bias in parts[2:]:
                (blocks,) = registry.get(bias.op).splits(both, bias)
                some = streams_of(bias, streams)
                programs.append(part_program(both, bias, blocks, next(iter(cuts(blocks, 4))), some, kernel_of))
            if not all(programs):
                continue
            yield whole, node, streams, in_turn(*(program for program in programs if program))
            yield whole, node, streams, in_turn(*(read_ahead(part) or part for part in programs if part))


def with_bias(graph: Graph) -> Graph:
    """The update of a convolution's bias behind that of its weights, by the same optimizer."""
    update = graph.nodes[-1]
    renamed = {name: f"b_{name}" for name in (*update.inputs[: len(update.outputs)], *update.outputs)}
    (filters,) = {graph.tensors[name].shape[0] for name in update.outputs}
    tensors = {
        new: replace(t, name=new, shape=(filters,), updates=renamed[t.updates] if t.updates else None)
        for old, new in renamed.items()
        for t in [graph.tensors[old]]
    }
    op = update.op.replace("Weight", "Bias")
    attrs = {name: value for name, value in update.attrs.items() if isinstance(value, float)}
    bias = Node(op, update.inputs, update.outputs, "bias", Role.UPDATE, attrs)
    bias = replace(reading(bias, renamed), outputs=tuple(renamed[name] for name in update.outputs))
    bias = replace(bias, inputs=tuple(name for name in bias.inputs if name != "x"))
    return Graph("g", {**graph.tensors, **tensors}, (*graph.nodes, bias), (*graph.outputs, *bias.outputs))


def reading(node: Node, names: dict[str, str]) -> Node:
    return replace(node, inputs=tuple(names.get(name, name) for name in node.inputs))


def dense_back(rng: random.Random) -> Iterator[tuple[Graph, Node, Streams, Program]]:
    """The same of dense layers, their weights in both layouts."""
    for rows, transposed, rule in ((1, 1, "Sgd"), (4, 0, "Sgd"), (3, 1, "Sgd"), (3, 0, "Adam")):
        inputs, outputs = rng.choice((4, 6)), rng.choice((6, 8))
        layout, x, dy = matrices(rng, rows, inputs, outputs)
        layout["transposed"] = transposed
        layer = dict(layout)
        w = (outputs, inputs) if transposed else (inputs, outputs)
        shapes = {"w": w, "x": x, "dy": dy, "rate": (1,)}
        if rule == "Adam":
            shapes = {"w": w, "m": w, "v": w, "x": x, "dy": dy, "rate": (1,), "step": (1,)}
            layer |= {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
        graph, update = node_of(f"DenseWeightGrad{rule}", shapes, layer)
        first = Node(
            "DenseInputGrad", ("dy", "w"), ("dx",), "first", Role.BACKWARD, {"transposed": transposed} | layout
        )
        tensors = {**graph.tensors, **{name: Tensor(name, x) for name in ("dx", "h", "masked")}}
        behind = Node("GeluGrad", ("h", "dx"), ("masked",), "behind", Role.BACKWARD)
        nodes, result = ((first, behind), "masked") if rng.random() < 0.5 else ((first,), "dx")
        both = Graph("g", tensors, (*nodes, update), (*update.outputs, result))
        marked = in_some_panels(both) if rng.random() < 0.5 else both
        chained = replace(marked, nodes=merge_chains(marked, lambda _: True))
        (node,) = merge_backward(chained, lambda *_: True)
        rule_of_both = registry.get(node.op)
        assert isinstance(rule_of_both, Backward)
        layer_back = layer_of(both, rule_of_both.halves(node))
        assert layer_back
        yield both, node, NO_STREAMS, whole_calls(both, node, kernel_of)
        for _ in range(2 * CASES_AN_OP):
            streams = drawn_streams(rng, both, node, {*node.inputs, *node.outputs} - {"rate", "step"})
            cut = rng.choice(list(pass_cuts(layer_back, streams, PLENTY)))
            program = dense_pass(both, layer_back, cut, streams, kernel_of)
            assert program is not None
            yield both, node, streams, program


def in_some_panels(graph: Graph) -> Graph:
    """The graph, its layers' weights w in two or three panels."""
    columns = graph.tensors["w"].shape[1]
    return with_panels(graph, {"w": 2 if columns % 2 == 0 else 3})


def as_laid(node: Node, name: str, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Weights and their states in the panels that a node says."""
    parts = [part for whole in (node.stands_for or (node,)) for part in (whole.stands_for or (whole,))]
    count = next((part.int(PANELS) for part in parts if PANELS in part.attrs), 1)
    return in_panels(value, count) if count > 1 and name.removesuffix(".new") in ("w", "m", "v") else value


def picks(rng: random.Random) -> Iterator[tuple[Graph, Node, Streams, Program]]:
    """Rows of a table by constants, from storage or not, to storage or not."""
    rows = tuple(rng.choices(range(7), k=6))
    graph, node = node_of("Gather", {"x": (7, 4)}, {"axis": 0, "shape": (6, 4), "rows": rows})
    for names, units in (("x", 6), ("xy", 2), ("y", 3)):
        outputs = frozenset(node.outputs) if "y" in names else frozenset[str]()
        streams = Streams(frozenset(("x",)) if "x" in names else frozenset(), outputs, {})
        program = pick_program(graph, node, units, streams, kernel_of)
        assert program is not None
        yield graph, node, streams, program

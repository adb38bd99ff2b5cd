"""Winograd's convolution: near the direct sum by a bound; a workspace, which the solver knows, changes no bit."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from poet_codegen.graph import AttrValue, Graph, Kind, Node, Tensor
from poet_codegen.lower import Home
from poet_codegen.ops import registry
from poet_codegen.plan import Plan, make_plan, make_request
from poet_codegen.recipe import Recipe
from poet_solver.schedule import Compute

from .host_kernels import HostKernels
from .test_on_host import BOARD, Maker, run
from .test_tiles_on_host import images

EPSILON = 2.0**-24
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
Array = np.ndarray[Any, Any]


def direct(x: Array, w: Array, b: Array, pads: tuple[int, ...]) -> Array:
    """In double precision."""
    padded = np.pad(x.astype(float), ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    y: Array = np.einsum("nchwij,ocij->nohw", windows, w.astype(float)) + b[:, None, None]
    return y


def error_bound(x: Array, w: Array, b: Array, pads: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """What rounding can do to each output, to first order: (roundings on the longest way) x the sums of magnitudes.

    6 roundings of a weight's transform, 2 of a tile's two passes, the product, as many sums as channels, 4 of the
    outputs' two passes, and the bias.
    """
    sizes = np.pad(np.abs(x.astype(float)), ((0, 0), (0, 0), (pads[0], pads[2] + 3), (pads[1], pads[3] + 3)))
    u = np.einsum("ik,ockl,jl->ocij", np.abs(G), np.abs(w.astype(float)), np.abs(G))
    bound = np.zeros((shape[0], shape[1], shape[2] + 1, shape[3] + 1))
    for top in range(0, shape[2], 2):
        for left in range(0, shape[3], 2):
            tile = sizes[:, :, top : top + 4, left : left + 4]
            v = np.einsum("ik,nckl,jl->ncij", np.abs(B), tile, np.abs(B))
            y = np.einsum("pi,ocij,ncij,qj->nopq", np.abs(A), u, v, np.abs(A))
            bound[:, :, top : top + 2, left : left + 2] = y
    roundings = 6 + 2 + 1 + x.shape[1] + 4 + 1
    found: Array = EPSILON * roundings * (bound[:, :, : shape[2], : shape[3]] + np.abs(b)[:, None, None])
    return found


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_outputs_are_near_the_direct_sum_and_a_workspace_changes_no_bit(
    data: st.DataObject, tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("winograd")
    batch, channels, outputs = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 7), st.integers(1, 5)))
    height, width = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    pads = data.draw(
        st.tuples(*[st.integers(0, 2)] * 4).filter(lambda p: height + p[0] + p[2] >= 3 and width + p[1] + p[3] >= 3)
    )
    has_bias = data.draw(st.booleans())
    attrs: dict[str, AttrValue] = {"strides": (1, 1), "dilations": (1, 1), "pads": pads, "groups": 1}
    shapes = {"x": (batch, channels, height, width), "w": (outputs, channels, 3, 3), "b": (outputs,)}
    names = tuple(shapes) if has_bias else ("x", "w")
    node = Node("ConvWinograd", names, ("y",), "conv", attrs=attrs)
    tensors = {name: Tensor(name, shapes[name], kind=Kind.INPUT) for name in names}
    (shape,) = registry.get(node.op).shapes([tensors[name] for name in names], node)
    graph = Graph("case", {**tensors, "y": Tensor("y", shape)}, (node,), ("y",))
    plain, spacious = registry.get(node.op).variants(graph, node)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    values = {name: rng.standard_normal(shapes[name]).astype(np.float32) for name in names}
    kernels = HostKernels(folder, [graph], [spacious.kernel])
    y = kernels.run(graph, values)["y"]
    b = values.get("b", np.zeros(outputs, np.float32))
    error = np.abs(y.astype(float) - direct(values["x"], values["w"], b, pads))
    assert np.all(error <= error_bound(values["x"], values["w"], b, pads, shape))

    guard = np.float32(7.0)
    workspace = np.full(spacious.workspace_bytes // 4 + 1, guard)
    again = np.full(shape, np.nan, np.float32)
    operands = [*values.values(), again, workspace]
    kernels.function(spacious.kernel.name)(*(a.ctypes.data_as(ctypes.c_void_p) for a in operands))
    assert again.tobytes() == y.tobytes()
    assert workspace[-1] == guard and not plain.workspace_bytes


def test_the_solver_takes_the_workspace_where_there_is_memory_and_bits_stay(make_model: Maker, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(images(make_model), path)

    def plan(ram_bytes: int, recipe: Recipe) -> Plan:
        request = make_request(path, BOARD, ram_bytes, None, Home.RAM, recipe, "both", 0)
        return make_plan(request, path, threads=1, time_limit_s=3)

    plans = [plan(ram_bytes, Recipe(winograd=True)) for ram_bytes in (100_000, 38_000)]
    spacious = [
        {s.workspace_offset is not None for s in p.train.schedule.steps if isinstance(s, Compute)} for p in plans
    ]
    assert spacious[0] == {True, False}
    results = [run(p, tmp_path / str(number)) for number, p in enumerate(plans)]
    assert results[0] == results[1]
    assert results[0] != run(plan(100_000, Recipe()), tmp_path / "direct"), "the option was to change bits"

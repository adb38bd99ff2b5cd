"""Runs graphs through their generated C kernels on this machine, one kernel after the other."""

from __future__ import annotations

import ctypes
import random
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from poet_codegen.autodiff import differentiate, reachable_from
from poet_codegen.graph import AttrValue, DType, Graph, GraphBuilder, Kind, Tensor
from poet_codegen.lower import view_roots
from poet_codegen.ops import registry
from poet_codegen.ops.registry import Kernel, Part
from poet_codegen.parts import parameters_of
from poet_codegen.platformio.flags import host_flags
from poet_codegen.render import render
from poet_codegen.resources import data_dir

Arrays = dict[str, np.ndarray[Any, Any]]


def choose_kernels(graph: Graph) -> dict[int, Kernel]:
    """A kernel for every node (by position in the graph) that is not a view."""
    return {
        position: registry.get(node.op).kernel(graph, node)
        for position, node in enumerate(graph.nodes)
        if not registry.get(node.op).is_view
    }


class HostKernels:
    """The kernels of some graphs in one shared object, compiled as the firmware is."""

    def __init__(self, folder: Path, graphs: Iterable[Graph], others: Iterable[Kernel] = ()) -> None:
        kernels: dict[str, Kernel] = {}
        for kernel in (*(kernel for graph in graphs for kernel in choose_kernels(graph).values()), *others):
            known = kernels.setdefault(kernel.name, kernel)
            assert (known.template, known.values) == (kernel.template, kernel.values), kernel.name
        sources = [render(f"kernels/{kernel.template}", **kernel.values) for kernel in kernels.values()]
        prototypes = [next(line for line in s.splitlines() if line.startswith("void ")) + ";" for s in sources]
        head = '#include <math.h>\n#include <stdint.h>\n#include "poet/math.h"\n#include "poet/random.h"\n'
        code = folder / "kernels.c"
        code.write_text(head + "\n".join(prototypes) + "\n" + "\n".join(sources))
        firmware = data_dir("firmware")
        target = folder / "kernels.so"
        files = [str(code), *(str(firmware / "src" / name) for name in ("math.c", "random.c"))]
        options = [*host_flags(), "-fPIC", "-shared", f"-I{firmware / 'include'}"]
        subprocess.run(["cc", *options, *files, "-o", str(target)], check=True)
        self._library = ctypes.CDLL(str(target))

    def function(self, name: str) -> Any:
        """A C function by name, of the kernels or of math.c."""
        return getattr(self._library, name)

    def run(self, graph: Graph, values: Arrays) -> Arrays:
        """Every tensor after running all nodes in order; what no kernel wrote is NaN.

        A kernel that may write over an input runs again so, and must give the same bits.
        """
        root = view_roots(graph)
        arrays = {
            name: np.full(tensor.elements, np.nan, np.float32)
            for name, tensor in graph.tensors.items()
            if root[name] == name
        }
        for name, value in values.items():
            dtype = np.int32 if graph.tensors[name].dtype is DType.INT32 else np.float32
            arrays[name] = np.ascontiguousarray(value, dtype).ravel().copy()
        for name, tensor in graph.tensors.items():
            if tensor.updates is not None:
                arrays[name] = arrays[tensor.updates].copy()
        for position, kernel in choose_kernels(graph).items():
            node = graph.nodes[position]
            self._call(kernel, [arrays[root[name]] for name in kernel.arguments])
            for old in registry.get(node.op).may_overwrite(graph, node):
                taken, result = root[node.inputs[old]], root[node.outputs[0]]
                shared = arrays[taken].copy()
                self._call(
                    kernel, [shared if root[n] in (taken, result) else arrays[root[n]] for n in kernel.arguments]
                )
                assert np.array_equal(shared.view(np.int32), arrays[result].view(np.int32)), f"{kernel.name} in place"
        return {name: arrays[root[name]].reshape(tensor.shape) for name, tensor in graph.tensors.items()}

    def _call(self, kernel: Kernel, arrays: list[np.ndarray[Any, Any]]) -> None:
        getattr(self._library, kernel.name)(*(array.ctypes.data_as(ctypes.c_void_p) for array in arrays))


def with_gradients(forward: Graph) -> Graph:
    """The forward graph and its backward pass from inputs 'seed.<output>' to 'd.<input>', for gradient_ends()."""
    ends = gradient_ends(forward)
    builder = GraphBuilder(forward.name, forward)
    seeds = {
        name: builder.tensor(Tensor(f"seed.{name}", forward.tensors[name].shape, kind=Kind.INPUT))
        for name in forward.outputs
    }
    tape = differentiate(builder, forward, reachable_from(forward, frozenset(ends)), seeds)
    graph = builder.graph([tape.grads[name] for name in ends])
    return graph


def gradient_ends(forward: Graph) -> list[str]:
    """All float inputs and parameters, but running statistics."""
    statistics = parameters_of(forward, Part.STATISTIC)
    ends = [t.name for t in forward.of_kind(Kind.INPUT, Kind.PARAM) if t.dtype is DType.FLOAT32]
    return [name for name in ends if name not in statistics]


def matrices(
    rng: random.Random, rows: int, inputs: int, outputs: int
) -> tuple[dict[str, AttrValue], tuple[int, ...], tuple[int, ...]]:
    """Random layouts of a fully connected layer: its attributes, and the shapes of x and y."""
    names = [name for name in ("x_by_feature", "y_by_feature") if rng.random() < 0.5]
    x, y = (inputs, rows) if "x_by_feature" in names else (rows, inputs), (rows, outputs)
    return dict.fromkeys(names, 1), x, y[::-1] if "y_by_feature" in names else y

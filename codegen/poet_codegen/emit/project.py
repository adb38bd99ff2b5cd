"""Renders all files of a project. Pure: the result is a mapping from path to bytes; the caller writes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from poet_solver.problem import PageCost
from poet_solver.schedule import Compute, Schedule

from poet_codegen.board import PAGE_HEADER_BYTES, Board
from poet_codegen.cost_model import CostModel
from poet_codegen.emit import initial
from poet_codegen.emit.frozen_pages import FROZEN_FILE, frozen_pages
from poet_codegen.emit.kernel_source import kernel_digest, kernel_source, kernels_digest
from poet_codegen.emit.layout import (
    FROZEN,
    Constant,
    Layout,
    ParamRow,
    PassLayout,
    build_layout,
    input_name,
    tensor_names,
)
from poet_codegen.emit.nests import Nest, Nests, steps_code
from poet_codegen.emit.pages import Pages
from poet_codegen.emit.steps import EmittedStep, emit_steps, kernels_of
from poet_codegen.emit.wrap import prototype, wrap_kernel
from poet_codegen.errors import ModelError
from poet_codegen.frozen import row_tables
from poet_codegen.graph import Array, DType, Graph, Kind, Tensor, model_digest
from poet_codegen.lower import Lowered
from poet_codegen.numerics import Numerics
from poet_codegen.ops.gather import index_range
from poet_codegen.ops.registry import Kernel
from poet_codegen.render import c_float, render
from poet_codegen.tiling.price import Overlap, device_cost, overlap

ABI = 5
"""POET_ABI of firmware/include/poet/model.h that the emitted code is written for; tests compare the two."""
_DIGEST_HEX = 32
_INPUTS_MOST = 32
"""POET_INPUTS_MOST of the same file."""


@dataclass(frozen=True)
class Pass:
    """One schedule to emit: the training step, or inference."""

    graph: Graph
    lowered: Lowered
    schedule: Schedule


@dataclass(frozen=True)
class BuildInput:
    """Everything a project is made from."""

    train: Pass
    infer: Pass
    weights: Mapping[str, Array]
    """As they lie on the device."""
    board: Board
    budget_bytes: int
    tool_version: str
    loss: str
    cost_source: str
    """Where the schedule's energies and times come from, in words."""
    numerics: Numerics


@dataclass(frozen=True)
class InputRow:
    """An input as the firmware's table and the manifest list it."""

    tensor: Tensor
    c_name: str
    least: int
    """Where int32 values pick rows of a table, each lies in [least, end)."""
    end: int
    """0: values are not checked."""
    at: int | None
    """Address of its page on storage; None: it is a static buffer."""


@dataclass(frozen=True)
class Emission:
    """What the C templates render."""

    tool_version: str
    board: str
    abi: int
    model_name: str
    model_digest: str
    schedule_digest: str
    model_digest_bytes: tuple[str, ...]
    schedule_digest_bytes: tuple[str, ...]
    arena_bytes: int
    peak_bytes: int
    budget_bytes: int
    pages_on: Pages
    offsets: tuple[Constant, ...]
    pages: tuple[Constant, ...]
    kernels: tuple[str, ...]
    """Rendered kernel functions."""
    prototypes: tuple[str, ...]
    nests: tuple[Nest, ...]
    """Loops that steps share."""
    steps: tuple[EmittedStep, ...]
    infer_steps: tuple[EmittedStep, ...]
    total_steps: int
    params: tuple[ParamRow, ...]
    inputs: tuple[InputRow, ...]
    label: Tensor
    output: Tensor
    classes: int
    """Of int32 labels; 0 for float32 ones."""
    loss: str
    numerics: str
    on_storage: frozenset[str]
    """Parameters whose initial values flash has no room for."""
    in_flash: frozenset[str]
    """Parameters whose values are in flash."""


def emit_project(build: BuildInput) -> dict[str, bytes]:
    """All model-dependent files of the project, by path below its root, the manifest included."""
    emission, weights = _emission(build)
    files: dict[str, str] = {
        "include/poet_generated.h": render("c/poet_generated.h.j2", e=emission),
        "include/poet_kernels.h": render("c/poet_kernels.h.j2", e=emission),
        "include/poet_weights.h": render("c/poet_weights.h.j2", e=emission),
        "src/poet_kernels.c": render("c/poet_kernels.c.j2", e=emission),
        "src/poet_model.c": render("c/poet_model.c.j2", e=emission),
        "src/poet_schedule.c": render("c/poet_schedule.c.j2", e=emission),
        "src/poet_infer.c": render("c/poet_infer.c.j2", e=emission),
        "src/poet_weights.c": render("c/poet_weights.c.j2", e=emission, values=weights),
        "manifest.json": json.dumps(_manifest(build, emission), indent=1) + "\n",
    }
    if emission.nests:
        files["include/poet_nests.h"] = render("c/poet_nests.h.j2", e=emission)
        files["src/poet_nests.c"] = render("c/poet_nests.c.j2", e=emission)
    encoded = {path: text.encode() for path, text in files.items()}
    if emission.on_storage:
        digest = bytes.fromhex(emission.model_digest)
        encoded[initial.FILE] = initial.initial_weights(digest, emission.params, build.weights, emission.pages_on)
    if emission.pages_on.frozen:
        tables = row_tables(build.train.graph, build.train.lowered.frozen)
        encoded[FROZEN_FILE] = frozen_pages(emission.params, tables, build.weights, emission.pages_on)
    return encoded


def _emission(build: BuildInput) -> tuple[Emission, dict[str, list[str]]]:
    train, infer = build.train, build.infer
    names = tensor_names(train.graph)
    both = [(one.lowered, one.schedule) for one in (train, infer)]
    layout = build_layout(build.board, train.graph, both)
    train_layout = PassLayout("AT", train.graph, train.lowered, train.schedule, names)
    infer_layout = PassLayout("INFER", infer.graph, infer.lowered, infer.schedule, names)

    def every_step(nests: Nests | None) -> tuple[tuple[EmittedStep, ...], tuple[EmittedStep, ...]]:
        first = emit_steps(train.graph, *both[0], train_layout, layout.pages[0], 0, nests)
        return first, emit_steps(infer.graph, *both[1], infer_layout, layout.pages[1], len(first), nests)

    nests = None
    if steps_code(build.board, train.graph, both).is_shared:
        alike = Nests()
        every_step(alike)
        nests = Nests(alike.seen)
    steps, infer_steps = every_step(nests)
    kernels = _kernels([train, infer])
    sources = tuple(wrap_kernel(kernel_source(kernel, build.board, build.numerics)) for kernel in kernels)
    model = model_digest(train.graph, build.weights, build.numerics)
    schedule = train.schedule.digest()
    fixed = [row for row in layout.params if not row.is_state]
    on_storage = initial.on_storage(build.board, train.graph, train.lowered)
    label, output = train.graph.one(Kind.LABEL), infer.graph.tensors[infer.graph.outputs[0]]
    emission = Emission(
        tool_version=build.tool_version,
        board=build.board.name,
        abi=ABI,
        model_name=train.graph.name,
        model_digest=model[:_DIGEST_HEX],
        schedule_digest=schedule[:_DIGEST_HEX],
        model_digest_bytes=_hex_bytes(model),
        schedule_digest_bytes=_hex_bytes(schedule),
        arena_bytes=max(train.schedule.arena_bytes, infer.schedule.arena_bytes),
        peak_bytes=train.schedule.peak_bytes,
        budget_bytes=build.budget_bytes,
        pages_on=layout.pages_on,
        offsets=(*train_layout.constants(), *infer_layout.constants()),
        pages=_unique_pages(layout),
        kernels=sources,
        prototypes=tuple(prototype(source) for source in sources),
        nests=nests.nests if nests is not None else (),
        steps=steps,
        infer_steps=infer_steps,
        total_steps=len(steps) + len(infer_steps),
        params=layout.params,
        inputs=_inputs(train, names, layout.pages_on),
        label=label,
        output=output,
        classes=output.elements // label.elements if label.dtype is DType.INT32 else 0,
        loss=build.loss,
        numerics=build.numerics.value,
        on_storage=on_storage,
        in_flash=frozenset(r.name for r in fixed if r.home != FROZEN and r.name not in on_storage),
    )
    values = {
        row.name: [c_float(float(v)) for v in np.ravel(build.weights[row.name])]
        for row in layout.params
        if row.name in emission.in_flash
    }
    return emission, values


def check_inputs(graph: Graph) -> None:
    """Raise ModelError for more inputs than firmware takes."""
    count = len(graph.of_kind(Kind.INPUT))
    if count > _INPUTS_MOST:
        raise ModelError(
            f"The model has {count} inputs; firmware takes {_INPUTS_MOST} at most. Export it with fewer, such as "
            "several joined into one that the model slices."
        )


def _inputs(train: Pass, names: Mapping[str, str], pages: Pages) -> tuple[InputRow, ...]:
    rows = []
    for tensor in train.graph.of_kind(Kind.INPUT):
        least, end = index_range(train.graph, tensor.name) or (0, 0)
        at = pages.address(pages.scratch[tensor.name]) if tensor.name in train.lowered.index else None
        rows.append(InputRow(tensor, input_name(names[tensor.name]), least, end, at))
    return tuple(rows)


def _kernels(passes: Iterable[Pass]) -> list[Kernel]:
    """Every kernel that a schedule calls once, in order of the nodes. Equal names must mean equal kernels."""
    found: dict[str, Kernel] = {}
    for one in passes:
        chosen = sorted({(s.op, s.mode) for s in one.schedule.steps if isinstance(s, Compute)})
        for kernel in (kernel for op, mode in chosen for kernel in kernels_of(one.graph, one.lowered, op, mode)):
            known = found.setdefault(kernel.name, kernel)
            assert (known.template, known.values) == (kernel.template, kernel.values), kernel.name
    return list(found.values())


def _unique_pages(layout: Layout) -> tuple[Constant, ...]:
    pages = {page for of_pass in layout.pages for page in of_pass.values()}
    return tuple(sorted(pages, key=lambda page: (page.value, page.name)))


def _hex_bytes(digest: str) -> tuple[str, ...]:
    return tuple(f"0x{digest[i : i + 2]}" for i in range(0, _DIGEST_HEX, 2))


def _manifest(build: BuildInput, e: Emission) -> dict[str, Any]:
    schedule, board = build.train.schedule, build.board
    energy = schedule.energy
    return {
        "format": 3,
        "tool_version": e.tool_version,
        "abi": e.abi,
        "model_digest": e.model_digest,
        "schedule_digest": e.schedule_digest,
        "board": {
            "id": board.name,
            "core": board.cpu.core,
            "clock_hz": board.cpu.clock_hz,
            "run_w": board.power.run_w.value,
            "sleep_w": board.power.sleep_w.value,
            "storage": board.storage.models,
            "kind": board.kind,
            "ram_bytes": board.ram.size_bytes,
            "baud": board.firmware.uart.baud,
            "qemu": _qemu(board),
        },
        "inputs": [{**_io(i.tensor), "index_range": [i.least, i.end] if i.end else None} for i in e.inputs],
        "loss": e.loss,
        "numerics": e.numerics,
        "label": {**_io(e.label), "classes": e.classes},
        "output": _io(e.output),
        "params": [
            {
                "index": p.index,
                "name": p.name,
                "shape": list(reversed(p.shape) if p.is_transposed else p.shape),
                "bytes": p.size_bytes,
                "home": p.home,
                "state": p.is_state,
                "transposed": p.is_transposed,
                "panels": p.panels,
            }
            for p in e.params
        ],
        "steps": [_step(s, build, build.train.graph) for s in e.steps],
        "infer_steps": [_step(s, build, build.infer.graph) for s in e.infer_steps],
        "arena_bytes": e.arena_bytes,
        "budget_bytes": e.budget_bytes,
        "peak_bytes": e.peak_bytes,
        "energy_j": {
            "compute": energy.compute,
            "recompute": energy.recompute,
            "page_in": energy.page_in,
            "page_out": energy.page_out,
            "idle": energy.idle,
            "source": build.cost_source,
        },
        "initial": {"file": initial.FILE, "address": initial.address(e.pages_on)} if e.on_storage else None,
        "frozen": {"file": FROZEN_FILE, "address": e.pages_on.frozen_at} if e.pages_on.frozen else None,
        "firmware_elf": "firmware.elf",
        "host_executable": "host/firmware",
    }


def _step(step: EmittedStep, build: BuildInput, graph: Graph) -> dict[str, Any]:
    board, numerics = build.board, build.numerics
    transfer, at_once = PageCost(0.0, 0.0), Overlap(0.0, 0.0)
    kernel = digest = ""
    if step.program is not None:
        sizes = {t.name: t.size_bytes for t in graph.tensors.values()}
        transfer = device_cost(step.program, board, sizes)
        forms = build.train.lowered.forms
        at_once = overlap(step.program, CostModel(board, None, numerics, forms), sizes)
        kernel, digest = step.program.profile_name, kernels_digest(step.kernels, board, numerics)
    elif step.kernels:
        kernel, digest = step.kernels[0].name, kernel_digest(step.kernels[0], board, numerics)
    else:
        page_bytes = step.size_bytes + PAGE_HEADER_BYTES
        transfer = board.page_in_cost(page_bytes) if step.do == "page_in" else board.page_out_cost(page_bytes)
    return {
        "index": step.index,
        "do": step.do,
        "name": step.title,
        "op": step.op,
        "recompute": step.recompute,
        "bytes": step.size_bytes,
        "macs": step.work.macs if step.work else 0,
        "elements": step.work.elements if step.work else 0,
        "kernel": kernel,
        "kernel_digest": digest,
        "transfer_s": transfer.time_s,
        "transfer_j": transfer.energy_j,
        "hidden_s": at_once.hidden_s,
        "hidden_within_s": at_once.processor_s,
        "energy_j": step.energy_j,
        "time_s": step.time_s,
    }


def _qemu(board: Board) -> dict[str, Any] | None:
    """How the machine and the storage device that the project pages to are emulated."""
    if board.qemu is None:
        return None
    device = board.storage.qemu
    image = {"bytes": device.image_bytes, "fill": 0xFF if device.erased else 0} if device.image_bytes else None
    return {"machine": board.qemu.machine, "args": [*board.qemu.args, *device.args], "image": image}


def _io(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype.value,
        "bytes": tensor.size_bytes,
    }

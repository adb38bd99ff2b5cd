"""How much code the kernels may be: which of them give up their fastest form so that a build fits its flash.

Sizes are estimated from the text that is compiled, without a compiler: an instruction of assembly is four bytes, a line
of C about ten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from poet_codegen.board import Board
from poet_codegen.cycles import cycle_table
from poet_codegen.forms import Form, form_cycles, in_form
from poet_codegen.graph import Graph, Kind
from poet_codegen.numerics import Numerics
from poet_codegen.ops import registry
from poet_codegen.ops.registry import Kernel, Work
from poet_codegen.render import render

_INSTRUCTION_BYTES = 4
_C_LINE_BYTES = 10
_FUNCTION_BYTES = 60
FIRMWARE_BYTES = 48 * 1024
"""Of everything but kernels, weights and the schedule."""
_OP_BYTES = 100
"""Of a step of the schedule, in training and in inference."""
_WEIGHTS_SHARE = 0.75
"""Of flash, at most for initial weights."""


def code_bytes(kernel: Kernel, numerics: Numerics = Numerics.SEPARATE) -> int:
    """About how much code the board's form of a kernel is."""
    is_fused = numerics is Numerics.FUSED
    blocked = kernel.blocked
    if blocked is None or (is_fused and not blocked.fuses):
        template, values = kernel.template, kernel.values
    else:
        template, values = blocked.template, blocked.render_values(is_fused)
    lines = render(f"kernels/{template}", **values).splitlines()
    assembly = sum(line.lstrip().startswith('"') for line in lines)
    return _FUNCTION_BYTES + _INSTRUCTION_BYTES * assembly + _C_LINE_BYTES * (len(lines) - assembly)


def weights_fit(board: Board, weight_bytes: int) -> bool:
    """Whether so many bytes of initial weights leave the board's flash enough for code; else storage brings them."""
    return weight_bytes <= _WEIGHTS_SHARE * board.flash.size_bytes


def budget_of(board: Board, graph: Graph) -> int:
    """Bytes that the board's flash leaves for kernels beside the firmware, the schedule and the initial weights."""
    weights = sum(tensor.size_bytes for tensor in graph.of_kind(Kind.PARAM, Kind.CONSTANT))
    if not weights_fit(board, weights):
        weights = 0  # they come with the storage image
    return board.flash.size_bytes - FIRMWARE_BYTES - _OP_BYTES * len(graph.nodes) - weights


def choose_forms(
    graphs: Iterable[Graph], board: Board, budget_bytes: int, numerics: Numerics = Numerics.SEPARATE
) -> Mapping[str, Form]:
    """Kernel name -> form, of those that cannot have their fastest one.

    All begin with it. While they are too large, the step to a smaller form that costs the fewest cycles a byte is
    taken. Where even the smallest forms are too large, these are the answer: the linker says by how much.
    """
    if board.cpu.fpu is None:
        return {}
    table = cycle_table(board.cpu.cycle_table)
    kernels: dict[str, tuple[Kernel, Work]] = {}
    calls: Counter[str] = Counter()
    for graph in graphs:
        for node in graph.nodes:
            rule = registry.get(node.op)
            for variant in () if rule.is_view else rule.variants(graph, node):
                kernels[variant.kernel.name] = (variant.kernel, variant.work)
                calls[variant.kernel.name] += 1
    fast = {name: code_bytes(kernel, numerics) for name, (kernel, _) in kernels.items()}
    total = sum(fast.values())
    if total <= budget_bytes:
        return {}
    sizes = {
        name: {form: code_bytes(in_form(kernel, form), numerics) for form in Form}
        for name, (kernel, _) in kernels.items()
    }
    cycles = {
        name: {form: calls[name] * form_cycles(table, work, form, numerics) for form in Form}
        for name, (_, work) in kernels.items()
    }
    chosen = dict.fromkeys(kernels, Form.FAST)
    while total > budget_bytes:
        steps = [
            ((cycles[name][form] - cycles[name][now]) / (sizes[name][now] - sizes[name][form]), name, form)
            for name, now in chosen.items()
            for form in Form
            if sizes[name][form] < sizes[name][now]
        ]
        if not steps:
            break
        _, name, form = min(steps)
        total += sizes[name][form] - sizes[name][chosen[name]]
        chosen[name] = form
    return {name: form for name, form in chosen.items() if form is not Form.FAST}

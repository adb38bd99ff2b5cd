"""A code budget takes smaller forms where that costs least, and no more than it must; all forms have the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
from poet_codegen.code_budget import choose_forms, code_bytes
from poet_codegen.cycles import cycle_table
from poet_codegen.emit.steps import kernels_of
from poet_codegen.forms import Form, form_cycles, in_form
from poet_codegen.graph import AttrValue
from poet_codegen.lower import Home
from poet_codegen.numerics import Numerics
from poet_codegen.ops.registry import Work
from poet_codegen.plan import Plan, make_plan, make_request
from poet_codegen.recipe import DEFAULT_RECIPE

from .kernel_program import Case, case, differing
from .test_on_host import BOARD, Maker, run
from .test_tiles_on_host import images


def test_compact_forms_have_the_bits_of_the_plain_kernels(tmp_path: Path) -> None:
    same: dict[str, AttrValue] = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "groups": 1}
    deep = same | {"groups": 12}
    cases = [
        case("Conv", [(1, 12, 11, 13), (12, 1, 3, 3), (12,)], deep),
        case("ConvInputGrad", [(1, 12, 11, 13), (12, 1, 3, 3)], deep | {"extent": (11, 13)}),
        case("ConvWeightGrad", [(1, 5, 11, 13), (1, 7, 11, 13)], same | {"kernel": (3, 3)}),
        case("Dense", [(8, 37), (29, 37), (29,)], {"transposed": 1}),
        case("DenseInputGrad", [(8, 29), (29, 37)], {"transposed": 1}),
        case("DenseWeightGrad", [(8, 37), (8, 29)], {"transposed": 1}),
        case("MatMul", [(23, 31), (31, 19)], {"trans_a": 0, "trans_b": 0}),
    ]
    assert differing([compact(c) for c in cases], tmp_path) == []


def compact(c: Case) -> Case:
    """The case with the compact form; that must be smaller."""
    small = in_form(c.kernel, Form.COMPACT)
    assert code_bytes(small) < code_bytes(c.kernel), c.text
    ((_, tensors),) = c.steps
    return replace(c, steps=((small, tensors),))


def test_a_compact_form_costs_less_than_the_plain_one_with_fused_numerics_too() -> None:
    table, work = cycle_table("cortex-m7"), Work("conv2d", macs=1000)
    fast, compact, plain = (form_cycles(table, work, form, Numerics.FUSED) for form in Form)
    assert fast < compact < plain
    assert compact < form_cycles(table, work, Form.FAST, Numerics.SEPARATE)


def test_a_smaller_budget_takes_smaller_forms_and_no_bit_changes(make_model: Maker, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(images(make_model), path)

    def plan(budget: int | None) -> Plan:
        request = make_request(path, BOARD, 100_000, None, Home.RAM, DEFAULT_RECIPE, "keep", 0, code_bytes=budget)
        return make_plan(request, path, threads=1, time_limit_s=3)

    roomy = plan(None)
    assert not roomy.costs.forms
    graphs = (roomy.train.graph, roomy.infer.graph)
    sizes, times = [], []
    for budget in (60_000, 40_000, 20_000, 0):
        small = plan(budget)
        kernels = {
            kernel.name: kernel
            for one in (small.train, small.infer)
            for op in range(len(one.lowered.nodes))
            for kernel in kernels_of(one.graph, one.lowered, op, 0)
        }
        sizes.append(sum(map(code_bytes, kernels.values())))
        times.append(small.train.schedule.time_s)
        assert small.costs.forms == choose_forms(graphs, small.board, budget)
        assert sizes[-1] <= budget or budget == 0
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 2 * sizes[-1]
    assert times == sorted(times)
    assert run(plan(0), tmp_path / "small") == run(roomy, tmp_path / "roomy")

"""Blocked kernels for the Cortex-M4F have the bits of the plain ones, whatever the shape."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from poet_codegen.graph import AttrValue
from poet_codegen.m4f.pipeline import Assembly
from poet_codegen.ops.optimizers import rule_of, state_of, update_attrs
from poet_codegen.ops.split import CONTINUES
from poet_codegen.recipe import Optimizer, Recipe

from tests.codegen.host_kernels import matrices
from tests.codegen.kernel_program import Case, case, differing

RECIPES = (
    Recipe(),
    Recipe(momentum=0.9),
    Recipe(momentum=0.9, nesterov=True, weight_decay=0.01),
    Recipe(optimizer=Optimizer.ADAM),
    Recipe(optimizer=Optimizer.ADAMW, accumulate=3),
)


SHAPES = given(rng=st.randoms(use_true_random=True))
PROGRAMS = settings(max_examples=2, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
"""Each example is a program of many shapes: to build and emulate one takes seconds."""
Folders = pytest.TempPathFactory


def convolution(
    rng: random.Random, op: str, batch: int, group_in: int, size: tuple[int, int], group_out: int, groups: int
) -> Case | None:
    """A convolution with a random window; None where it has no output, or no blocks."""
    kernel = (rng.choice([1, 2, 3, 5, 7]), rng.choice([1, 2, 3, 5, 7]))
    strides = (rng.choice([1, 1, 2, 3]), rng.choice([1, 1, 2, 3]))
    dilations = (rng.choice([1, 1, 2]), rng.choice([1, 1, 2]))
    pads = tuple(rng.randrange(0, kernel[i % 2]) for i in range(4))
    window: dict[str, AttrValue] = {"strides": strides, "dilations": dilations, "pads": pads, "groups": groups}
    out = [(size[a] + pads[a] + pads[a + 2] - dilations[a] * (kernel[a] - 1) - 1) // strides[a] + 1 for a in (0, 1)]
    if min(out) < 1:
        return None
    if rng.random() < 0.3:
        window[CONTINUES] = 1
    x = (batch, group_in * groups, *size)
    w = (group_out * groups, group_in, *kernel)
    dy = (batch, group_out * groups, *out)
    if op == "Conv":
        made = case(op, [x, w, w[:1]] if rng.random() < 0.5 else [x, w], window)
    elif op == "ConvInputGrad":
        made = case(op, [dy, w], window | {"extent": size})
    else:
        made = case(op, [x, dy], window | {"kernel": kernel})
    return made if made.kernel.blocked else None


@PROGRAMS
@SHAPES
def test_random_convolutions_have_the_bits_of_the_plain_kernels(rng: random.Random, tmp_path_factory: Folders) -> None:
    cases: list[Case] = []
    while len(cases) < 50:
        op = rng.choice(["Conv", "ConvInputGrad", "ConvWeightGrad"])
        size = (rng.choice([1, 2, 3, 5, 8, 11, 16]), rng.choice([1, 2, 3, 5, 7, 8, 12, 16, 17, 24, 33]))
        drawn = convolution(
            rng,
            op,
            rng.choice([1, 2]),
            rng.choice([1, 2, 3, 5]),
            size,
            rng.choice([1, 2, 3, 4, 7]),
            rng.choice([1, 1, 2]),
        )
        cases += [drawn] if drawn else []
    assert differing(cases, tmp_path_factory.mktemp("shapes")) == []


@PROGRAMS
@SHAPES
def test_random_dense_layers_have_the_bits_of_the_plain_kernels(rng: random.Random, tmp_path_factory: Folders) -> None:
    cases: list[Case] = []
    while len(cases) < 45:
        batch, inputs, outputs = rng.choice([1, 1, 2, 3, 4, 7, 8]), rng.randrange(1, 41), rng.randrange(1, 41)
        transposed = rng.choice([0, 1])
        w = (outputs, inputs) if transposed else (inputs, outputs)
        attrs: dict[str, AttrValue] = {"transposed": transposed}
        bias = [(outputs,)] if rng.random() < 0.5 else []
        goes_on: dict[str, AttrValue] = {CONTINUES: 1} if rng.random() < 0.3 else {}
        layout, x, y = matrices(rng, batch, inputs, outputs)
        attrs |= layout
        forward = case("Dense", [x, w, *bias], attrs | goes_on)
        cases += [forward, case("DenseInputGrad", [y, w], attrs | goes_on)]
        cases.append(case("DenseWeightGrad", [x, y], attrs))
    assert differing(cases, tmp_path_factory.mktemp("shapes")) == []


def update_case(
    gradient: str, dw: tuple[int, ...], operands: Sequence[tuple[int, ...]], attrs: dict[str, AttrValue], recipe: Recipe
) -> Case:
    """The gradient op on operands of these shapes, fused with a recipe's update."""
    rule = rule_of(recipe)
    shapes = [dw, *(dw for _ in state_of(recipe)), *operands, (1,)]
    reads_step = rule.reads_step or recipe.accumulate > 1
    ends = {len(shapes): 6} if reads_step else {}
    return case(f"{gradient}{rule.op}", [*shapes, *((1,) for _ in ends)], attrs | update_attrs(recipe), ends=ends)


def test_updates_fused_with_weight_gradients_have_the_bits_of_the_plain_kernels(tmp_path: Path) -> None:
    rng = random.Random(13)
    point: dict[str, AttrValue] = {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0)}
    window = point | {"pads": (1, 1, 1, 1)}
    cases: list[Case] = []
    for recipe in RECIPES:
        for batch in (1, 1, 2, 8):
            inputs, outputs, transposed = rng.randrange(1, 35), rng.randrange(1, 35), rng.choice([0, 1])
            dw = (outputs, inputs) if transposed else (inputs, outputs)
            layout, *operands = matrices(rng, batch, inputs, outputs)
            cases.append(update_case("DenseWeightGrad", dw, operands, {"transposed": transposed} | layout, recipe))
        for attrs in (point, window):
            size = (rng.randrange(1, 9), rng.randrange(1, 9))
            channels = rng.randrange(1, 8)
            bias = [(rng.choice([1, 3]), channels, *size)]
            cases.append(update_case("ConvBiasGrad", (channels,), bias, {}, recipe))
            groups, kernel = rng.choice([1, 2]), (1, 1) if attrs is point else (3, 3)
            operands, dw = [(2, 6, *size), (2, 4, *size)], (4, 6 // groups, *kernel)
            more: dict[str, AttrValue] = {"groups": groups, "kernel": kernel}
            cases.append(update_case("ConvWeightGrad", dw, operands, attrs | more, recipe))
    assert differing([c for c in cases if c.kernel.blocked], tmp_path) == []


@PROGRAMS
@SHAPES
def test_random_matrix_products_have_the_bits_of_the_plain_kernels(
    rng: random.Random, tmp_path_factory: Folders
) -> None:
    cases: list[Case] = []
    while len(cases) < 25:
        lead = rng.choice([(), (3,), (2, 2)])
        rows, columns, depth = (rng.randrange(1, 18) for _ in range(3))
        trans_b = rng.choice([0, 1])
        b = (*lead, columns, depth) if trans_b else (*lead, depth, columns)
        trans_a = rng.choice([0, 1])
        a = (*lead, depth, rows) if trans_a else (*lead, rows, depth)
        attrs: dict[str, AttrValue] = {"trans_a": trans_a, "trans_b": trans_b}
        # As a gradient that is summed over the matrices, or with one matrix on the right.
        summed: dict[str, AttrValue] = {"shape": (rows, columns)} if lead and rng.random() < 0.3 else {}
        if lead and not trans_a and rng.random() < 0.3:
            summed, b = {}, b[-2:]
        cases.append(case("MatMul", [a, b], attrs | summed))
    assert differing(cases, tmp_path_factory.mktemp("shapes")) == []


def test_common_convolutions_have_blocks(tmp_path: Path) -> None:
    same: dict[str, AttrValue] = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "groups": 1}
    half: dict[str, AttrValue] = same | {"strides": (2, 2)}
    cases = [
        case("Conv", [(1, 16, 32, 32), (16, 16, 3, 3), (16,)], same),
        case("ConvInputGrad", [(1, 16, 32, 32), (16, 16, 3, 3)], same | {"extent": (32, 32)}),
        case("Conv", [(1, 16, 32, 32), (32, 16, 3, 3), (32,)], half),
        case("ConvInputGrad", [(1, 32, 16, 16), (32, 16, 3, 3)], half | {"extent": (32, 32)}),
        case("Conv", [(1, 16, 24, 24), (16, 1, 3, 3), (16,)], same | {"groups": 16}),
        case("ConvInputGrad", [(1, 16, 9, 24), (16, 1, 3, 3)], same | {"groups": 16, "extent": (9, 24)}),
        case("Conv", [(2, 6, 9, 12), (8, 3, 1, 1), (8,)], half | {"pads": (0, 0, 0, 0), "groups": 2}),
        case("ConvInputGrad", [(2, 8, 5, 6), (8, 3, 1, 1)], half | {"pads": (0,) * 4, "groups": 2, "extent": (9, 12)}),
        case("ConvWeightGrad", [(1, 1, 49, 10), (1, 64, 25, 5)], half | {"pads": (4, 1, 5, 1), "kernel": (10, 4)}),
        case("ConvWeightGrad", [(1, 16, 32, 32), (1, 16, 32, 32)], same | {"kernel": (3, 3)}),
        case("ConvWeightGrad", [(2, 3, 32, 32), (2, 16, 16, 16)], half | {"kernel": (3, 3)}),
    ]
    assert differing(cases, tmp_path) == []


def test_a_sum_of_one_product_begins_with_zero_where_the_plain_kernel_does() -> None:
    """0 + -0 is 0: the form without a sum is for gradients of dense layers alone."""
    attrs: dict[str, AttrValue] = {"strides": (1, 1), "dilations": (1, 1), "pads": (0,) * 4, "groups": 1}
    pixel = case("ConvWeightGrad", [(1, 4, 1, 1), (1, 6, 1, 1)], attrs | {"kernel": (1, 1)}).kernel.blocked
    layer = case("DenseWeightGrad", [(1, 4), (1, 6)], {"transposed": 1}).kernel.blocked
    assert pixel and layer and (pixel.template, layer.template) == ("product_m4f.c.j2", "outer_m4f.c.j2")


def test_products_wait_for_nobody_and_keep_their_order() -> None:
    asm = Assembly((28, 29, 30, 31))
    for total, a, b in [(0, 8, 16), (1, 8, 17), (0, 9, 16)]:
        asm.add_product(total, a, b)
    asm.finish_sums()
    sums = [line for line in asm.lines if line.startswith("vadd")]
    assert [line.split()[1] for line in sums] == ["s0,", "s1,", "s0,"]
    for line, after in zip(asm.lines, asm.lines[1:], strict=False):
        written = line.split()[1].rstrip(",")
        assert written not in [operand.rstrip(",") for operand in after.split()[2:]], (line, after)

"""Kernels in lanes on the Cortex-M4F have the bits of the plain ones, whatever the length of their rows."""

from __future__ import annotations

import random
from pathlib import Path

from poet_codegen.graph import AttrValue
from poet_codegen.ops import registry
from poet_codegen.ops.pointwise import Pointwise

from tests.codegen.kernel_program import Case, case, differing

EPSILON: dict[str, AttrValue] = {"epsilon": 1e-5}


def row(rng: random.Random) -> int:
    """With and without whole blocks, and what is left of one."""
    return rng.choice([7, 8, 9, 15, 16, 17, 23, 32, 61])


def pointwise(rng: random.Random, op: Pointwise) -> Case:
    """On tensors of one shape, or with an operand that is broadcast along some axis."""
    shape = (rng.randrange(1, 4), row(rng))
    smaller = [shape, shape, shape[1:], (shape[0], 1), (1,)]
    count = len(op.formula.operands)
    shapes = [shape, *(rng.choice(smaller) for _ in range(count - 1))]
    rng.shuffle(shapes)
    return case(op.name, shapes, dict.fromkeys(op.formula.constants, 0.5))


def test_every_pointwise_op(tmp_path: Path) -> None:
    rng = random.Random(3)
    ops = [op for op in registry.all_ops() if isinstance(op, Pointwise)]
    cases = [drawn for op in ops for drawn in (pointwise(rng, op), pointwise(rng, op)) if drawn.kernel.blocked]
    assert len(cases) > len(ops) / 2
    assert differing(cases, tmp_path) == []


def test_every_kernel_along_rows(tmp_path: Path) -> None:
    rng = random.Random(4)
    cases: list[Case] = []
    for _ in range(5):
        n, rows, columns = rng.randrange(1, 3), rng.randrange(1, 4), row(rng)
        flat, image, channel = (rows, columns), (n, rows, columns), (rows,)
        axis: dict[str, AttrValue] = {"axes": (1, 2)}
        cases += [
            case("Softmax", [flat], axis),
            case("SoftmaxGrad", [flat, flat], axis),
            case("LogSoftmax", [flat], axis),
            case("LayerNormalization", [flat], EPSILON | {"axis": 1}),
            case("LayerNormalizationGrad", [flat, (rows, 1), flat], EPSILON | {"axis": 1}),
            case("BatchNormalization", [image, channel, channel, channel, channel], EPSILON, sizes=[4]),
            case("BatchStatistics", [image], {}),
            case("BatchNormalizationInputGrad", [channel, channel, image], EPSILON, sizes=[1]),
            case("BatchNormalizationScaleGrad", [image, channel, channel, image], EPSILON, sizes=[2]),
            case("BatchNormalizationTrainInputGrad", [image, *[channel] * 5, image], EPSILON, sizes=[3]),
            case("ConvBiasGrad", [image], {}),
            case("ConvBiasGradMomentum", [channel, channel, image, (1,)], {"momentum": 0.9}),
        ]
    cases = [drawn for drawn in cases if drawn.kernel.blocked]
    assert len(cases) > 30
    assert differing(cases, tmp_path) == []

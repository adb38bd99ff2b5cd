"""No kernel of the registry reads or writes outside its tensors, in either form, whatever the shapes.

On this machine AddressSanitizer forbids every word around the tensors, for reading too, and UBSan looks at the
arithmetic. On the target guard words lie there, and nothing but the outputs may change.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from poet_codegen.graph import AttrValue
from poet_codegen.onnx_import import import_onnx
from poet_codegen.ops import registry
from poet_codegen.ops.backward import Backward
from poet_codegen.ops.chain import Chain
from poet_codegen.ops.optimizers import RULES, Rule
from poet_codegen.ops.pointwise import Pointwise

from tests.codegen import test_ops_gradients as pointwise_strategies
from tests.codegen import test_ops_layers as layer_strategies
from tests.codegen.host_kernels import matrices, with_gradients
from tests.codegen.kernel_program import CORES, Case, build_program, case, failures, graph_case, outcomes, own_forms
from tests.codegen.op_cases import Case as Model
from tests.codegen.test_lanes import EPSILON, pointwise, row
from tests.codegen.test_m4f import convolution

WINDOW: dict[str, AttrValue] = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "groups": 1}
STRATEGIES: Sequence[st.SearchStrategy[Model]] = (
    pointwise_strategies.choice(),
    pointwise_strategies.variadic(),
    layer_strategies.reduction(),
    layer_strategies.product(),
    layer_strategies.pooling(),
    layer_strategies.pooling_up(),
    layer_strategies.resizing(),
    layer_strategies.line(),
    layer_strategies.move(),
    layer_strategies.normalization(),
    layer_strategies.group_normalization(),
    layer_strategies.across_channels(),
)


def drawn(strategy: st.SearchStrategy[Model], examples: int) -> list[Case]:
    """The nodes of drawn models and of their gradients."""
    found: list[Case] = []

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(model: Model) -> None:
        found.append(graph_case(with_gradients(import_onnx(model.model()).graph)))

    collect()
    return [c for c in found if c.steps]  # some are views alone


def convolutions(rng: random.Random) -> list[Case]:
    """Every gradient of convolutions of odd shapes: one channel, one pixel, strides beyond the kernel."""
    found: list[Case] = []
    while len(found) < 24:
        op = rng.choice(["Conv", "ConvInputGrad", "ConvWeightGrad"])
        size = (rng.choice([1, 2, 5, 11]), rng.choice([1, 3, 8, 17]))
        group_in, group_out = rng.choice([1, 3]), rng.choice([1, 2, 5])
        made = convolution(rng, op, rng.choice([1, 2]), group_in, size, group_out, rng.choice([1, 1, 3]))
        found += [made] if made else []
    return found


def products(rng: random.Random) -> list[Case]:
    found = []
    for _ in range(4):
        batch, inputs, outputs = rng.choice([1, 3, 8]), rng.randrange(1, 30), rng.randrange(1, 30)
        transposed = rng.choice([0, 1])
        w = (outputs, inputs) if transposed else (inputs, outputs)
        layout, x, y = matrices(rng, batch, inputs, outputs)
        attrs: dict[str, AttrValue] = {"transposed": transposed} | layout
        found += [
            case("Dense", [x, w, (outputs,)], attrs),
            case("DenseInputGrad", [y, w], attrs),
            case("DenseWeightGrad", [x, y], attrs),
        ]
    return found


def batch_norms(rng: random.Random) -> list[Case]:
    found = []
    for _ in range(3):
        channels = rng.randrange(1, 4)
        image, each = (rng.randrange(1, 3), channels, row(rng)), (channels,)
        found += [
            case("BatchNormalization", [image, *[each] * 4], EPSILON, sizes=[4]),
            case("BatchNormalizationTrain", [image, *[each] * 4], EPSILON, sizes=[4]),
            case("BatchStatistics", [image], {}),
            case("BatchNormalizationInputGrad", [each, each, image], EPSILON, sizes=[1]),
            case("BatchNormalizationScaleGrad", [image, each, each, image], EPSILON, sizes=[2]),
            case("BatchNormalizationTrainInputGrad", [image, *[each] * 5, image], EPSILON, sizes=[3]),
        ]
    numbers: dict[str, AttrValue] = {"momentum": 0.1, "correction": 1.5}
    return [*found, case("RunningUpdate", [(5,), (5,), (2, 3)], numbers)]


def losses(rng: random.Random) -> list[Case]:
    n, classes = rng.randrange(1, 5), rng.randrange(2, 12)
    shape = (n, classes)
    return [
        case("SoftmaxCrossEntropy", [shape, (n,)], {}, ends={1: classes}),
        case("SoftCrossEntropy", [shape, shape], {}),
        case("MeanSquaredError", [shape, shape], {}),
        case("BinaryCrossEntropy", [shape, shape], {}),
    ]


def updates(rng: random.Random) -> list[Case]:
    """Every optimizer with every gradient that it fuses with, and alone; some over micro-batches."""
    gradients: list[tuple[str, tuple[int, ...], list[tuple[int, ...]], dict[str, AttrValue]]] = [
        ("", (3, 7), [(3, 7)], {}),
        ("ConvBiasGrad", (3,), [(2, 3, 5)], {}),
        ("ConvWeightGrad", (2, 3, 3, 3), [(2, 3, 5, 7), (2, 2, 5, 7)], WINDOW | {"kernel": (3, 3)}),
        ("DenseWeightGrad", (5, 9), [(3, 9), (3, 5)], {"transposed": 1}),
        ("GatherGrad", (7, 3), [(2, 4), (2, 4, 3)], {"axis": 0, "shape": (7, 3)}),
    ]
    return [
        updated(rule, name, w, reads, attrs, accumulate)
        for name, w, reads, attrs in gradients
        for rule in RULES
        for accumulate in ({rng.choice([1, 3])} if name else {1, 3})
    ]


def updated(
    rule: Rule,
    gradient: str,
    w: tuple[int, ...],
    reads: list[tuple[int, ...]],
    attrs: dict[str, AttrValue],
    accumulate: int,
) -> Case:
    numbers: dict[str, AttrValue] = {**attrs, **dict.fromkeys(rule.constants, 0.5)}
    numbers |= {"accumulate": accumulate} if accumulate > 1 else {}
    versions = 1 + len(rule.state) + (accumulate > 1)
    has_step = rule.reads_step or accumulate > 1
    shapes = [*[w] * versions, *reads, (1,), *([(1,)] if has_step else [])]
    ends = {len(shapes) - 1: 100} if has_step else {}
    ends |= {versions: 7} if gradient == "GatherGrad" else {}
    return case(f"{gradient}{rule.op}", shapes, numbers, ends=ends)


def all_cases() -> list[Case]:
    rng = random.Random(6)
    ops = [op for op in registry.all_ops() if isinstance(op, Pointwise)]
    drop: dict[str, AttrValue] = {"ratio": 0.3, "seed": 5, "number": 1}
    table: dict[str, AttrValue] = {"axis": 0, "shape": (7, 3)}
    return [
        *(found for strategy in STRATEGIES for found in drawn(strategy, 5)),
        *(pointwise(rng, op) for op in ops),
        *convolutions(rng),
        *products(rng),
        *batch_norms(rng),
        *losses(rng),
        *updates(rng),
        *(case("ConvWinograd", [(2, 3, 5, 7), (4, 3, 3, 3), (4,)], WINDOW, variant=v) for v in (0, 1)),
        case("RandomDropout", [(3, 7), (1,)], drop, ends={1: 100}),
        case("Gather", [(7, 3), (2, 4)], {"axis": 0, "shape": (2, 4, 3)}, ends={1: 7}),
        case("GatherGrad", [(2, 4), (2, 4, 3)], table, ends={0: 7}),
        case("ConvBiasGrad", [(2, 3, 5)], {}),
    ]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    found = all_cases()
    # Pad imports as Place and Slice; Backward and Chain call the kernels of others.
    own = (op for op in registry.all_ops() if not op.is_view and not isinstance(op, Backward | Chain))
    kernels = {op.name for op in own} - {"Pad"}
    assert kernels == {op for c in found for op in c.ops}, "ops without a case here"
    return found


def test_nothing_is_read_or_written_outside_on_this_machine(cases: list[Case], tmp_path: Path) -> None:
    forms = [own_forms(c, number)[:1] for number, c in enumerate(cases)]
    elf = build_program(cases, forms, tmp_path, CORES["sanitizers"])
    assert failures(cases, outcomes(elf, CORES["sanitizers"])) == []


def test_the_sanitizer_sees_one_word_beside_a_tensor(tmp_path: Path) -> None:
    made = case("Relu", [(5,)], {})
    (form,) = own_forms(made, 0)[:1]
    for number, wrong in enumerate(("y[0] = x[5];", "y[0] = x[-1];", "y[5] = x[0];", "y[-1] = x[0];")):
        folder = tmp_path / str(number)
        folder.mkdir()
        source = form.sources[0].replace("{\n", "{\n    " + wrong + "\n", 1)
        forms = [[type(form)(form.title, (source,), form.call)]]
        with pytest.raises(RuntimeError, match="AddressSanitizer: use-after-poison"):
            outcomes(build_program([made], forms, folder, CORES["sanitizers"]), CORES["sanitizers"])


@pytest.mark.emulated
def test_nothing_is_written_outside_on_the_target(cases: list[Case], tmp_path: Path) -> None:
    forms = [own_forms(c, number) for number, c in enumerate(cases)]
    assert sum(len(own) == 2 for own in forms) > 60
    elf = build_program(cases, forms, tmp_path, CORES["cortex-m4"])
    assert failures(cases, outcomes(elf, CORES["cortex-m4"])) == []

"""Dropout: the generator's known answers, its statistics, gradients with the mask given, and bits at any budget."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from poet_codegen.errors import ModelError
from poet_codegen.graph import Graph, GraphBuilder, Kind, Node, Tensor
from poet_codegen.lower import Home
from poet_codegen.onnx_import import import_onnx
from poet_codegen.plan import Plan, build_graphs, make_plan, make_request
from poet_codegen.recipe import Dropouts, Recipe, RecipeError

from .host_kernels import HostKernels, with_gradients
from .test_on_host import BOARD, PLENTY, run

node = helper.make_node
Array = np.ndarray[Any, Any]
MASK32 = (1 << 32) - 1
CLASSES = 3


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> list[int]:
    """Philox4x32-10 again, as the paper writes it, in Python's integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k[0], second & MASK32, (first >> 32) ^ c[3] ^ k[1], first & MASK32]
        k = [(k[0] + 0x9E3779B9) & MASK32, (k[1] + 0xBB67AE85) & MASK32]
    return c


def mask_of(elements: int, ratio: float, seed: int, number: int, step: int) -> Array:
    """What the kernel keeps."""
    words = [word for k in range(-(-elements // 4)) for word in philox((k, step, 0, 0), (seed, number))]
    return np.array(words[:elements], np.float64) >= round(ratio * 2**32)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0,) * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((MASK32,) * 4, (MASK32,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, ...], expected: str) -> None:
    """Those of Random123's kat_vectors: they hold for the oracle here, and the kernel is compared with the oracle."""
    assert [f"{word:08x}" for word in philox(counter, key)] == expected.split()


def dropout_graph(elements: int, streams: list[tuple[float, int, int]]) -> Graph:
    """One RandomDropout of the same x for each (ratio, seed, number); results y0, y1, ..."""
    builder = GraphBuilder("drops")
    x = builder.tensor(Tensor("x", (elements,), kind=Kind.INPUT))
    step = builder.step()
    for index, (ratio, seed, number) in enumerate(streams):
        y = builder.tensor(Tensor(f"y{index}", (elements,)))
        attrs = {"ratio": ratio, "seed": seed, "number": number}
        builder.node(Node("RandomDropout", (x, step), (y,), "drop", attrs=attrs))
    return builder.graph([f"y{index}" for index in range(len(streams))])


@pytest.mark.parametrize("elements", [1, 4, 7, 250])
def test_kernel_draws_the_oracle_s_mask(run_graph: Callable[..., Any], elements: int) -> None:
    streams = [(0.3, 0, 0), (0.5, MASK32, 2), (0.999, 7, 1)]
    graph = dropout_graph(elements, streams)
    x = np.random.default_rng(0).standard_normal(elements).astype(np.float32)
    for step in (0, 1, 1_000_000):
        result = run_graph(graph, {"x": x, "step": np.array([step])})
        for index, stream in enumerate(streams):
            expected = np.where(mask_of(elements, *stream, step), x * np.float32(1.0 / (1.0 - stream[0])), 0)
            assert np.array_equal(result[f"y{index}"], expected.astype(np.float32))


def test_statistics(tmp_path: Path) -> None:
    """Mean and variance of what is kept; no correlation between elements, steps, Dropouts or seeds.

    Bounds are 4.5 standard deviations of independent draws.
    """
    elements = 1 << 16
    streams = [(0.1, 0, 0), (0.5, 0, 0), (0.5, 0, 1), (0.5, 1, 0), (0.8, 5, 3)]
    graph = dropout_graph(elements, streams)
    kernels = HostKernels(tmp_path, [graph])
    ones = np.ones(elements, np.float32)
    kept: dict[tuple[int, int], Array] = {}
    for step in (0, 1, 2):
        result = kernels.run(graph, {"x": ones, "step": np.array([step])})
        for index, (ratio, *_) in enumerate(streams):
            y = result[f"y{index}"].astype(np.float64)
            kept[index, step] = mask = y != 0
            deviation = np.sqrt(ratio * (1 - ratio) / elements)
            assert abs(mask.mean() - (1 - ratio)) < 4.5 * deviation
            assert abs(y.mean() - 1.0) < 4.5 * deviation / (1 - ratio)
            variance = ratio / (1 - ratio)
            assert y.var() == pytest.approx(variance, rel=0.1)
            for lag in (1, 2, 3, 4, 5, 8, 64, 1024):
                assert abs(np.corrcoef(mask[lag:], mask[:-lag])[0, 1]) < 4.5 / np.sqrt(elements - lag)
    halves = [kept[index, step] for index in (1, 2, 3) for step in (0, 1, 2)]
    for first in range(len(halves)):
        for second in range(first):
            assert abs(np.corrcoef(halves[first], halves[second])[0, 1]) < 4.5 / np.sqrt(elements)


def classifier(make_model: Callable[..., onnx.ModelProto], trains: bool = True) -> onnx.ModelProto:
    """Two Dropouts between three layers; the input's own gradient is not needed, those behind the Dropouts are."""
    rng = np.random.default_rng(3)
    sizes = [10, 24, 24, CLASSES]
    weights: dict[str, Array] = {
        f"w{i}": (rng.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32)
        for i, (a, b) in enumerate(pairwise(sizes))
    }
    weights |= {"third": np.array(0.3, np.float32), "half": np.array(0.5, np.float32), "flag": np.array(trains)}
    nodes = [
        node("Gemm", ["x", "w0"], ["a0"], "g0"),
        node("Tanh", ["a0"], ["b0"], "tanh0"),
        node("Dropout", ["b0", "third", "flag"], ["c0"], "drop0"),
        node("Gemm", ["c0", "w1"], ["a1"], "g1"),
        node("Tanh", ["a1"], ["b1"], "tanh1"),
        node("Dropout", ["b1", "half", "flag"], ["c1", "mask"], "drop1"),
        node("Gemm", ["c1", "w2"], ["y"], "g2"),
    ]
    return make_model(nodes, [4, 10], weights)


@settings(
    max_examples=2, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(sizes=st.lists(st.tuples(st.integers(1, 40), st.floats(0.05, 0.9)), min_size=6, max_size=6), seed=st.integers(0))
def test_gradient_is_the_finite_difference(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, float]], seed: int
) -> None:
    """PyTorch has no twin of a mask that is told from the step. With the mask as it is, Dropout is linear."""
    forwards = [dropout_graph(elements, [(ratio, seed & MASK32, 1)]) for elements, ratio in sizes]
    graphs = [with_gradients(forward) for forward in forwards]
    kernels = HostKernels(tmp_path_factory.mktemp("drop"), graphs)
    rng = np.random.default_rng(seed)
    for graph in graphs:
        x, along, dy = (rng.standard_normal(graph.tensors["x"].elements).astype(np.float32) for _ in range(3))
        fed = {"step": np.array([rng.integers(1000)]), "seed.y0": dy}
        near, far = (kernels.run(graph, {"x": at, **fed}) for at in (x - along, x + along))
        difference = (far["y0"].astype(np.float64) - near["y0"]) / 2
        gradient = near[graph.outputs[0]].astype(np.float64)
        assert np.dot(gradient, along) == pytest.approx(np.dot(difference, dy), rel=1e-5, abs=1e-5)


def test_steps_follow_pytorch_with_the_mask_given(make_model: Callable[..., Any], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    seed, rate = 11, 0.5
    model = import_onnx(classifier(make_model))
    graph, infer = build_graphs(model, Recipe(dropout_seed=seed))
    assert [n.op for n in graph.nodes].count("RandomDropout") == 4 and graph.of_kind(Kind.STEP)
    assert not infer.of_kind(Kind.STEP) and "RandomDropout" not in [n.op for n in infer.nodes]
    kernels = HostKernels(tmp_path, [graph])
    weights = dict(model.weights)
    twin = {name: torch.tensor(array.astype(np.float64), requires_grad=True) for name, array in weights.items()}
    optimizer = torch.optim.SGD(twin.values(), rate)
    rng = np.random.default_rng(0)
    for step in range(4):
        x, label = rng.standard_normal((4, 10)).astype(np.float32), rng.integers(0, CLASSES, 4)
        y = torch.tensor(x.astype(np.float64))
        for layer, ratio in enumerate([0.3, 0.5]):
            keep = mask_of(4 * 24, ratio, seed, layer, step).reshape(4, 24)
            y = torch.tanh(y @ twin[f"w{layer}"]) * torch.tensor(keep) / (1 - ratio)
        loss = torch.nn.functional.cross_entropy(y @ twin["w2"], torch.tensor(label))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        fed = {"x": x, "label": label, "learning_rate": np.float32(rate), "step": np.array([step])}
        result = kernels.run(graph, {**weights, **fed})
        weights |= {t.updates: result[name] for name, t in graph.tensors.items() if t.updates is not None}
        assert float(result["loss"][0]) == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, theirs in twin.items():
        np.testing.assert_allclose(weights[name], theirs.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_bits_do_not_depend_on_the_budget(make_model: Callable[..., Any], tmp_path: Path) -> None:
    """A mask that is drawn again, in a recomputation or after paging, is the same mask."""
    path = tmp_path / "m.onnx"
    onnx.save(classifier(make_model), path)

    def plan(ram_bytes: int, home: Home = Home.RAM, technique: str = "both", seed: int = 0) -> Plan:
        request = make_request(path, BOARD, ram_bytes, None, home, Recipe(dropout_seed=seed), technique, 0)
        return make_plan(request, path, threads=1, time_limit_s=5)

    keep = plan(PLENTY, technique="keep")
    reference = run(keep, tmp_path / "keep")
    homes = sum(p.size_bytes for p in keep.train.graph.params())
    peak = keep.train.schedule.peak_bytes
    tight = plan(homes + int((peak - homes) * 0.9), technique="remat")
    again = [tight.train.lowered.nodes[s.op].op for s in tight.train.schedule.steps if type(s).__name__ == "Compute"]
    assert again.count("RandomDropout") > 4, "the budget was to force a mask to be drawn again"
    assert run(tight, tmp_path / "tight") == reference
    assert run(plan(int(peak * 0.8), Home.STORAGE), tmp_path / "low") == reference
    assert run(plan(PLENTY, technique="keep", seed=1), tmp_path / "seed") != reference


@pytest.mark.parametrize(
    ("choice", "trains", "expected"),
    [
        (Dropouts.MODEL, True, 4),
        (Dropouts.MODEL, False, 0),
        (Dropouts.ALL, False, 4),
        (Dropouts.NONE, True, 0),
    ],
)
def test_who_drops(make_model: Callable[..., Any], choice: Dropouts, trains: bool, expected: int) -> None:
    graph, _ = build_graphs(import_onnx(classifier(make_model, trains)), Recipe(dropout=choice))
    assert [n.op for n in graph.nodes].count("RandomDropout") == expected


@pytest.mark.parametrize(
    ("opset", "attrs", "extra", "expected"),
    [
        (7, {"ratio": 0.25}, {}, (0.25, 1)),
        (10, {}, {}, (0.5, 1)),
        (12, {}, {}, (0.5, 0)),
        (13, {"seed": 3}, {"r": np.float32(0.25), "t": np.array(True)}, (0.25, 1)),
        (22, {}, {"r": np.float32(0.75), "t": np.array(False)}, (0.75, 0)),
    ],
)
def test_forms_of_the_operator(
    opset: int, attrs: dict[str, Any], extra: dict[str, Any], expected: tuple[float, int]
) -> None:
    graph = helper.make_graph(
        [node("Dropout", ["x", *extra], ["y"], **attrs)],
        "form",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in extra.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    (imported,) = import_onnx(model).graph.nodes
    assert (imported.float("ratio"), imported.int("trains")) == expected


def test_a_mask_that_is_read(make_model: Callable[..., Any]) -> None:
    nodes = [
        node("Dropout", ["x"], ["a", "m"], "drop"),
        node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["a", "f"], ["y"]),
    ]
    with pytest.raises(ModelError, match=r"'drop'.*reads its mask"):
        import_onnx(make_model(nodes, [2, 3], {}))


def test_seeds_of_32_bits() -> None:
    Recipe(dropout_seed=MASK32)
    with pytest.raises(RecipeError, match="--dropout-seed"):
        Recipe(dropout_seed=MASK32 + 1)

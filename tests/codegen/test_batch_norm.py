"""Batch normalization three ways against PyTorch: gradients, running statistics over steps, folding, exports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from poet_codegen.autodiff import build_training_graph, fuse_updates
from poet_codegen.errors import ModelError
from poet_codegen.export import with_weights
from poet_codegen.graph import Graph, Kind, Role
from poet_codegen.lower import Home
from poet_codegen.onnx_import import import_onnx
from poet_codegen.onnx_prepare import prepare
from poet_codegen.plan import Plan, build_graphs, make_plan, make_request
from poet_codegen.recipe import BatchNorm, Recipe
from poet_codegen.selection import select_trainable
from poet_hil.errors import DeviceError

from .host_kernels import HostKernels
from .test_on_host import BOARD, PLENTY, device_of, run

node = helper.make_node
Maker = Callable[..., onnx.ModelProto]
Array = np.ndarray[Any, Any]
TRAIN, FROZEN, FOLD = (Recipe(batch_norm=choice) for choice in BatchNorm)
CLASSES = 3


def weights_of(channels: int, rng: np.random.Generator, name: str = "n") -> dict[str, Array]:
    """Scale, bias, running mean and running variance."""
    low = {"s": 0.5, "b": -1.0, "m": -0.5, "v": 0.5}
    return {f"{name}_{k}": rng.uniform(v, v + 1.5, channels).astype(np.float32) for k, v in low.items()}


def norm_node(x: str, y: str, name: str = "n", **attrs: Any) -> onnx.NodeProto:
    return node("BatchNormalization", [x, *(f"{name}_{k}" for k in "sbmv")], [y], name, **attrs)


def normalized_classifier(
    make_model: Maker, shape: tuple[int, ...], rng: np.random.Generator, epsilon: float, momentum: float
) -> onnx.ModelProto:
    """A scale an element that trains before the normalization, and a classifier behind it."""
    inner = int(np.prod(shape[1:]))
    weights = {
        "first": rng.uniform(0.5, 1.5, shape[1:]).astype(np.float32),
        **weights_of(shape[1], rng),
        "head": (rng.standard_normal((inner, CLASSES)) / np.sqrt(inner)).astype(np.float32),
    }
    nodes = [
        node("Mul", ["x", "first"], ["a"], "first"),
        norm_node("a", "b", epsilon=epsilon, momentum=momentum),
        node("Flatten", ["b"], ["c"]),
        node("Gemm", ["c", "head"], ["y"], "head"),
    ]
    return make_model(nodes, list(shape), weights)


class Twin:
    """The same model in PyTorch, in float64, trained by its SGD."""

    def __init__(self, weights: dict[str, Array], epsilon: float, momentum: float, by_batch: bool, rate: float) -> None:
        self.torch = pytest.importorskip("torch")
        self.values = {name: self.torch.tensor(array.astype(np.float64)) for name, array in weights.items()}
        for name in ("first", "n_s", "n_b", "head"):
            self.values[name].requires_grad_()
        self.options = {"training": by_batch, "momentum": momentum, "eps": epsilon}
        self.optimizer = self.torch.optim.SGD([v for v in self.values.values() if v.requires_grad], rate)

    def step(self, x: Array, label: Array) -> float:
        f, v = self.torch.nn.functional, self.values
        a = self.torch.tensor(x.astype(np.float64)) * v["first"]
        b = f.batch_norm(a, v["n_m"], v["n_v"], v["n_s"], v["n_b"], **self.options)
        loss = f.cross_entropy(b.flatten(1) @ v["head"], self.torch.tensor(label))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def train_on_host(
    kernels: HostKernels, graph: Graph, weights: dict[str, Array], x: Array, label: Array, rate: float
) -> tuple[float, dict[str, Array]]:
    """(loss, the weights after a step)."""
    result = kernels.run(graph, {**weights, "x": x, "label": label, "learning_rate": np.float32(rate)})
    updated = {t.updates: result[name] for name, t in graph.tensors.items() if t.updates is not None}
    return float(result["loss"][0]), {**weights, **updated}


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, ...]:
    """2 to 5 axes, with two values a channel or more."""
    rank = draw(st.integers(2, 5))
    batch, channels = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    shape = (batch, channels, *(draw(st.integers(1, 3)) for _ in range(rank - 2)))
    return shape if np.prod(shape) // channels > 1 else (2, *shape[1:])


@pytest.mark.parametrize("recipe", [TRAIN, FROZEN])
@settings(max_examples=12, deadline=None)
@given(
    shape=batches(),
    epsilon=st.sampled_from([1e-5, 1e-3, 0.1]),
    momentum=st.sampled_from([0.1, 0.01, 0.9, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_steps_follow_pytorch(
    make_model: Maker,
    tmp_path_factory: pytest.TempPathFactory,
    recipe: Recipe,
    shape: tuple[int, ...],
    epsilon: float,
    momentum: float,
    seed: int,
) -> None:
    """Losses, every parameter and both running statistics, over steps at a rate that makes gradients' errors show."""
    rng, rate = np.random.default_rng(seed), 0.5
    proto = prepare(normalized_classifier(make_model, shape, rng, epsilon, 1.0 - momentum), recipe.batch_norm)
    model = import_onnx(proto)
    graph, _ = build_graphs(model, recipe)
    kernels = HostKernels(tmp_path_factory.mktemp("steps"), [graph])
    weights = dict(model.weights)
    twin = Twin(weights, epsilon, momentum, recipe is TRAIN, rate)
    for _ in range(3):
        x = rng.standard_normal(shape).astype(np.float32)
        label = rng.integers(0, CLASSES, shape[0])
        loss, weights = train_on_host(kernels, graph, weights, x, label, rate)
        assert loss == pytest.approx(twin.step(x, label), rel=2e-4, abs=1e-5)
    for name, theirs in twin.values.items():
        np.testing.assert_allclose(weights[name], theirs.detach().numpy(), rtol=2e-3, atol=2e-4, err_msg=name)
    running_stays = all(np.array_equal(weights[n], model.weights[n]) for n in ("n_m", "n_v"))
    assert running_stays is (recipe is FROZEN)


def conv_network(make_model: Maker, pre: bool = False) -> onnx.ModelProto:
    """Two convolutions with normalization, one more before any layer (`pre`), and a normalized fully connected one."""
    rng = np.random.default_rng(5)

    def weights(*shape: int) -> Array:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    arrays = {
        "w1": weights(4, 2, 3, 3),
        "w2": weights(6, 4, 3, 3),
        "c2": weights(6),
        "w3": weights(10, 6 * 25),
        "c3": weights(1, 10),
        "w4": weights(CLASSES, 10),
        **(weights_of(2, rng, "n0") if pre else {}),
        **weights_of(4, rng, "n1"),
        **weights_of(6, rng, "n2"),
        **weights_of(10, rng, "n3"),
    }
    nodes = [
        *([norm_node("x", "z", "n0")] if pre else []),
        node("Conv", ["z" if pre else "x", "w1"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        norm_node("a", "b", "n1", epsilon=1e-3),
        node("Relu", ["b"], ["c"]),
        node("Conv", ["c", "w2", "c2"], ["d"], "conv2", strides=[2, 2], pads=[1, 1, 1, 1]),
        norm_node("d", "e", "n2"),
        node("Relu", ["e"], ["f"]),
        node("Flatten", ["f"], ["g"]),
        node("Gemm", ["g", "w3", "c3"], ["h"], "dense", transB=1, alpha=0.5, beta=2.0),
        norm_node("h", "i", "n3"),
        node("Gemm", ["i", "w4"], ["y"], "head", transB=1),
    ]
    return make_model(nodes, [2, 2, 10, 10], arrays)


@pytest.mark.parametrize("pre", [False, True])
def test_folding_computes_the_same(make_model: Maker, pre: bool) -> None:
    proto = conv_network(make_model, pre)
    folded = prepare(proto, BatchNorm.FOLD)
    onnx.checker.check_model(folded)
    assert [n.op_type for n in folded.graph.node].count("BatchNormalization") == int(pre)
    x = np.random.default_rng(0).standard_normal((2, 2, 10, 10)).astype(np.float32)
    before, after = (ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (proto, folded))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    left = {i.name for i in folded.graph.initializer}
    assert left == {"w1", "n1_b", "w2", "c2", "w3", "c3", "w4", *((f"n0_{k}" for k in "sbmv") if pre else ())}
    again = prepare(folded, BatchNorm.FOLD)
    assert again.SerializeToString(deterministic=True) == folded.SerializeToString(deterministic=True)
    model = import_onnx(folded)
    graph, _ = build_graphs(model, FOLD)
    assert graph.learned() == left - {"n0_m", "n0_v"}


@pytest.mark.parametrize(("second", "folds"), [("Conv", True), ("Relu", False)])
def test_folding_spares_what_others_read(make_model: Maker, second: str, folds: bool) -> None:
    """A weight that two convolutions share is copied; a result that another node reads stays."""
    rng = np.random.default_rng(1)
    other = node("Conv", ["x", "w"], ["c"]) if second == "Conv" else node("Relu", ["a"], ["c"])
    nodes = [node("Conv", ["x", "w"], ["a"]), norm_node("a", "b"), other, node("Add", ["b", "c"], ["y"])]
    proto = make_model(
        nodes, [1, 2, 4, 4], {"w": rng.standard_normal((3, 2, 1, 1)).astype(np.float32), **weights_of(3, rng)}
    )
    folded = prepare(proto, BatchNorm.FOLD)
    assert ("BatchNormalization" not in [n.op_type for n in folded.graph.node]) is folds
    x = rng.standard_normal((1, 2, 4, 4)).astype(np.float32)
    before, after = (ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (proto, folded))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("recipe", [TRAIN, FROZEN, FOLD])
def test_bits_do_not_depend_on_the_budget(make_model: Maker, tmp_path: Path, recipe: Recipe) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(conv_network(make_model), path)

    def plan(ram_bytes: int, home: Home = Home.RAM, technique: str = "both") -> Plan:
        request = make_request(path, BOARD, ram_bytes, None, home, recipe, technique, 0)
        return make_plan(request, path, threads=1, time_limit_s=5)

    keep = plan(PLENTY, technique="keep")
    losses, weights = run(keep, tmp_path / "keep")
    assert len(set(losses)) == len(losses)
    if recipe is not FOLD:
        homes = sum(p.size_bytes for p in keep.train.graph.params() if p.name in keep.train.graph.learned())
        tight = plan(homes + int((keep.train.schedule.peak_bytes - homes) * 0.92), technique="remat")
        again = len([s for s in tight.train.schedule.steps if type(s).__name__ == "Compute"])
        assert again > len(tight.train.lowered.nodes), "the budget was to force recomputation"
        assert run(tight, tmp_path / "tight") == (losses, weights)
    low = plan(int(keep.train.schedule.peak_bytes * 0.75), Home.STORAGE)
    assert run(low, tmp_path / "low") == (losses, weights)
    moved = {name for name, array in keep.model.weights.items() if weights[name] != array.tobytes()}
    assert ({"n1_m", "n1_v", "n3_v"} <= moved) is (recipe is TRAIN)
    arrays = {name: np.frombuffer(weights[name], np.float32).reshape(a.shape) for name, a in keep.model.weights.items()}
    back = with_weights(prepare(onnx.load(path), recipe.batch_norm), arrays)
    exported = {i.name: numpy_helper.to_array(i) for i in back.graph.initializer}
    assert all(np.array_equal(exported[name], array) for name, array in arrays.items())


def test_running_updates_wait_for_the_loss(make_model: Maker) -> None:
    model = import_onnx(conv_network(make_model))
    graph, _ = build_graphs(model, TRAIN)
    (loss,) = [n for n in graph.nodes if n.role is Role.LOSS]
    running = [n for n in graph.nodes if n.op == "RunningUpdate"]
    assert len(running) == 6 and all(n.role is Role.UPDATE and loss.outputs[1] in n.inputs for n in running)


def test_a_loss_that_is_not_finite_leaves_running_statistics(make_model: Maker, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(conv_network(make_model), path)
    request = make_request(path, BOARD, PLENTY, None, Home.RAM, TRAIN, "keep", 0)
    plan = make_plan(request, path, threads=1, time_limit_s=5)
    x = np.random.default_rng(0).standard_normal((2, 2, 10, 10)).astype(np.float32)
    label = np.array([0, 2], np.int32)
    with device_of(plan, tmp_path / "b") as device:
        device.write_sample(x, label)
        device.train(0.1)
        good = device.read_params()
        assert all(good[name].tobytes() != plan.model.weights[name].tobytes() for name in ("n1_m", "n1_v", "n3_m"))
        device.write_sample(np.full_like(x, np.nan), label)
        with pytest.raises(DeviceError, match="NaN or infinite"):
            device.train(0.1)
        assert all(value.tobytes() == good[name].tobytes() for name, value in device.read_params().items())


def test_a_choice_is_asked_for(make_model: Maker) -> None:
    model = import_onnx(conv_network(make_model))
    with pytest.raises(ModelError, match=r"'n1'.*--batch-norm.*train:.*frozen:.*fold:"):
        build_graphs(model, Recipe())


def test_one_value_a_channel_has_no_variance(make_model: Maker) -> None:
    rng = np.random.default_rng(0)
    model = import_onnx(normalized_classifier(make_model, (1, 3), rng, 1e-5, 0.9))
    with pytest.raises(ModelError, match=r"'n'.*one value a channel.*--batch-norm frozen"):
        build_graphs(model, TRAIN)
    build_graphs(model, FROZEN)


def test_running_statistics_are_never_chosen(make_model: Maker) -> None:
    graph = import_onnx(conv_network(make_model)).graph
    assert not select_trainable(graph, "all") & {"n1_m", "n1_v"}
    with pytest.raises(ModelError, match="n1_m"):
        select_trainable(graph, "n1_m")


@pytest.mark.parametrize(
    ("opset", "attrs", "outputs"),
    [
        (7, {}, 1),
        (9, {"momentum": 0.8, "epsilon": 1e-3}, 1),
        (14, {"training_mode": 1}, 3),
        (15, {"training_mode": 1, "momentum": 0.7}, 3),
    ],
)
def test_forms_of_the_operator(opset: int, attrs: dict[str, Any], outputs: int) -> None:
    rng = np.random.default_rng(0)
    names = ["y", "running_mean", "running_var"][:outputs]
    proto = node("BatchNormalization", ["x", *(f"n_{k}" for k in "sbmv")], names, **attrs)
    graph = helper.make_graph(
        [proto],
        "form",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 4])],
        [numpy_helper.from_array(a, n) for n, a in weights_of(3, rng).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    prepared = prepare(model, BatchNorm.FROZEN)
    onnx.checker.check_model(prepared)
    for each in (model, prepared):
        (imported,) = import_onnx(each).graph.nodes
        assert imported.op == "BatchNormalization" and len(imported.inputs) == 5
        assert imported.float("epsilon") == pytest.approx(attrs.get("epsilon", 1e-5))
        assert imported.float("momentum") == 1.0 - attrs.get("momentum", 0.9) or imported.float(
            "momentum"
        ) == pytest.approx(1.0 - attrs.get("momentum", 0.9), abs=1e-7)


def test_running_statistics_that_the_model_reads(make_model: Maker) -> None:
    rng = np.random.default_rng(0)
    both = node("BatchNormalization", ["x", *(f"n_{k}" for k in "sbmv")], ["a", "m", "v"], "norm", training_mode=1)
    proto = make_model([both, node("Add", ["a", "m"], ["y"])], [2, 3], weights_of(3, rng))
    for model in (proto, prepare(proto, BatchNorm.TRAIN)):
        with pytest.raises(ModelError, match=r"'norm'.*reads its running statistics"):
            import_onnx(model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("export", ["evaluation", "training", "newer exporter"])
def test_fresh_exports_follow_pytorch(export: str, tmp_path: Path) -> None:
    """A fresh model's scale, biases and running statistics are all ones or zeros, which exporters let share."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=False),
        nn.BatchNorm2d(3, momentum=0.2),
        nn.ReLU(),
        nn.Conv2d(3, 3, 3, bias=False),
        nn.BatchNorm2d(3, eps=1e-3),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    )
    sample, path = torch.randn(4, 2, 6, 6), tmp_path / "m.onnx"
    if export == "newer exporter":
        pytest.importorskip("onnxscript", reason="PyTorch's newer exporter needs it")
        model.eval()
        torch.onnx.export(model, (sample,), dynamo=True, optimize=False, verbose=False).save(str(path))
    else:
        mode = torch.onnx.TrainingMode.TRAINING if export == "training" else torch.onnx.TrainingMode.EVAL
        torch.onnx.export(
            model, (sample,), str(path), dynamo=False, training=mode, opset_version=15, do_constant_folding=False
        )
    proto = prepare(onnx.load(path), BatchNorm.TRAIN)
    onnx.checker.check_model(proto)
    imported = import_onnx(proto)
    trainable = select_trainable(imported.graph, "all")
    assert len(trainable) == len(list(model.parameters()))
    assert {n for n in imported.weights if n[0] in "14"} == {n for n in model.state_dict() if n[0] in "14"} - {
        f"{layer}.num_batches_tracked" for layer in (1, 4)
    }
    graph = fuse_updates(build_training_graph(imported.graph, trainable, TRAIN))
    assert graph.learned() - trainable == {n for n in imported.weights if "running" in n} and len(graph.learned()) == 12
    kernels = HostKernels(tmp_path, [graph])
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    weights = dict(imported.weights)
    for step in range(5):
        x, label = torch.randn(4, 2, 6, 6), torch.arange(step, step + 4) % CLASSES
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), label)
        loss.backward()
        optimizer.step()
        fed = {graph.one(Kind.INPUT).name: x.numpy(), "label": label.numpy(), "learning_rate": np.float32(0.1)}
        result = kernels.run(graph, {**weights, **fed})
        assert float(result["loss"][0]) == pytest.approx(float(loss.detach()), rel=1e-4)
        weights |= {t.updates: result[name] for name, t in graph.tensors.items() if t.updates is not None}
    trained = with_weights(proto, weights)
    model.eval()
    theirs = model(sample).detach().numpy()
    (ours,) = ReferenceEvaluator(trained).run(None, {trained.graph.input[0].name: sample.numpy()})
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)

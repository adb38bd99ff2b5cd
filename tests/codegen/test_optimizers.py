"""Every optimizer against torch.optim, fused and not, over steps with a learning rate that changes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poet_codegen.autodiff import build_training_graph, fuse_updates
from poet_codegen.errors import ModelError
from poet_codegen.graph import Graph, GraphBuilder, Kind, Node, Role, Tensor
from poet_codegen.onnx_import import import_onnx, read_model
from poet_codegen.ops.optimizers import RULES, rule_of, state_of, update_attrs
from poet_codegen.ops.registry import get
from poet_codegen.recipe import DEFAULT_RECIPE, Optimizer, Recipe, RecipeError

from .host_kernels import HostKernels
from .test_ops_updates import CLASSES, WORDS, sentence_model

STEPS = 24
RECIPES = {
    "sgd": Recipe(),
    "sgd decay": Recipe(weight_decay=0.05),
    "momentum": Recipe(momentum=0.9),
    "momentum decay": Recipe(momentum=0.7, weight_decay=0.02),
    "nesterov": Recipe(momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": Recipe(optimizer=Optimizer.ADAM),
    "adam decay": Recipe(optimizer=Optimizer.ADAM, beta1=0.8, beta2=0.95, epsilon=1e-4, weight_decay=0.03),
    "adam no average": Recipe(optimizer=Optimizer.ADAM, beta1=0.0),
    "adamw": Recipe(optimizer=Optimizer.ADAMW),
    "adamw decay": Recipe(optimizer=Optimizer.ADAMW, weight_decay=0.2),
    "sgd by 3": Recipe(accumulate=3),
    "nesterov by 4": Recipe(momentum=0.9, nesterov=True, weight_decay=0.01, accumulate=4),
    "adam by 3": Recipe(optimizer=Optimizer.ADAM, weight_decay=0.03, accumulate=3),
    "adamw by 2": Recipe(optimizer=Optimizer.ADAMW, accumulate=2),
}
each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())


def torch_optimizer(torch: Any, recipe: Recipe, params: list[Any]) -> Any:
    """PyTorch's own, with its own default for what the recipe leaves to the default."""
    decay = {} if recipe.weight_decay is None else {"weight_decay": recipe.weight_decay}
    if recipe.optimizer is Optimizer.SGD:
        return torch.optim.SGD(params, lr=1.0, momentum=recipe.momentum, nesterov=recipe.nesterov, **decay)
    kind = torch.optim.Adam if recipe.optimizer is Optimizer.ADAM else torch.optim.AdamW
    return kind(params, lr=1.0, betas=(recipe.beta1, recipe.beta2), eps=recipe.epsilon, **decay)


def rate_at(step: int) -> np.float32:
    return np.float32(0.02 / (1 + step % 7))


def update_graph(recipe: Recipe, elements: int) -> Graph:
    """One parameter w with its update; its gradient comes from outside."""
    builder = GraphBuilder("update")
    w = builder.tensor(Tensor("w", (elements,), kind=Kind.PARAM))
    old = (w, *(builder.tensor(Tensor(f"w.{name}", (elements,), kind=Kind.STATE)) for name in state_of(recipe)))
    new = tuple(builder.tensor(Tensor(f"{name}.new", (elements,), kind=Kind.UPDATED, updates=name)) for name in old)
    gradient = builder.tensor(Tensor("g", (elements,), kind=Kind.INPUT))
    rate = builder.tensor(Tensor("learning_rate", (1,), kind=Kind.LEARNING_RATE))
    rule = rule_of(recipe)
    step = (builder.step(),) if rule.reads_step or recipe.accumulate > 1 else ()
    builder.node(Node(rule.op, (*old, gradient, rate, *step), new, "w", Role.UPDATE, update_attrs(recipe)))
    return builder.graph(new)


def follow(kernels: HostKernels, graph: Graph, values: dict[str, Any], step: int) -> tuple[dict[str, Any], np.float32]:
    """The parameters and state after one step, and its loss where the graph has one."""
    extra = {t.name: np.array([step]) for t in graph.of_kind(Kind.STEP)} | {"learning_rate": rate_at(step)}
    result = kernels.run(graph, values | extra)
    updated = {t.updates: result[name] for name, t in graph.tensors.items() if t.updates is not None}
    return updated, np.float32(result["loss"][0]) if "loss" in result else np.float32(0.0)


def state(graph: Graph) -> dict[str, Any]:
    return {t.name: np.zeros(t.shape, np.float32) for t in graph.of_kind(Kind.STATE)}


@each_recipe
def test_the_rule_is_pytorchs(tmp_path: Path, recipe: Recipe) -> None:
    """The same float32 gradients of very different sizes, so that nothing but the rule is compared."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    elements = 200
    graph = update_graph(recipe, elements)
    kernels = HostKernels(tmp_path, [graph])
    start = rng.standard_normal(elements).astype(np.float32)
    scale = 10.0 ** rng.uniform(-6, 1, elements)
    oracle = torch.tensor(start.astype(np.float64), requires_grad=True)
    optimizer = torch_optimizer(torch, recipe, [oracle])
    ours = {"w": start} | state(graph)
    total = np.zeros(elements)
    for step in range(STEPS):
        gradient = (rng.standard_normal(elements) * scale).astype(np.float32)
        before = ours["w"]
        ours, _ = follow(kernels, graph, ours | {"g": gradient}, step)
        total += gradient.astype(np.float64) / recipe.accumulate
        if (step + 1) % recipe.accumulate:
            assert ours["w"].tobytes() == before.tobytes()
            continue
        oracle.grad = torch.tensor(total)
        optimizer.param_groups[0]["lr"] = float(rate_at(step))
        optimizer.step()
        total = np.zeros(elements)
        moved = np.abs(oracle.detach().numpy() - start).max()
        np.testing.assert_allclose(ours["w"], oracle.detach().numpy(), rtol=2e-6, atol=1e-6 * moved)


def micro_batches(model: Any) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(9)
    shape = model.graph.one(Kind.INPUT).shape
    images = model.graph.one(Kind.INPUT).dtype.value == "float32"
    classes = model.graph.tensors[model.graph.outputs[0]].shape[1]
    return [
        (
            rng.standard_normal(shape).astype(np.float32) if images else rng.integers(-WORDS, WORDS, shape),
            rng.integers(0, classes, 1),
        )
        for _ in range(6)
    ]


@pytest.mark.parametrize(
    ("net", "recipe"),
    [
        pytest.param(net, recipe, id=f"{net}-{name}")
        for name, recipe in RECIPES.items()
        for net in (("sentence", "digits") if name in ("sgd", "momentum", "adam by 3") else ("sentence",))
    ],
)
def test_fused_updates_change_no_bit(tmp_path: Path, digits_path: Path, recipe: Recipe, net: str) -> None:
    model = sentence_model(5) if net == "sentence" else import_onnx(read_model(digits_path))
    stored = build_training_graph(model.graph, frozenset(model.weights), recipe)
    fused = fuse_updates(stored)
    suffix = rule_of(recipe).op
    assert all(node.op.endswith(suffix) and node.op != suffix for node in fused.nodes if node.role == Role.UPDATE)
    x, label = model.graph.one(Kind.INPUT).name, stored.one(Kind.LABEL).name
    results = []
    for name, graph in (("stored", stored), ("fused", fused)):
        (tmp_path / name).mkdir()
        kernels = HostKernels(tmp_path / name, [graph])
        values: dict[str, Any] = {**model.weights, **state(graph)}
        for step, (sample, answer) in enumerate(micro_batches(model)):
            updated, _ = follow(kernels, graph, values | {x: sample, label: answer}, step)
            values |= updated
        results.append({key: np.asarray(value).tobytes() for key, value in values.items()})
    assert results[0] == results[1]


@each_recipe
def test_losses_follow_pytorch(tmp_path: Path, recipe: Recipe) -> None:
    """A whole model with an embedding, whose rows that were not read must move too where there is state or decay."""
    torch = pytest.importorskip("torch")
    model = sentence_model(5)
    graph = fuse_updates(build_training_graph(model.graph, frozenset(model.weights), recipe))
    kernels = HostKernels(tmp_path, [graph])
    oracle = {n: torch.tensor(v.astype(np.float64), requires_grad=True) for n, v in model.weights.items()}
    optimizer = torch_optimizer(torch, recipe, list(oracle.values()))
    rng = np.random.default_rng(1)
    values: dict[str, Any] = {**model.weights, **state(graph)}
    for step in range(STEPS):
        words, label = rng.integers(0, WORDS - 1, (1, 5)), rng.integers(0, CLASSES, 1)
        updated, loss = follow(kernels, graph, values | {"words": words, "label": label}, step)
        values |= updated
        embedded = torch.nn.functional.embedding(torch.tensor(words), oracle["table"])
        hidden = torch.tanh(embedded @ oracle["inner"] + oracle["offset"]).mean(1)
        expected = torch.nn.functional.cross_entropy(hidden @ oracle["outer"], torch.tensor(label))
        (expected / recipe.accumulate).backward()
        np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
        if (step + 1) % recipe.accumulate == 0:
            optimizer.param_groups[0]["lr"] = float(rate_at(step))
            optimizer.step()
            optimizer.zero_grad()
    for name, value in oracle.items():
        np.testing.assert_allclose(values[name], value.detach().numpy(), rtol=2e-5, atol=2e-6)


def test_an_update_writes_its_versions_only() -> None:
    """A step may be stopped before any update: nothing else of it may outlive the step."""
    for recipe in RECIPES.values():
        model = sentence_model(5)
        graph = fuse_updates(build_training_graph(model.graph, frozenset(model.weights), recipe))
        for node in graph.nodes:
            if node.role != Role.UPDATE:
                continue
            updates = [graph.tensors[name].updates for name in node.outputs]
            assert updates == [node.inputs[i] for i, o in get(node.op).in_place_pairs(node) if node.outputs[o]]
            assert len(updates) == 1 + len(state_of(recipe))


def test_state_is_listed_behind_the_parameters() -> None:
    model = sentence_model(5)
    recipe = Recipe(optimizer=Optimizer.ADAM, accumulate=2)
    graph = fuse_updates(build_training_graph(model.graph, frozenset({"inner"}), recipe))
    names = [t.name for t in graph.params()]
    assert names[-3:] == ["inner.exp_avg", "inner.exp_avg_sq", "inner.gradient_sum"]
    assert set(graph.learned()) == {"inner", *names[-3:]}


@pytest.mark.parametrize("recipe", [RECIPES["momentum decay"], RECIPES["adam decay"], RECIPES["adamw decay"]])
def test_parameters_that_decay_spares(tmp_path: Path, recipe: Recipe) -> None:
    model = sentence_model(5)
    results = {}
    for name, tried in (("spared", replace(recipe, no_decay="outer")), ("none", replace(recipe, weight_decay=0.0))):
        (tmp_path / name).mkdir()
        graph = fuse_updates(build_training_graph(model.graph, frozenset(model.weights), tried))
        feeds: dict[str, Any] = {"words": np.array([[0, 1, 2, 3, 4]]), "label": np.array([1])}
        values = {**model.weights, **state(graph), **feeds}
        results[name], _ = follow(HostKernels(tmp_path / name, [graph]), graph, values, 0)
    same = {key for key in model.weights if results["spared"][key].tobytes() == results["none"][key].tobytes()}
    assert same == {"outer"}


def test_a_spared_parameter_that_is_not_there() -> None:
    model = sentence_model(5)
    with pytest.raises(ModelError, match=r"--no-decay 'offsett'.*'offset'"):
        build_training_graph(model.graph, frozenset(model.weights), Recipe(weight_decay=0.1, no_decay="offsett"))


def test_every_rule_is_asked_for_by_some_recipe() -> None:
    assert {rule_of(recipe) for recipe in RECIPES.values()} == set(RULES)
    assert update_attrs(DEFAULT_RECIPE) == {} and state_of(DEFAULT_RECIPE) == ()


def test_costs_grow_with_the_rule() -> None:
    def elements(recipe: Recipe) -> int:
        model = sentence_model(5)
        graph = fuse_updates(build_training_graph(model.graph, frozenset({"inner"}), recipe))
        (node,) = (n for n in graph.nodes if n.role == Role.UPDATE)
        return sum(work.elements for work in get(node.op).work(graph, node).also)

    sgd, momentum, adam, by_two = (elements(RECIPES[n]) for n in ("sgd", "momentum", "adam", "adamw by 2"))
    assert 0 == sgd < momentum < adam < by_two


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, "--momentum 1.0"),
        ({"momentum": float("nan")}, "--momentum nan"),
        ({"beta2": -0.1, "optimizer": Optimizer.ADAM}, "--beta2"),
        ({"beta1": 0.5}, "--optimizer adam"),
        ({"optimizer": Optimizer.ADAM, "momentum": 0.9}, "--beta1"),
        ({"optimizer": Optimizer.ADAM, "epsilon": 0.0}, "--epsilon"),
        ({"optimizer": Optimizer.ADAM, "epsilon": 1e-40}, "--epsilon"),
        ({"nesterov": True}, "--nesterov needs"),
        ({"weight_decay": -0.1}, "--weight-decay"),
        ({"weight_decay": float("inf")}, "--weight-decay"),
        ({"weight_decay": float("nan")}, "--weight-decay"),
        ({"weight_decay": 1e39}, "--weight-decay"),
        ({"weight_decay": 1e39, "optimizer": Optimizer.ADAMW}, "--weight-decay"),
        ({"momentum": 1.0 - 1e-9}, "--momentum"),
        ({"beta1": 1.0 - 1e-9, "optimizer": Optimizer.ADAM}, "--beta1"),
        ({"beta2": 1.0 - 1e-9, "optimizer": Optimizer.ADAM}, "--beta2"),
        ({"accumulate": 0}, "--accumulate"),
        ({"no_decay": "bias"}, "--no-decay"),
    ],
)
def test_recipes_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe(**options)


def test_average_weight(compiled: Callable[[float, int], float]) -> None:
    """1 - beta^t to 1e-6, from the first step to any later one; torch.optim computes it in float64."""
    rng = np.random.default_rng(0)
    counts = sorted({*range(1, 2000), *(int(c) for c in 2.0 ** rng.uniform(0, 31.9, 4000)), 2**32 - 1})
    for beta in (0.0, 0.5, 0.8, 0.9, 0.98, 0.99, 0.999, 0.9999, 0.999999):
        gain = np.float32(1.0 - beta)
        for count in counts:
            expected = -np.expm1(count * np.log1p(-float(gain))) if beta else 1.0
            assert compiled(float(gain), count) == pytest.approx(expected, rel=1e-6), (beta, count)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float, int], float]:
    graph = update_graph(RECIPES["adam"], 1)
    kernels = HostKernels(tmp_path_factory.mktemp("math"), [graph])
    function = kernels.function("poet_average_weight")
    function.argtypes, function.restype = [ctypes.c_float, ctypes.c_uint32], ctypes.c_float
    return lambda gain, count: float(function(gain, count))

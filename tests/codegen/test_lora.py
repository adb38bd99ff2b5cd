"""Low-rank adapters: PyTorch's losses and weights, everything else frozen, and ordinary nodes in the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from poet_codegen.errors import ModelError
from poet_codegen.export import with_weights
from poet_codegen.lower import Home
from poet_codegen.onnx_import import import_onnx
from poet_codegen.onnx_prepare import prepare
from poet_codegen.plan import make_plan, make_request
from poet_codegen.recipe import Recipe
from poet_codegen.selection import select_trainable

from .test_on_host import BOARD, device_of

torch = pytest.importorskip("torch")
Maker = Callable[..., onnx.ModelProto]
RANK, RATE = 2, 0.05


def layers(make_model: Maker) -> onnx.ModelProto:
    """Every form of a dense layer: Gemm, MatMul with a bias behind it, and by a transposed weight as PyTorch writes."""
    rng = np.random.default_rng(7)
    shapes = {"w0": (8, 6), "b0": (8,), "w1": (8, 7), "b1": (7,), "w2": (9, 7), "w3": (9, 3)}
    weights = {name: (rng.standard_normal(shape) / 3).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["a"], "g0", transB=1),
        helper.make_node("Tanh", ["a"], ["t"], "t0"),
        helper.make_node("MatMul", ["t", "w1"], ["c"], "g1"),
        helper.make_node("Add", ["c", "b1"], ["d"], "bias1"),
        helper.make_node("Transpose", ["w2"], ["w2t"], "w2t", perm=[1, 0]),
        helper.make_node("MatMul", ["d", "w2t"], ["e"], "g2"),
        helper.make_node("MatMul", ["e", "w3"], ["y"], "g3"),
    ]
    return make_model(nodes, [2, 6], weights)


def test_adapters_train_as_in_pytorch(make_model: Maker, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(layers(make_model), path)
    recipe = Recipe(train=f"lora:{RANK}")
    request = make_request(path, BOARD, 20_000, None, Home.RAM, recipe, "both", 0)
    plan = make_plan(request, path, threads=1, time_limit_s=2)
    begun = plan.model.weights
    adapted = ("w0", "w1", "w2", "w3")
    names = {f"{w}.lora_{end}" for w in adapted for end in "AB"}
    assert plan.train.graph.learned() == names
    assert all(np.abs(begun[f"{w}.lora_A"]).max() > 0 and not begun[f"{w}.lora_B"].any() for w in adapted)

    rng = np.random.default_rng(8)
    samples, labels = rng.standard_normal((5, 2, 6)).astype(np.float32), rng.integers(0, 3, (5, 2))
    ours = []
    with device_of(plan, tmp_path) as device:
        for x, y in zip(samples, labels, strict=True):
            device.write_sample(x, y)
            ours.append(device.train(RATE).loss)
        trained = device.read_params()
        device.write_input(samples[0])
        answer = device.infer()

    tensors = {name: torch.tensor(array, requires_grad=name in names) for name, array in begun.items()}

    def layer(x: Any, name: str, weight: Any) -> Any:
        return x @ weight + (x @ tensors[f"{name}.lora_A"]) @ tensors[f"{name}.lora_B"]

    optimizer = torch.optim.SGD([tensors[name] for name in sorted(names)], RATE)
    theirs = []
    for x, y in zip(samples, labels, strict=True):
        hidden = torch.tanh(layer(torch.from_numpy(x), "w0", tensors["w0"].T) + tensors["b0"])
        hidden = layer(layer(hidden, "w1", tensors["w1"]) + tensors["b1"], "w2", tensors["w2"].T)
        loss = torch.nn.functional.cross_entropy(layer(hidden, "w3", tensors["w3"]), torch.from_numpy(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        theirs.append(float(loss.detach()))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(trained[name], tensor.detach().numpy(), rtol=1e-4, atol=1e-6, err_msg=name)
        assert name in names or trained[name].tobytes() == begun[name].tobytes()

    back = with_weights(prepare(onnx.load(path), None, recipe.train), trained)
    (predicted,) = ReferenceEvaluator(back).run(None, {"x": samples[0]})
    np.testing.assert_allclose(answer.reshape(predicted.shape), predicted, rtol=1e-4, atol=1e-5)
    assert prepare(back, None, recipe.train).SerializeToString() == back.SerializeToString(), "adapters go on"


def test_adapters_are_chosen_by_weight_and_go_with_other_parts(make_model: Maker) -> None:
    train = "lora:2:w[12], lora:4:w0,b1"
    graph = import_onnx(prepare(layers(make_model), None, train)).graph
    chosen = {"w1.lora_A", "w1.lora_B", "w2.lora_A", "w2.lora_B", "w0.lora_A", "w0.lora_B", "b1"}
    assert select_trainable(graph, train) == chosen
    assert graph.tensors["w0.lora_A"].shape == (6, 4) and graph.tensors["w1.lora_B"].shape == (2, 7)


@pytest.mark.parametrize("train", ["lora:", "lora:0", "lora:x", "lora:3:nothing", "lora:9"])
def test_adapters_that_cannot_be_are_refused(train: str, make_model: Maker) -> None:
    with pytest.raises(ModelError, match="lora"):
        prepare(layers(make_model), None, train)

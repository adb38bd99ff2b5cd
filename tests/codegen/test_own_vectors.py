"""Vectors that exporters merged train apart, what the model itself shares trains as one; PyTorch is the oracle."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from poet_codegen.autodiff import build_training_graph, fuse_updates
from poet_codegen.graph import Kind
from poet_codegen.onnx_import import import_onnx, read_model
from poet_codegen.onnx_prepare import prepare

from .host_kernels import HostKernels

Maker = Callable[..., onnx.ModelProto]
node = helper.make_node
STEPS, RATE, CLASSES = 5, 0.1, 3


def linear_norms(torch: Any) -> tuple[Any, tuple[int, ...]]:
    """Fresh: scales are ones, shifts zeros."""
    nn = torch.nn
    layers = [nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, CLASSES)]
    return nn.Sequential(*layers), (1, 8)


def biases_and_slopes(torch: Any) -> tuple[Any, tuple[int, ...]]:
    """Zeros as biases of products, equal slopes, and a block inside a block."""
    nn = torch.nn
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.PReLU(4), nn.LayerNorm(8)) for _ in range(3)]
    for block in blocks:
        nn.init.zeros_(block[0].bias)
    return nn.Sequential(nn.Sequential(*blocks), nn.Flatten(), nn.Linear(32, CLASSES)), (1, 4, 8)


def groups_and_instances(torch: Any) -> tuple[Any, tuple[int, ...]]:
    nn = torch.nn
    norms = [
        nn.GroupNorm(2, 4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.InstanceNorm2d(4, affine=True),
    ]
    layers = [layer for norm in norms for layer in (nn.Conv2d(4, 4, 3, padding=1), norm)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 25, CLASSES)), (1, 4, 5, 5)


def called_twice(torch: Any) -> tuple[Any, tuple[int, ...]]:
    """One normalization and one slope for two layers each, on purpose; a second normalization of equal values."""
    nn = torch.nn
    norm, slope, other = nn.LayerNorm(8), nn.PReLU(), nn.LayerNorm(8)
    layers = [nn.Linear(8, 8), norm, slope, nn.Linear(8, 8), norm, slope, nn.Linear(8, 8), other]

    class Twice(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.slope, self.second, _, _, self.third, self.other = layers
            self.head = nn.Linear(8, CLASSES)

        def forward(self, x: Any) -> Any:
            x = self.slope(self.norm(self.first(x)))
            x = self.slope(self.norm(self.second(x)))
            return self.head(self.other(self.third(x)))

    return Twice(), (1, 8)


NETS = (linear_norms, biases_and_slopes, groups_and_instances, called_twice)
EXPORTS = {
    "newer": {"dynamo": True, "opset_version": 18},
    "newer, as it is": {"dynamo": True, "opset_version": 18, "optimize": False},
    "older": {"dynamo": False, "opset_version": 17},
    "older, decomposed": {"dynamo": False, "opset_version": 13},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
def test_fresh_models_follow_pytorch(net: Callable[[Any], Any], export: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is the oracle of this test")
    options = EXPORTS[export]
    if options["dynamo"] and importlib.util.find_spec("onnxscript") is None:
        pytest.skip("onnxscript is not installed; PyTorch's newer exporter needs it")
    torch.manual_seed(0)
    model, shape = net(torch)
    model.eval()
    path = tmp_path / "m.onnx"
    torch.onnx.export(model, (torch.randn(shape),), str(path), verbose=False, **options)
    proto = prepare(read_model(path), None)
    onnx.checker.check_model(proto)
    imported = import_onnx(proto)
    trainable = frozenset(t.name for t in imported.graph.of_kind(Kind.PARAM))
    assert len(trainable) == len(list(model.parameters())), sorted(trainable)
    if options["dynamo"] and net is linear_norms:
        assert trainable == dict(model.named_parameters()).keys(), "names are the source's"
    graph = fuse_updates(build_training_graph(imported.graph, trainable))
    kernels = HostKernels(tmp_path, [graph])
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    weights = dict(imported.weights)
    for step in range(STEPS):
        x, label = torch.randn(shape), torch.tensor([step % CLASSES])
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), label)
        loss.backward()
        optimizer.step()
        fed = {graph.one(Kind.INPUT).name: x.numpy(), "label": label.numpy(), "learning_rate": np.float32(RATE)}
        result = kernels.run(graph, {**weights, **fed})
        assert float(result["loss"][0]) == pytest.approx(float(loss.detach()), rel=1e-4)
        weights |= {t.updates: result[name] for name, t in graph.tensors.items() if t.updates is not None}
    for name, value in model.named_parameters():
        if name in weights:
            ours = weights[name].reshape(value.shape)
            np.testing.assert_allclose(ours, value.detach().numpy(), rtol=1e-3, atol=1e-5, err_msg=name)


def parameters(proto: onnx.ModelProto) -> set[str]:
    return {t.name for t in import_onnx(proto).graph.of_kind(Kind.PARAM)}


def test_without_evidence_normalizations_have_their_own(make_model: Maker) -> None:
    nodes = [
        node("LayerNormalization", ["x", "s", "b"], ["a"]),
        node("MatMul", ["a", "w"], ["c"]),
        node("Add", ["c", "b"], ["d"]),
        node("LayerNormalization", ["d", "s", "b"], ["e"]),
        node("PRelu", ["e", "s"], ["y"]),
    ]
    arrays = {"s": np.ones(4, np.float32), "b": np.zeros(4, np.float32), "w": np.eye(4, dtype=np.float32)}
    proto = make_model(nodes, [1, 4], arrays)
    before = proto.SerializeToString(deterministic=True)
    own = prepare(proto, None)
    onnx.checker.check_model(own)
    assert parameters(own) == {"s", "s.2", "s.3", "b", "b.2", "b.3", "w"}
    assert proto.SerializeToString(deterministic=True) == before, "the original is kept"
    assert prepare(own, None).SerializeToString(deterministic=True) == own.SerializeToString(deterministic=True)
    x = np.random.default_rng(0).standard_normal((1, 4)).astype(np.float32)
    first, second = (ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (proto, own))
    np.testing.assert_array_equal(first, second)


def test_layers_share_a_bias_where_they_share_the_weight(make_model: Maker) -> None:
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal((4, 4)).astype(np.float32) for n in "wv"} | {"b": np.zeros(4, np.float32)}
    layers = [("x", "w", "a"), ("a", "w", "c"), ("c", "v", "y")]
    proto = make_model([node("Gemm", [x, w, "b"], [y]) for x, w, y in layers], [1, 4], arrays)
    own = prepare(proto, None)
    assert [list(n.input[1:]) for n in own.graph.node] == [["w", "b"], ["w", "b"], ["v", "b.2"]]
    nodes = [n for x, w, y in layers for n in (node("MatMul", [x, w], [f"{y}m"]), node("Add", [f"{y}m", "b"], [y]))]
    own = prepare(make_model(nodes, [1, 4], arrays), None)
    assert [n.input[1] for n in own.graph.node] == ["w", "b", "w", "b", "v", "b.2"]


def test_matrices_and_vectors_in_other_places_stay_shared(make_model: Maker) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["a", "w"], ["c"]),
        node("Reshape", ["v", "row"], ["r"]),
        node("Gemm", ["c", "r"], ["d"], transB=1),
        node("Gemm", ["x", "r"], ["e"], transB=1),
        node("Add", ["d", "e"], ["y"]),
    ]
    arrays = {"w": np.eye(4, dtype=np.float32), "v": np.ones(4, np.float32), "row": np.array([1, 4])}
    proto = make_model(nodes, [1, 4], arrays)
    assert prepare(proto, None).SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)

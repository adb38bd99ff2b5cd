"""The nets of examples/whole_models import from both of PyTorch's exporters, every parameter as one that trains.

`make whole-models` trains them.
"""

from __future__ import annotations

import importlib.util
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from poet_codegen.graph import Graph, Kind, Role
from poet_codegen.plan import build_graphs, import_onnx, prepared
from poet_codegen.recipe import BatchNorm, Loss, Recipe

torch = pytest.importorskip("torch", reason="PyTorch is not installed; it writes the models of this test")

NETS = {
    "resnet8": ((1, 3, 32, 32), BatchNorm.TRAIN, Loss.CROSS_ENTROPY),
    "ds_cnn": ((1, 1, 49, 10), BatchNorm.TRAIN, Loss.CROSS_ENTROPY),
    "MobileNetV1": ((1, 3, 96, 96), BatchNorm.TRAIN, Loss.CROSS_ENTROPY),
    "autoencoder": ((8, 640), BatchNorm.TRAIN, Loss.MSE),
    "mobilenet_v2_blocks": ((2, 3, 24, 24), BatchNorm.FROZEN, Loss.CROSS_ENTROPY),
    "Bert": ((1, 32), None, Loss.CROSS_ENTROPY),
}


@pytest.fixture(scope="module")
def nets() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[2] / "examples" / "whole_models" / "nets.py"))


def unread_gradients(graph: Graph) -> list[str]:
    """What the backward pass computes and nobody needs."""
    read = {name for node in graph.nodes for name in node.inputs}
    return [name for node in graph.nodes if node.role is Role.BACKWARD for name in node.outputs if name not in read]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETS)
def test_both_exporters_write_the_same_training(name: str, nets: dict[str, Any], tmp_path: Path) -> None:
    if importlib.util.find_spec("onnxscript") is None:
        pytest.skip("onnxscript is not installed; PyTorch's newer exporter needs it")
    shape, batch_norm, loss = NETS[name]
    net = nets[name]().train()
    sample = torch.zeros(shape, dtype=torch.int32) if name == "Bert" else torch.zeros(shape)
    trained = {key: tuple(value.shape) for key, value in net.named_parameters()}
    ops = []
    for exporter in nets["EXPORTERS"]:
        path = tmp_path / f"{exporter}.onnx"
        nets["export"](net, sample, exporter, path)
        recipe = Recipe(batch_norm=batch_norm, loss=loss)
        model = import_onnx(prepared(path, recipe))
        for chosen in ("last:1", "bias"):
            assert not unread_gradients(build_graphs(model, replace(recipe, train=chosen))[0])
        train, _ = build_graphs(model, recipe)
        assert not unread_gradients(train)
        parameters = [t for t in train.of_kind(Kind.PARAM) if t.name in train.learned()]
        learned = {t.name: t.shape[::-1] if t.is_transposed else t.shape for t in parameters}
        assert {key: shape for key, shape in learned.items() if ".running_" not in key} == trained
        ops.append(sorted(node.op for node in train.nodes if node.op != "Reshape"))
    assert ops[0] == ops[1]

"""What `poet plan` says about the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from poet_codegen.cli.app import app
from typer.testing import CliRunner

node = helper.make_node


@pytest.mark.parametrize(("train", "said"), [("all", True), ("head", False)])
def test_parameters_that_layers_share_are_named(tmp_path: Path, train: str, said: bool) -> None:
    """Where they train; the head's bias, of equal values, is its own."""
    layers = [("x", "tied", "a"), ("a", "tied", "c"), ("c", "head", "y")]
    weights = {
        "tied": np.eye(4, dtype=np.float32),
        "head": np.ones((4, 4), np.float32),
        "bias": np.zeros(4, np.float32),
    }
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    nodes = [node("Gemm", [before, weight, "bias"], [after]) for before, weight, after in layers]
    graph = helper.make_graph(nodes, "tied", [x], [y], [numpy_helper.from_array(a, n) for n, a in weights.items()])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    command = ["plan", str(path), "--board", "qemu_netduinoplus2", "--ram", "8K", "--dir", str(tmp_path / "b")]
    result = CliRunner().invoke(app, [*command, "--train", train])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert ("tied is read by 2 layers and trains as one." in text) is said, text
    assert "bias is read by 3" not in text

"""Write digits.onnx: a small residual CNN for 8x8 grey images, with random weights.

    python examples/digits/make_model.py [OUTPUT.onnx] [--channels N]

The file it writes is committed as examples/digits/digits.onnx; the seed makes it the same file every time. With fewer
channels than 12 it fits smaller boards.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 12
CLASSES = 10
SEED = 2022


def build_model(channels: int = CHANNELS) -> onnx.ModelProto:
    """conv - relu - [conv - relu - conv + skip] - relu - pool - conv - relu - pool - dense."""
    rng = np.random.default_rng(SEED)
    weights: list[onnx.TensorProto] = []

    def parameter(name: str, *shape: int, fan_in: int) -> str:
        # He's initialisation, as PyTorch users know it: https://arxiv.org/abs/1502.01852
        values = rng.standard_normal(shape).astype(np.float32) * np.float32(np.sqrt(2.0 / fan_in))
        weights.append(numpy_helper.from_array(values if len(shape) > 1 else np.zeros(shape, np.float32), name))
        return name

    def conv(name: str, source: str, inputs: int, outputs: int) -> onnx.NodeProto:
        w = parameter(f"{name}.weight", outputs, inputs, 3, 3, fan_in=inputs * 9)
        b = parameter(f"{name}.bias", outputs, fan_in=1)
        return helper.make_node("Conv", [source, w, b], [f"{name}.y"], f"/{name}/Conv", pads=[1, 1, 1, 1])

    def relu(name: str, source: str) -> onnx.NodeProto:
        return helper.make_node("Relu", [source], [f"{name}.y"], f"/{name}/Relu")

    def pool(name: str, source: str) -> onnx.NodeProto:
        window = {"kernel_shape": [2, 2], "strides": [2, 2]}
        return helper.make_node("MaxPool", [source], [f"{name}.y"], f"/{name}/MaxPool", **window)

    c = channels
    nodes = [
        conv("stem", "image", 1, c),
        relu("stem_relu", "stem.y"),
        conv("block_a", "stem_relu.y", c, c),
        relu("block_relu", "block_a.y"),
        conv("block_b", "block_relu.y", c, c),
        helper.make_node("Add", ["block_b.y", "stem_relu.y"], ["skip.y"], "/skip/Add"),
        relu("skip_relu", "skip.y"),
        pool("pool1", "skip_relu.y"),
        conv("head", "pool1.y", c, c),
        relu("head_relu", "head.y"),
        pool("pool2", "head_relu.y"),
        helper.make_node("Flatten", ["pool2.y"], ["flat.y"], "/flat/Flatten", axis=1),
    ]
    features = c * 2 * 2
    w = parameter("classifier.weight", CLASSES, features, fan_in=features)
    b = parameter("classifier.bias", CLASSES, fan_in=1)
    nodes.append(helper.make_node("Gemm", ["flat.y", w, b], ["logits"], "/classifier/Gemm", transB=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model.producer_name = "poet-mcu examples/digits"
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=Path, default=Path(__file__).parent / "digits.onnx")
    parser.add_argument("--channels", type=int, default=CHANNELS)
    options = parser.parse_args()
    onnx.save(build_model(options.channels), options.output)

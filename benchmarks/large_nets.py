"""The nets of `make bench-large` in PyTorch, with seeded weights and data; frozen normalizations are folded."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SEED = 2022
_CALIBRATION = 32
"""Images whose statistics the normalizations take before they are frozen."""


def conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """A convolution with bias and its batch normalization, which `frozen` makes one."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.BatchNorm2d(outputs))


class PoetBlock(nn.Module):
    """POET's residual block: two convolutions with ReLU, and a convolution beside them in every block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv(inputs, outputs, stride), conv(outputs, outputs)
        self.beside = conv(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Image to image."""
        return torch.relu(torch.relu(self.second(torch.relu(self.first(x)))) + self.beside(x))


def poet_resnet18_cifar() -> nn.Module:
    """POET's "resnet18_cifar" (github.com/ShishirPatil/poet): 16, 32 and 64 channels, 248,746 parameters.

    That counts each normalization's two parameters and two statistics beside the convolution's bias.
    """
    blocks = [
        PoetBlock(inputs, outputs, stride)
        for inputs, outputs, stride in ((16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
    ]
    return nn.Sequential(conv(3, 16), *blocks, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10))


class BasicBlock(nn.Module):
    """ResNet's block (arXiv 1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv(inputs, outputs, stride), conv(outputs, outputs)
        self.beside = conv(inputs, outputs, stride, 1) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Image to image."""
        return torch.relu(self.second(torch.relu(self.first(x))) + self.beside(x))


def resnet18_32() -> nn.Module:
    """ResNet-18 for 32x32 images of 10 classes: a 3x3 stem without pooling, 11.2 million parameters."""
    blocks: list[nn.Module] = []
    inputs = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(conv(3, 64), nn.ReLU(), *blocks, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(512, 10))


def resnet18_224() -> nn.Module:
    """ResNet-18 for 224x224 images of 1000 classes, 11.7 million parameters."""
    stem = [conv(3, 64, 2, 7), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks: list[nn.Module] = []
    inputs = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*stem, *blocks, nn.AvgPool2d(7), nn.Flatten(), nn.Linear(512, 1000))


class InvertedResidual(nn.Module):
    """MobileNetV2's block (arXiv 1801.04381): expand, filter each channel, project; beside it nothing, or the input."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden)
        layers: list[nn.Module] = [conv(inputs, hidden, 1, 1), nn.ReLU6()] if expansion > 1 else []
        layers += [nn.Sequential(depthwise, nn.BatchNorm2d(hidden)), nn.ReLU6(), conv(hidden, outputs, 1, 1)]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Image to image."""
        y = self.layers(x)
        return x + y if self.adds else y


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 (1.0) for 96x96 images of 10 classes, 2.2 million parameters; nothing is dropped."""
    layers: list[nn.Module] = [conv(3, 32, 2), nn.ReLU6()]
    inputs = 32
    for expansion, outputs, count, stride in (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for i in range(count):
            layers.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, expansion))
            inputs = outputs
    layers += [conv(inputs, 1280, 1, 1), nn.ReLU6(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(1280, 10)]
    return nn.Sequential(*layers)


_WHOLE_MODELS = Path(__file__).parents[1] / "examples" / "whole_models"
BERT_WORDS, _BERT_POSITIONS = 30522, 512
BERT_TRAINED = "layers.*,pooler.*,classifier.*"
"""Of BERT: the encoder and its head; the embeddings are frozen."""


def bert(layers: int, hidden: int, tokens: int) -> nn.Module:
    """BERT (arXiv 1810.04805) with heads of 64; BERT-base has 12 layers, hidden 768 and 110 million parameters."""
    sys.path.insert(0, str(_WHOLE_MODELS))
    import nets

    net: nn.Module = nets.Bert(layers, hidden, BERT_WORDS, _BERT_POSITIONS, tokens)
    return net


@dataclass(frozen=True)
class Start:
    """Where training starts: the net, and a sample and a label for each step."""

    net: nn.Module
    x: NDArray[np.float32] | NDArray[np.int32]
    y: NDArray[np.int64]
    parameters: int
    """Before folding, statistics included."""


def start(make: Callable[[], nn.Module], sample: tuple[int, ...], classes: int, steps: int, words: int = 0) -> Start:
    """The same each time. `words`: samples are so many different numbers of words, not images."""
    torch.manual_seed(SEED)
    net = make()
    rng = np.random.default_rng(SEED)
    x: NDArray[np.float32] | NDArray[np.int32] = rng.standard_normal((steps, *sample)).astype(np.float32)
    if words:
        x = rng.integers(0, words, (steps, *sample)).astype(np.int32)
    y = rng.integers(0, classes, steps)
    calibration = torch.from_numpy(rng.standard_normal((_CALIBRATION, *sample)).astype(np.float32))
    parameters = sum(p.numel() for p in net.parameters())
    parameters += sum(b.numel() for b in net.buffers() if b.is_floating_point())
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    if not words:
        with torch.no_grad():
            net.train()(calibration)
    return Start(frozen(net.eval()), x, y, parameters)


def frozen(net: nn.Module) -> nn.Module:
    """Each convolution with its normalization as one convolution."""
    for name, module in net.named_children():
        children = list(module.children())
        if len(children) == 2 and isinstance(children[0], nn.Conv2d) and isinstance(children[1], nn.BatchNorm2d):
            setattr(net, name, fuse_conv_bn_eval(children[0], children[1]))
        else:
            frozen(module)
    return net


class Adapted(nn.Module):
    """A dense layer beside a low-rank adapter: y = xW + b + (xA)B."""

    def __init__(self, layer: nn.Module, a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
        super().__init__()
        self.layer = layer
        self.a, self.b = (nn.Parameter(torch.from_numpy(array.copy())) for array in (a, b))

    def forward(self, x: Tensor) -> Tensor:
        """Rows to rows."""
        y: Tensor = self.layer(x) + x @ self.a @ self.b
        return y


def adapt(net: nn.Module, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Put adapters, WEIGHT.lora_A and WEIGHT.lora_B among `weights`, beside their layers; the layers are frozen."""
    for name in [name.removesuffix(".weight.lora_A") for name in weights if name.endswith(".weight.lora_A")]:
        parent, _, child = name.rpartition(".")
        a, b = (weights[f"{name}.weight.lora_{end}"] for end in "AB")
        setattr(net.get_submodule(parent), child, Adapted(net.get_submodule(name), a, b))


def losses(
    begin: Start, rate: float, dtype: torch.dtype, learned: Mapping[str, NDArray[np.float32]] | None = None
) -> NDArray[np.float64]:
    """Of each step of SGD at batch 1, of the parameters and adapters `learned` with their first values (all)."""
    net = copy.deepcopy(begin.net)
    if learned is not None:
        for name, parameter in net.named_parameters():
            parameter.requires_grad = name in learned
        adapt(net, learned)
    net.to(dtype)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], rate)
    found = []
    for x, y in zip(begin.x, begin.y, strict=True):
        optimizer.zero_grad()
        sample = torch.from_numpy(x)[None]
        answer = net(sample.to(dtype) if sample.is_floating_point() else sample)
        loss = nn.functional.cross_entropy(answer, torch.tensor([y]))
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return np.array(found)


def export(begin: Start, path: Path) -> None:
    """Write the net's ONNX model, each parameter by its name."""
    sample = torch.from_numpy(begin.x[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mode = torch.onnx.TrainingMode.PRESERVE
        torch.onnx.export(begin.net, (sample,), str(path), dynamo=False, training=mode, do_constant_folding=False)

"""The nets of `make whole-models` in PyTorch, with seeded weights and data.

The first four are MLPerf Tiny's reference nets (github.com/mlcommons/tiny, benchmark/training), layer by layer. Keras'
defaults are kept: a bias in every layer, padding "same", BatchNormalization with epsilon 1e-3. The L2 regularizers and
the softmax behind the logits are left out, for they belong to the loss; so is dropout, whose masks PyTorch draws
otherwise.
"""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

KERAS_EPSILON = 1e-3
KERAS_MOMENTUM = 0.01
"""What Keras calls 0.99: PyTorch's figure is the weight of the new statistics."""


def same_conv(inputs: int, outputs: int, kernel: int, stride: int, size: int, groups: int = 1) -> list[nn.Module]:
    """A square convolution of a square image of `size` with Keras' padding "same", He's initialization."""
    return rectangular_conv(inputs, outputs, (kernel, kernel), stride, (size, size), groups)


def rectangular_conv(
    inputs: int, outputs: int, kernel: tuple[int, int], stride: int, size: tuple[int, int], groups: int = 1
) -> list[nn.Module]:
    """A convolution with Keras' padding "same": what does not divide by two is padded more at the end."""
    total = [max((math.ceil(s / stride) - 1) * stride + k - s, 0) for s, k in zip(size, kernel, strict=True)]
    begin = [pad // 2 for pad in total]
    conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)
    if total == [2 * pad for pad in begin]:
        conv.padding = (begin[0], begin[1])
        return [conv]
    return [nn.ZeroPad2d((begin[1], total[1] - begin[1], begin[0], total[0] - begin[0])), conv]


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNormalization of images with Keras' defaults."""
    return nn.BatchNorm2d(channels, eps=KERAS_EPSILON, momentum=KERAS_MOMENTUM)


class Residual(nn.Module):
    """A stack of ResNet v1: two convolutions, and a 1x1 convolution beside them where the size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, size: int) -> None:
        super().__init__()
        self.straight = nn.Sequential(
            *same_conv(inputs, outputs, 3, stride, size),
            batch_norm(outputs),
            nn.ReLU(),
            *same_conv(outputs, outputs, 3, 1, size // stride),
            batch_norm(outputs),
        )
        self.beside = nn.Sequential(*same_conv(inputs, outputs, 1, stride, size)) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Image to image."""
        return torch.relu(self.beside(x) + self.straight(x))


def resnet8() -> nn.Module:
    """ResNet-8 for CIFAR-10: image_classification/keras_model.py, resnet_v1_eembc, with the benchmark's 16 filters."""
    return nn.Sequential(
        *same_conv(3, 16, 3, 1, 32),
        batch_norm(16),
        nn.ReLU(),
        Residual(16, 16, 1, 32),
        Residual(16, 32, 2, 32),
        Residual(32, 64, 2, 16),
        nn.AvgPool2d(8),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def ds_cnn() -> nn.Module:
    """DS-CNN for 12 keywords, 49 frames of 10 MFCCs: keyword_spotting/keras_model.py, ds_cnn."""
    frames, width = (49, 10), 64
    layers: list[nn.Module] = [*rectangular_conv(1, width, (10, 4), 2, frames), batch_norm(width), nn.ReLU()]
    for _ in range(4):
        layers += [*rectangular_conv(width, width, (3, 3), 1, (25, 5), width), batch_norm(width), nn.ReLU()]
        layers += [*rectangular_conv(width, width, (1, 1), 1, (25, 5)), batch_norm(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AvgPool2d((25, 5)), nn.Flatten(), nn.Linear(width, 12))


class MobileNetV1(nn.Module):
    """MobileNetV1 0.25 for person detection in 96x96: visual_wake_words/vww_model.py, mobilenet_v1."""

    def __init__(self) -> None:
        super().__init__()
        channels, size = 8, 48
        self.stem = nn.Sequential(*same_conv(3, channels, 3, 2, 96), batch_norm(channels), nn.ReLU())
        self.blocks = nn.Sequential()
        shapes = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]
        for outputs, stride in shapes:
            depthwise = same_conv(channels, channels, 3, stride, size, channels)
            size //= stride
            pointwise = same_conv(channels, outputs, 1, 1, size)
            self.blocks.append(
                nn.Sequential(*depthwise, batch_norm(channels), nn.ReLU(), *pointwise, batch_norm(outputs), nn.ReLU())
            )
            channels = outputs
        self.pool = nn.AvgPool2d(size)
        self.classifier = nn.Linear(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Images [batch, 3, 96, 96] to logits [batch, 2]."""
        return self.classifier(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


def autoencoder() -> nn.Module:
    """The deep autoencoder for machine sounds: anomaly_detection/keras_model.py, get_model(640)."""
    widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        norm = nn.BatchNorm1d(outputs, eps=KERAS_EPSILON, momentum=KERAS_MOMENTUM)
        layers += [nn.Linear(inputs, outputs), norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 640))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand, depthwise, project, with a skip where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        self.skip = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *self._conv(inputs, inner, 1, 1, 1),
            nn.ReLU6(),
            *self._conv(inner, inner, 3, stride, inner),
            nn.ReLU6(),
            *self._conv(inner, outputs, 1, 1, 1),
        )

    @staticmethod
    def _conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> tuple[nn.Module, nn.Module]:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return conv, nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Image to image."""
        return x + self.layers(x) if self.skip else self.layers(x)


def mobilenet_v2_blocks() -> nn.Module:
    """MobileNetV2's pieces (arXiv 1801.04381) for 32x32 images: a stem, five inverted residuals, a head."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        InvertedResidual(8, 8, 1, 1),
        InvertedResidual(8, 12, 2, 4),
        InvertedResidual(12, 12, 1, 4),
        InvertedResidual(12, 16, 2, 4),
        InvertedResidual(16, 16, 1, 4),
        nn.Conv2d(16, 48, 1, bias=False),
        nn.BatchNorm2d(48),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 10),
    )


class BertLayer(nn.Module):
    """A layer of BERT's encoder (arXiv 1810.04805): self-attention and two dense layers, with skips and norms."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(hidden, hidden) for _ in range(4))
        self.attention_norm = nn.LayerNorm(hidden, eps=1e-12)
        self.inner, self.outer = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states [batch, tokens, hidden] to the same."""
        batch, tokens, hidden = x.shape
        query, key, value = (
            layer(x).view(batch, tokens, self.heads, hidden // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        shares = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(hidden // self.heads), -1)
        x = self.attention_norm(x + self.out((shares @ value).transpose(1, 2).reshape(batch, tokens, hidden)))
        return self.norm(x + self.outer(nn.functional.gelu(self.inner(x))))


class Bert(nn.Module):
    """BERT for classification of sequences: by default 2 layers, 2 heads, hidden 128, 32 tokens, one token a byte."""

    WORDS, TOKENS, HIDDEN, CLASSES = 256, 32, 128, 4

    def __init__(
        self, layers: int = 2, hidden: int = HIDDEN, words: int = WORDS, positions: int = TOKENS, tokens: int = TOKENS
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words, hidden)
        self.positions = nn.Embedding(positions, hidden)
        self.types = nn.Embedding(2, hidden)
        self.register_buffer("order", torch.arange(tokens)[None])
        self.register_buffer("segment", torch.zeros(1, tokens, dtype=torch.int64))
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        self.layers = nn.Sequential(*(BertLayer(hidden, hidden // 64) for _ in range(layers)))
        self.pooler, self.classifier = nn.Linear(hidden, hidden), nn.Linear(hidden, self.CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, index: Tensor) -> Tensor:
        """Token numbers [batch, tokens] to logits [batch, classes]."""
        x = self.norm(self.words(index) + self.positions(self.order) + self.types(self.segment))
        return self.classifier(torch.tanh(self.pooler(self.layers(x)[:, 0])))


EXPORTERS = ("script", "dynamo")
"""PyTorch's older and newer ONNX exporter."""


def export(net: nn.Module, sample: Tensor, exporter: str, path: Path) -> None:
    """Write the ONNX model of a net that is to train: with its batch normalizations, each parameter by its name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            # With optimize=True it merges each batch normalization into the convolution before it.
            torch.onnx.export(net, (sample,), path, dynamo=True, optimize=False, external_data=False, verbose=False)
        else:
            # As it is, frozen normalizations included: to export it in training mode would move their statistics.
            mode = torch.onnx.TrainingMode.PRESERVE
            torch.onnx.export(net, (sample,), str(path), dynamo=False, training=mode, do_constant_folding=False)

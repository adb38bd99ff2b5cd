"""The nets of `make bench-large`, and the RAM that each has to do with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks import large_nets

BOARD = "qemu_mps2_an386"
KIB = 1024


@dataclass(frozen=True)
class Case:
    """A net in some RAM. Of that, `arena_bytes` are what the firmware's other data and the stack leave."""

    model: str
    make: Callable[[], torch.nn.Module]
    sample: tuple[int, ...]
    classes: int
    rate: float
    steps: int
    ram_bytes: int
    arena_bytes: int
    board: str = BOARD
    train: str = "all"
    words: int = 0
    """Different numbers in a sample of words; 0: samples are images."""


def _bert(
    model: str,
    layers: int,
    tokens: int,
    steps: int,
    ram_bytes: int,
    arena_bytes: int,
    train: str = large_nets.BERT_TRAINED,
) -> Case:
    make = partial(large_nets.bert, layers, 768, tokens)
    words = large_nets.BERT_WORDS
    return Case(model, make, (tokens,), 4, 0.01, steps, ram_bytes, arena_bytes, train=train, words=words)


CASES = {
    "poet_resnet18_cifar_64": Case(
        "POET's resnet18_cifar", large_nets.poet_resnet18_cifar, (3, 32, 32), 10, 0.005, 20, 64 * KIB, 40_000
    ),
    "poet_resnet18_cifar_32": Case(
        "POET's resnet18_cifar", large_nets.poet_resnet18_cifar, (3, 32, 32), 10, 0.005, 5, 32 * KIB, 20_000
    ),
    "resnet18_32_256": Case("ResNet-18, 32x32", large_nets.resnet18_32, (3, 32, 32), 10, 0.001, 3, 256 * KIB, 230_000),
    "resnet18_32_64": Case("ResNet-18, 32x32", large_nets.resnet18_32, (3, 32, 32), 10, 0.001, 3, 64 * KIB, 40_000),
    "resnet18_32_lm3s6965": Case(
        *("ResNet-18, 32x32", large_nets.resnet18_32, (3, 32, 32), 10, 0.001, 1, 64 * KIB, 40_000, "qemu_lm3s6965")
    ),
    "resnet18_224_256": Case(
        "ResNet-18, 224x224", large_nets.resnet18_224, (3, 224, 224), 1000, 0.001, 1, 256 * KIB, 246_000
    ),
    "resnet18_224_128": Case(
        "ResNet-18, 224x224", large_nets.resnet18_224, (3, 224, 224), 1000, 0.001, 1, 128 * KIB, 114_000
    ),
    "mobilenet_v2_128": Case(
        "MobileNetV2, 96x96", large_nets.mobilenet_v2, (3, 96, 96), 10, 0.001, 3, 128 * KIB, 114_000
    ),
    "bert_2_layers_256": _bert("BERT, 2 layers of 768", 2, 32, 3, 256 * KIB, 230_000),
    "bert_base_256": _bert("BERT-base, 32 tokens", 12, 32, 3, 256 * KIB, 230_000),
    "bert_base_64": _bert("BERT-base, 32 tokens", 12, 32, 1, 64 * KIB, 46_000),
    "bert_base_128_tokens_256": _bert("BERT-base, 128 tokens", 12, 128, 1, 256 * KIB, 230_000),
    "bert_base_lora_256": _bert("BERT-base, 32 tokens, LoRA of rank 8", 12, 32, 3, 256 * KIB, 230_000, "lora:8"),
    "bert_base_last_256": _bert("BERT-base, 32 tokens, last:2", 12, 32, 3, 256 * KIB, 230_000, "last:2"),
}

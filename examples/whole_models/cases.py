"""What `make whole-models` trains: each net with its data, its recipe, and the real board it must fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import nets
import numpy as np
import torch
from numpy.typing import NDArray
from poet_codegen.lower import Home
from poet_codegen.recipe import BatchNorm, Loss
from torch import nn
from torch.nn import functional

BATCHES = 4
"""Different batches in the data; the steps go round them, so that the loss can fall."""
SEED = 2022

Arrays = tuple[NDArray[np.generic], NDArray[np.generic]]
KIB = 1024


@dataclass(frozen=True)
class Part:
    """A microcontroller as one can buy it on a board. RAM is the largest contiguous range; sizes in bytes."""

    board: str
    ram_bytes: int
    flash_bytes: int
    source: str


F407 = Part("STM32F4DISCOVERY (STM32F407VG)", 128 * KIB, 1024 * KIB, "ST DS8626: SRAM1 and SRAM2 at 0x20000000")
F401 = Part("NUCLEO-F401RE", 96 * KIB, 512 * KIB, "ST DS10086")
F429 = Part("NUCLEO-F429ZI", 192 * KIB, 2048 * KIB, "ST DS9405: SRAM1, SRAM2 and SRAM3 at 0x20000000")
F767 = Part("NUCLEO-F767ZI", 512 * KIB, 2048 * KIB, "ST DS11532: DTCM, SRAM1 and SRAM2 at 0x20000000")
NRF52840 = Part("nRF52840 DK", 256 * KIB, 1024 * KIB, "Nordic nRF52840 Product Specification")


@dataclass(frozen=True)
class Case:
    """A net, how it trains, and where. Budgets are `--ram` in KiB, loose and tight."""

    title: str
    make: Callable[[], nn.Module]
    batch: int
    sample: tuple[int, ...]
    data: Callable[[Case, np.random.Generator, int], Arrays]
    """(case, generator, count) -> samples, labels."""
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    rate: float
    part: Part
    budgets_kib: tuple[int, int]
    train: str = "all"
    """What learns: names as PyTorch and the exporters know them, with * and ?, comma separated."""
    pretrained_steps: int = 0
    """Steps of Adam in PyTorch before: nets this deep amplify a rounding error while their weights are random."""
    batch_norm: BatchNorm | None = BatchNorm.TRAIN
    home: Home = Home.STORAGE
    target: Loss = Loss.CROSS_ENTROPY
    """The loss, as `poet plan --loss` names it."""


def images(case: Case, rng: np.random.Generator, count: int) -> Arrays:
    """Smooth patterns, one a class, with noise."""
    channels, height, width = case.sample
    classes = _outputs(case)
    rows, columns = np.linspace(0, np.pi, height)[:, None], np.linspace(0, np.pi, width)
    waves = rng.uniform(0.5, 3.0, (4, classes, channels, 1, 1))
    patterns = np.sin(waves[0] * rows + waves[1]) * np.cos(waves[2] * columns + waves[3])
    y = rng.integers(0, classes, count)
    return (patterns[y] + 0.5 * rng.standard_normal((count, *case.sample))).astype(np.float32), y


def spectra(case: Case, rng: np.random.Generator, count: int) -> Arrays:
    """Mixtures of eight spectra; an autoencoder's label is its sample."""
    tones = rng.standard_normal((8, *case.sample))
    x = (rng.standard_normal((count, 8)) @ tones / np.sqrt(8)).astype(np.float32)
    return x, x


def bytes_of_text(case: Case, rng: np.random.Generator, count: int) -> Arrays:
    """Sequences of bytes; each class has sixteen favourite ones."""
    favourites = rng.integers(0, nets.Bert.WORDS, (nets.Bert.CLASSES, 16))
    y = rng.integers(0, nets.Bert.CLASSES, count)
    any_byte = rng.integers(0, nets.Bert.WORDS, (count, *case.sample))
    favourite = favourites[y[:, None], rng.integers(0, 16, any_byte.shape)]
    return np.where(rng.random(any_byte.shape) < 0.5, favourite, any_byte).astype(np.int32), y


def _outputs(case: Case) -> int:
    last = list(case.make().modules())[-1]
    assert isinstance(last, nn.Linear)
    return last.out_features


CASES = {
    "resnet8": Case(
        "ResNet-8", nets.resnet8, 1, (3, 32, 32), images, functional.cross_entropy, 0.005,
        NRF52840, (232, 210),
    ),
    "ds_cnn": Case(
        "DS-CNN", nets.ds_cnn, 1, (1, 49, 10), images, functional.cross_entropy, 0.01,
        F407, (114, 106),
    ),
    "mobilenet_v1": Case(
        "MobileNetV1 0.25", nets.MobileNetV1, 1, (3, 96, 96), images, functional.cross_entropy, 0.001,
        F767, (384, 330), pretrained_steps=5, batch_norm=BatchNorm.FROZEN,
    ),
    "autoencoder": Case(
        "Deep autoencoder", nets.autoencoder, 8, (640,), spectra, functional.mse_loss, 0.05,
        F429, (116, 96), "[1-9].*,1?.*,2[0-6].*", 60, target=Loss.MSE,
    ),
    "mobilenet_v2": Case(
        "MobileNetV2 blocks", nets.mobilenet_v2_blocks, 1, (3, 24, 24), images, functional.cross_entropy, 0.005,
        F401, (80, 70), pretrained_steps=60, home=Home.RAM,
    ),
    "bert": Case(
        "BERT, 2 layers", nets.Bert, 1, (nets.Bert.TOKENS,), bytes_of_text, functional.cross_entropy, 0.01,
        F767, (480, 380), batch_norm=None,
    ),
}  # fmt: skip

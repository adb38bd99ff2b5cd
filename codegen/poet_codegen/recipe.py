"""The recipe: how a model is trained, as far as that is fixed when it is planned."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from poet_solver.errors import PoetError
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

_ADAMW_DECAY = 0.01
_FLOAT32 = np.finfo(np.float32)
_MOST_MICRO_BATCHES = 1 << 16


class RecipeError(PoetError):
    """Options of training that make no sense, alone or together."""


class Optimizer(StrEnum):
    """What turns gradients into new weights, with the formulas of torch.optim."""

    SGD = "sgd"
    ADAM = "adam"
    ADAMW = "adamw"


class Dropouts(StrEnum):
    """Which Dropout nodes drop in training; inference drops nothing."""

    MODEL = "model"  # those that the model says train: training_mode, or an operator set before 12
    ALL = "all"
    NONE = "none"


class BatchNorm(StrEnum):
    """How models with BatchNormalization train; inference always normalizes by the running statistics."""

    TRAIN = "train"  # by the statistics of each batch; the running ones follow, as in PyTorch
    FROZEN = "frozen"  # by the running statistics, which stay as they are; scale and bias may train
    FOLD = "fold"  # multiplied into the layer before, when the model is planned


class Loss(StrEnum):
    """What training makes small (ops/loss.py)."""

    CROSS_ENTROPY = "cross-entropy"  # softmax, against class indices
    SOFT_CROSS_ENTROPY = "soft-cross-entropy"  # softmax, against rows of probabilities
    MSE = "mse"  # mean squared error
    BCE = "bce"  # binary cross entropy of logits, against probabilities


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """What `poet plan` was told about training, but the learning rate: the host gives that with each step.

    The defaults are those of torch.optim. Raises RecipeError for what cannot be meant.
    """

    train: str = "all"
    """Which parameters learn: a pattern of selection.py."""
    loss: Loss = Loss.CROSS_ENTROPY
    """Of the model's output against the label."""
    batch_norm: BatchNorm | None = None
    """None: the model has no BatchNormalization, or planning it is refused."""
    dropout: Dropouts = Dropouts.MODEL
    dropout_seed: int = 0
    """Of the random masks, 32 bits."""
    optimizer: Optimizer = Optimizer.SGD
    momentum: float = 0.0
    """Of SGD."""
    nesterov: bool = False
    """Of SGD with momentum."""
    beta1: float = 0.9
    """Of Adam and AdamW, like the next two."""
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float | None = None
    """Of every parameter that trains; None: PyTorch's default, 0.01 for AdamW, else 0."""
    no_decay: str = ""
    """Trained parameters without weight decay: a pattern of selection.py; empty: none."""
    winograd: bool = False
    """3x3 convolutions by Winograd's F(2x2, 3x3): other roundings, so other bits than the direct sum."""
    accumulate: int = 1
    """Micro-batches (steps) whose mean gradient makes one update."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout_seed < 1 << 32:
            raise RecipeError(f"--dropout-seed {self.dropout_seed}: give a whole number from 0 to {(1 << 32) - 1}.")
        is_sgd = self.optimizer is Optimizer.SGD
        # The device computes in float32, where 0.99999999 is 1 and 1e39 is infinite.
        for option, value in (("momentum", self.momentum), ("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0.0 <= value < 1.0 or np.float32(value) == 1.0:
                raise RecipeError(f"--{option} {value}: give a number from 0 to below 1, such as 0.9.")
        if not 0.0 <= self.decay <= float(_FLOAT32.max):
            raise RecipeError(f"--weight-decay {self.decay}: give 0 or a positive float32 number, such as 0.01.")
        # In float32 epsilon must not vanish: it is what Adam divides by where there was no gradient yet.
        if not float(_FLOAT32.tiny) <= self.epsilon <= 1.0:
            raise RecipeError(f"--epsilon {self.epsilon}: give a small positive number, such as 1e-8.")
        if self.no_decay and not self.decay:
            raise RecipeError("--no-decay needs a weight decay to spare from. Add --weight-decay, such as 0.01.")
        if not 1 <= self.accumulate <= _MOST_MICRO_BATCHES:
            raise RecipeError(f"--accumulate {self.accumulate}: give a number of micro-batches, such as 4.")
        if self.momentum and not is_sgd:
            raise RecipeError(f"--momentum is an option of sgd; {self.optimizer.value} has --beta1.")
        if self.nesterov and not self.momentum:
            raise RecipeError("--nesterov needs sgd with --momentum, such as 0.9.")
        if is_sgd and (self.beta1, self.beta2, self.epsilon) != _ADAM_DEFAULTS:
            raise RecipeError("--beta1, --beta2 and --epsilon are options of adam and adamw. Add --optimizer adam.")

    @property
    def decay(self) -> float:
        """The weight decay, with the default in place."""
        if self.weight_decay is not None:
            return self.weight_decay
        return _ADAMW_DECAY if self.optimizer is Optimizer.ADAMW else 0.0

    def optimizer_words(self) -> str:
        """The optimizer with its constants, for people."""
        words = {Optimizer.SGD: "SGD", Optimizer.ADAM: "Adam", Optimizer.ADAMW: "AdamW"}[self.optimizer]
        if self.momentum:
            words += f", {'Nesterov ' if self.nesterov else ''}momentum {self.momentum:g}"
        if self.optimizer is not Optimizer.SGD:
            words += f", betas {self.beta1:g} and {self.beta2:g}, epsilon {self.epsilon:g}"
        if self.decay:
            words += f", weight decay {self.decay:g}" + (f" but for {self.no_decay}" if self.no_decay else "")
        if self.accumulate > 1:
            words += f", an update every {self.accumulate} steps"
        return words


_ADAM_DEFAULTS = (0.9, 0.999, 1e-8)
DEFAULT_RECIPE = Recipe()

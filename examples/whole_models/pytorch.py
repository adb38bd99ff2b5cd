"""The PyTorch side: seeded nets and data, and the same training steps."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from fnmatch import fnmatchcase

import cases
import numpy as np
import torch
from cases import Arrays, Case
from numpy.typing import NDArray
from poet_codegen.recipe import BatchNorm
from torch import nn

_PRETRAINING_BATCH = 16
_PRETRAINING_RATE = 0.002


@dataclass(frozen=True)
class Start:
    """Where training starts: the net with its weights, and the data of all steps."""

    net: nn.Module
    x: NDArray[np.generic]
    y: NDArray[np.generic]


def start(case: Case) -> Start:
    """The same net and data each time."""
    torch.manual_seed(cases.SEED)
    net = case.make().train()
    before = case.pretrained_steps * _PRETRAINING_BATCH
    x, y = case.data(case, np.random.default_rng(cases.SEED), before + cases.BATCHES * case.batch)
    optimizer = torch.optim.Adam(net.parameters(), _PRETRAINING_RATE)
    for begin in range(0, before, _PRETRAINING_BATCH):
        _step(case, net, optimizer, (x[begin : begin + _PRETRAINING_BATCH], y[begin : begin + _PRETRAINING_BATCH]))
    if case.batch_norm is BatchNorm.FROZEN:
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    return Start(net, x[before:], y[before:])


def losses(begin: Start, case: Case, steps: int, dtype: torch.dtype = torch.float32) -> NDArray[np.float64]:
    """Loss of each step of SGD on the parameters that `case.train` names."""
    net = copy.deepcopy(begin.net).to(dtype)
    trained = []
    for name, parameter in net.named_parameters():
        chosen = case.train == "all" or any(fnmatchcase(name, part) for part in case.train.split(","))
        parameter.requires_grad_(chosen)
        trained += [parameter] if chosen else []
    optimizer = torch.optim.SGD(trained, case.rate)
    batches = [slice(i * case.batch, (i + 1) * case.batch) for i in range(cases.BATCHES)]
    return np.array(
        [
            _step(case, net, optimizer, (begin.x[chosen], begin.y[chosen]), dtype)
            for chosen in (batches[step % cases.BATCHES] for step in range(steps))
        ]
    )


def _step(
    case: Case,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Arrays,
    dtype: torch.dtype = torch.float32,
) -> float:
    x, y = (t.to(dtype) if t.is_floating_point() else t for t in map(torch.from_numpy, batch))
    optimizer.zero_grad()
    loss = case.loss(net(x), y)
    loss.backward()
    optimizer.step()
    return float(loss.detach())

"""Samples for commands that train a few steps to see what they take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from poet_hil.dataset import load_npz
from poet_hil.errors import DatasetError
from poet_hil.manifest import Build
from poet_hil.samples import Batch, random_batches


def batches(build: Build, data: Path | None, count: int) -> list[Batch]:
    """The first batches of a data file, round and round; random ones without a file."""
    if data is None:
        return random_batches(build.manifest, count, seed=0)
    train = load_npz(data, build.manifest).train
    if train is None:
        raise DatasetError(f"{data} has no x_train and y_train (nor x and y). Add them, or leave --data out.")
    train.check(build.manifest)
    size = build.manifest.batch
    chosen = [[(number * size + i) % len(train) for i in range(size)] for number in range(count)]
    return [(train.samples(np.array(rows)), train.y[rows]) for rows in chosen]

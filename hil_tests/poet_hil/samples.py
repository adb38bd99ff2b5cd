"""Random samples that a build can be trained on, where no data is at hand: for tests and for profiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from poet_hil.manifest import Input, Manifest

Batch = tuple[dict[str, NDArray[Any]], NDArray[Any]]
"""Inputs by name, and labels, of one training step."""


def random_batches(manifest: Manifest, count: int, seed: int) -> list[Batch]:
    """Batches of uniform numbers, indices and labels, of the manifest's shapes and types."""
    rng = np.random.default_rng(seed)
    return [
        ({array.name: _drawn(rng, array) for array in manifest.inputs}, _labels(rng, manifest)) for _ in range(count)
    ]


def _drawn(rng: np.random.Generator, array: Input) -> NDArray[Any]:
    if array.dtype == "float32":
        return rng.random(array.shape, dtype=np.float32)
    first, end = array.index_range or (0, 2)
    return rng.integers(first, end, array.shape, np.int32)


def _labels(rng: np.random.Generator, manifest: Manifest) -> NDArray[Any]:
    """Classes, or numbers that are probabilities along the last axis: every loss takes them."""
    label = manifest.label
    if label.classes:
        return rng.integers(label.classes, size=label.shape, dtype=np.int32)
    numbers = rng.random(label.shape, dtype=np.float32)
    return np.asarray(numbers / numbers.sum(axis=-1, keepdims=True), np.float32)

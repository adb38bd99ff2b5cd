"""Samples and their class indices, from npz files; everything is checked before a device is touched."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poet_hil.errors import DatasetError
from poet_hil.manifest import Manifest


@dataclass(frozen=True)
class Dataset:
    """`x`: float32 [n, ...sample shape]; `y`: int64 [n] class indices; `source` is for messages."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    source: str

    def __len__(self) -> int:
        return len(self.y)

    def check(self, manifest: Manifest) -> None:
        """Raise DatasetError when samples do not fit the model's input or a label is none of its classes."""
        if self.x.shape[1:] != manifest.sample_shape:
            raise DatasetError(
                f"Samples of {self.source} have the shape {list(self.x.shape[1:])}, but the model's input "
                f"{manifest.input.name!r} takes {list(manifest.sample_shape)} (without the batch axis). "
                f"Reshape x to {['n', *manifest.sample_shape]}."
            )
        if manifest.label.count != manifest.batch:
            raise DatasetError(
                f"The model takes {manifest.label.count} labels for a batch of {manifest.batch}; a data set "
                f"has one class index for each sample. Train it through DeviceClient."
            )
        if len(self) < manifest.batch:
            raise DatasetError(
                f"{self.source} has {len(self)} samples, but the model trains {manifest.batch} at a time. "
                f"Give more, or plan with a smaller batch."
            )
        wrong = np.flatnonzero((self.y < 0) | (self.y >= manifest.label.classes))
        if wrong.size:
            at = int(wrong[0])
            raise DatasetError(
                f"Label {at} of {self.source} is {int(self.y[at])}, but the model has "
                f"{manifest.label.classes} classes, 0 to {manifest.label.classes - 1} ({wrong.size} of "
                f"{len(self)} labels are outside). Correct the labels, or give the model an output for each "
                f"class."
            )
        finite = np.isfinite(self.x.reshape(len(self), -1)).all(axis=1)
        if not finite.all():
            raise DatasetError(
                f"Sample {int(np.flatnonzero(~finite)[0])} of {self.source} holds NaN or infinity "
                f"({int((~finite).sum())} samples do). Remove or replace such values."
            )


@dataclass(frozen=True)
class Split:
    """What a file holds: samples to train on and samples to test with."""

    train: Dataset | None
    test: Dataset | None


def load_npz(path: Path) -> Split:
    """Read x_train, y_train, x_test, y_test, or x and y (which then serve for both)."""
    arrays = _read(path)
    if "x" in arrays and "y" in arrays:
        both = _dataset(arrays, "x", "y", path)
        return Split(both, both)
    pairs = {part: (f"x_{part}", f"y_{part}") for part in ("train", "test")}
    found = {part: _dataset(arrays, *keys, path) for part, keys in pairs.items() if set(keys) <= set(arrays)}
    if not found or any(key in arrays for part, keys in pairs.items() if part not in found for key in keys):
        raise DatasetError(
            f"{path} holds the arrays {', '.join(sorted(arrays)) or '(none)'}, but x_train and y_train, "
            f"x_test and y_test, or x and y are needed. Save them with numpy.savez."
        )
    return Split(found.get("train"), found.get("test"))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with archive:
            return {key: archive[key] for key in archive.files}
    except FileNotFoundError as error:
        raise DatasetError(f"There is no data file {path}. Check the name given with --data.") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{path} cannot be read as an npz file of plain arrays ({error}). Save it with numpy.savez, "
            f"without objects."
        ) from error


def _dataset(arrays: Mapping[str, NDArray[Any]], x_key: str, y_key: str, path: Path) -> Dataset:
    x, y = arrays[x_key], arrays[y_key]
    if x.ndim < 1 or x.dtype.kind not in "fiub":
        raise DatasetError(
            f"{x_key} of {path} is {x.dtype} of shape {list(x.shape)}; samples must be real numbers of shape "
            f"[n, ...]. Convert it."
        )
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DatasetError(
            f"{y_key} of {path} is {y.dtype} of shape {list(y.shape)}; labels must be class indices, "
            f"integers of shape [n]. Convert one-hot labels with argmax and others with astype(int)."
        )
    if len(x) != len(y):
        raise DatasetError(
            f"{path} holds {len(x)} samples in {x_key} and {len(y)} labels in {y_key}. Give one label for each sample."
        )
    if not len(y):
        raise DatasetError(f"{x_key} of {path} is empty. Give at least one sample.")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which check() reports
        samples = x.astype(np.float32)
    return Dataset(samples, y.astype(np.int64), f"{path} ({x_key}, {y_key})")

"""Samples and their labels, from npz files; everything is checked before a device is touched."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poet_hil.errors import DatasetError
from poet_hil.manifest import Input, Manifest

_SUM_TOLERANCE = 1e-3
"""How far from 1 the probabilities of a row may add up: float16 files do not get nearer."""


@dataclass(frozen=True)
class Dataset:
    """`x`: an array [n, ...sample shape] for each input of the model, by its name, in the input's type;
    `y`: int64 class indices or float32 targets, [n, ...]; `source` is for messages."""

    x: Mapping[str, NDArray[Any]]
    y: NDArray[Any]
    source: str

    def __len__(self) -> int:
        return len(self.y)

    def samples(self, chosen: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """What the model's inputs take for these samples."""
        return {name: array[chosen] for name, array in self.x.items()}

    def check(self, manifest: Manifest) -> None:
        """Raise DatasetError when samples do not fit the model's inputs, or labels its loss."""
        for array in (*manifest.inputs, manifest.label):
            if array.shape[0] != manifest.batch:
                raise DatasetError(
                    f"{array.name!r} has the shape {list(array.shape)}, whose first axis is not the batch of "
                    f"{manifest.batch}; a data set has one entry for each sample. Train it through DeviceClient."
                )
        names = [wanted.name for wanted in manifest.inputs]
        if self.x.keys() != set(names):
            raise DatasetError(
                f"{self.source} has samples for {', '.join(self.x) or 'nothing'}, but the model's inputs are "
                f"{', '.join(names)}. Give an array for each."
            )
        for wanted in manifest.inputs:
            self._check_input(wanted)
        if len(self) < manifest.batch:
            raise DatasetError(
                f"{self.source} has {len(self)} samples, but the model trains {manifest.batch} at a time. "
                f"Give more, or plan with a smaller batch."
            )
        shape = manifest.label.shape[1:]
        if self.y.shape[1:] != shape:
            raise DatasetError(
                f"Labels of {self.source} have the shape {list(self.y.shape[1:])}, but the loss ({manifest.loss}) "
                f"takes {list(shape)} (without the batch axis). Reshape y to {['n', *shape]}."
            )
        self._check_labels(manifest)

    def _check_input(self, wanted: Input) -> None:
        x = self.x[wanted.name]
        if len(x) != len(self):
            raise DatasetError(
                f"{self.source} holds {len(x)} samples of {wanted.name!r} and {len(self)} labels. "
                f"Give one label for each sample."
            )
        if x.shape[1:] != wanted.shape[1:]:
            raise DatasetError(
                f"Samples of {self.source} have the shape {list(x.shape[1:])}, but the model's input "
                f"{wanted.name!r} takes {list(wanted.shape[1:])} (without the batch axis). "
                f"Reshape them to {['n', *wanted.shape[1:]]}."
            )
        wrong = _bad_samples(~np.isfinite(x))
        if wrong.size:
            raise DatasetError(
                f"Sample {int(wrong[0])} of {self.source} holds NaN or infinity "
                f"({wrong.size} samples do). Remove or replace such values."
            )
        if wanted.index_range is None:
            return
        first, end = wanted.index_range
        wrong = _bad_samples((x < first) | (x >= end))
        if wrong.size:
            raise DatasetError(
                f"Sample {int(wrong[0])} of {self.source} holds an index in {wanted.name!r} that is not in the model's "
                f"table: they go from 0 to {end - 1} ({wrong.size} samples are wrong). Correct them, or give the model "
                f"a larger table."
            )

    def _check_labels(self, manifest: Manifest) -> None:
        classes = manifest.label.classes
        if classes:
            wrong = np.argwhere((self.y < 0) | (self.y >= classes))
            if wrong.size:
                at = tuple(int(i) for i in wrong[0])
                raise DatasetError(
                    f"Label {', '.join(map(str, at))} of {self.source} is {int(self.y[at])}, but the model has "
                    f"{classes} classes, 0 to {classes - 1} ({len(wrong)} of "
                    f"{self.y.size} labels are outside). Correct the labels, or give the model an output for each "
                    f"class."
                )
            return
        wrong = _bad_samples(~np.isfinite(self.y))
        if wrong.size:
            raise DatasetError(
                f"Label {int(wrong[0])} of {self.source} holds NaN or infinity "
                f"({wrong.size} labels do). Remove or replace such values."
            )
        if manifest.loss in ("soft-cross-entropy", "bce"):
            wrong = _bad_samples((self.y < 0.0) | (self.y > 1.0))
            if manifest.loss == "soft-cross-entropy":
                off = np.abs(self.y.sum(axis=-1, dtype=np.float64) - 1.0) > _SUM_TOLERANCE
                wrong = np.union1d(wrong, _bad_samples(off))
            if wrong.size:
                rule = " that add up to 1 along the last axis" if manifest.loss == "soft-cross-entropy" else ""
                raise DatasetError(
                    f"Label {int(wrong[0])} of {self.source} does not hold probabilities, numbers from 0 to 1{rule} "
                    f"({wrong.size} of {len(self)} labels do not), which the loss {manifest.loss} compares with. "
                    f"Correct them, or plan with another --loss."
                )


def _bad_samples(wrong: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Positions of the samples with anything wrong in them."""
    return np.flatnonzero(wrong.any(axis=tuple(range(1, wrong.ndim))))


@dataclass(frozen=True)
class Split:
    """What a file holds: samples to train on and samples to test with."""

    train: Dataset | None
    test: Dataset | None


def load_npz(path: Path, manifest: Manifest) -> Split:
    """Read x_train, y_train, x_test, y_test, or x and y (which then serve for both).

    Where the model has several inputs, each has its name in place of x. Targets of mean squared error may be left out
    when the model learns its own input (an autoencoder).
    """
    arrays = _read(path)
    keys = {part: _keys(arrays, manifest, suffix) for part, suffix in _SUFFIXES.items()}
    if all(key in arrays for key in keys["both"]):
        both = _dataset(arrays, keys["both"], manifest, path)
        return Split(both, both)
    found = {
        part: _dataset(arrays, keys[part], manifest, path)
        for part in ("train", "test")
        if all(key in arrays for key in keys[part])
    }
    half = any(key in arrays for part in ("train", "test") if part not in found for key in keys[part])
    if not found or half:
        needed = [_enumerated(keys[part]) for part in ("train", "test", "both")]
        raise DatasetError(
            f"{path} holds the arrays {', '.join(sorted(arrays)) or '(none)'}, but {needed[0]}, "
            f"{needed[1]}, or {needed[2]} are needed. Save them with numpy.savez."
        )
    return Split(found.get("train"), found.get("test"))


_SUFFIXES = {"train": "_train", "test": "_test", "both": ""}


def _enumerated(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _keys(arrays: Mapping[str, NDArray[Any]], manifest: Manifest, suffix: str) -> tuple[str, ...]:
    """Names that the arrays of a part have: those of the inputs, then that of the labels where one is needed."""
    names = tuple(f"{wanted.name}{suffix}" for wanted in manifest.inputs)
    if len(names) == 1 and names[0] not in arrays:
        names = (f"x{suffix}",)
    label = f"y{suffix}"
    return names if label not in arrays and _learns_its_input(manifest) else (*names, label)


def _learns_its_input(manifest: Manifest) -> bool:
    (first, *more) = manifest.inputs
    return manifest.loss == "mse" and not more and (first.shape, first.dtype) == (manifest.label.shape, "float32")


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


def _dataset(arrays: Mapping[str, NDArray[Any]], keys: tuple[str, ...], manifest: Manifest, path: Path) -> Dataset:
    x = {
        wanted.name: _input(arrays[key], wanted, key, path) for key, wanted in zip(keys, manifest.inputs, strict=False)
    }
    if len(keys) > len(x):
        y = _labels(arrays[keys[-1]], manifest, keys[-1], path)
    else:
        (y,) = x.values()
    for key, array in zip(keys, x.values(), strict=False):
        if len(array) != len(y):
            raise DatasetError(
                f"{path} holds {len(array)} samples in {key} and {len(y)} labels in {keys[-1]}. "
                f"Give one label for each sample."
            )
    if not len(y):
        raise DatasetError(f"{keys[0]} of {path} is empty. Give at least one sample.")
    return Dataset(x, y, f"{path} ({', '.join(keys)})")


def _input(array: NDArray[Any], wanted: Input, key: str, path: Path) -> NDArray[Any]:
    what, kinds = ("whole numbers", "iub") if wanted.dtype == "int32" else ("real numbers", "fiub")
    if array.ndim < 1 or array.dtype.kind not in kinds:
        raise DatasetError(
            f"{key} of {path} is {array.dtype} of shape {list(array.shape)}; samples must be {what} of shape "
            f"[n, ...]. Convert it."
        )
    if wanted.dtype == "float32":
        return _float32(array)
    limits = np.iinfo(np.int32)
    if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
        raise DatasetError(f"{key} of {path} holds numbers beyond int32, which a board's input has. Correct them.")
    return array.astype(np.int32)


def _labels(array: NDArray[Any], manifest: Manifest, key: str, path: Path) -> NDArray[Any]:
    shape = ", ".join(["n", *map(str, manifest.label.shape[1:])])
    if not manifest.label.classes:
        if array.ndim < 1 or array.dtype.kind not in "fiub":
            raise DatasetError(
                f"{key} of {path} is {array.dtype} of shape {list(array.shape)}; the loss {manifest.loss} compares "
                f"with real numbers of shape [{shape}]. Convert it."
            )
        return _float32(array)
    if array.ndim != len(manifest.label.shape) or array.dtype.kind not in "iu":
        raise DatasetError(
            f"{key} of {path} is {array.dtype} of shape {list(array.shape)}; labels must be class indices, "
            f"integers of shape [{shape}]. Convert one-hot labels with argmax and others with astype(int)."
        )
    return array.astype(np.int64)


def _float32(array: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which check() reports
        return array.astype(np.float32)

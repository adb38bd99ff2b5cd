from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poet_hil.dataset import Dataset, load_npz
from poet_hil.errors import DatasetError
from poet_hil.manifest import Manifest

X = np.zeros((4, 1, 4, 4), np.float32)
Y = np.array([0, 1, 2, 0])


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def test_a_split_file_gives_both_parts(tmp_path: Path) -> None:
    split = load_npz(saved(tmp_path, x_train=X, y_train=Y, x_test=X[:2].astype("u1"), y_test=Y[:2].astype("u1")))
    assert split.train is not None and split.test is not None
    assert (len(split.train), len(split.test)) == (4, 2)
    assert split.test.x.dtype == np.float32 and split.test.y.dtype == np.int64


def test_one_part_alone_is_fine(tmp_path: Path) -> None:
    split = load_npz(saved(tmp_path, x_test=X, y_test=Y))
    assert split.train is None and split.test is not None


def test_x_and_y_serve_for_both(tmp_path: Path) -> None:
    split = load_npz(saved(tmp_path, x=X, y=Y))
    assert split.train is split.test is not None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no data file .*nowhere.npz"):
        load_npz(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("content", [b"", b"PK\3\4 cut", b"x,y\n1,2\n", b"\x93NUMPY\1\0"])
def test_what_is_no_npz_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"numpy\.savez"):
        load_npz(path)


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        load_npz(tmp_path)


def test_a_single_array_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", X)
    with pytest.raises(DatasetError, match="single array"):
        load_npz(tmp_path / "data.npy")


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        load_npz(saved(tmp_path, x=np.array([{}, {}], dtype=object), y=Y))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"\(none\)"),
        ({"images": X, "labels": Y}, "images, labels"),
        ({"x_train": X}, "x_train and y_train"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "x_test and y_test"),
        ({"x": X, "y": Y[:3]}, "4 samples in x and 3 labels in y"),
        ({"x": X[:0], "y": Y[:0]}, "empty"),
        ({"x": X, "y": np.eye(4)}, "argmax"),
        ({"x": X, "y": Y.astype(float)}, "integers"),
        ({"x": X, "y": np.array(["a", "b", "c", "d"])}, "<U1"),
        ({"x": X.astype(complex), "y": Y}, "complex128"),
        ({"x": np.float32(1), "y": Y}, "shape"),
    ],
)
def test_unusable_arrays_are_described(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_npz(saved(tmp_path, **arrays))


def broken(**changes: Any) -> Dataset:
    x, y = X.copy(), Y.astype(np.int64)
    for index, value in changes.get("labels", {}).items():
        y[index] = value
    for index, value in changes.get("values", {}).items():
        x[index] = value
    return Dataset(x.reshape(changes.get("shape", x.shape)), y, "data.npz")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (broken(shape=(4, 16)), r"shape \[16\], but .*'image' takes \[1, 4, 4\].*\['n', 1, 4, 4\]"),
        (broken(labels={2: 3}), r"Label 2 .* is 3, but the model has 3 classes, 0 to 2 \(1 of 4"),
        (broken(labels={1: -1, 3: 7}), r"Label 1 .* is -1, .*\(2 of 4"),
        (broken(values={(3, 0, 1, 1): np.nan}), "Sample 3 .*NaN"),
        (broken(values={(0, 0, 0, 0): np.inf}), "Sample 0"),
        (Dataset(X[:0], Y[:0], "data.npz"), "has 0 samples"),
    ],
)
def test_data_that_does_not_fit_the_model_is_refused(manifest: Manifest, data: Dataset, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        data.check(manifest)


def test_data_that_fits_passes(manifest: Manifest) -> None:
    broken().check(manifest)


def test_values_too_large_for_float32_are_found(tmp_path: Path, manifest: Manifest) -> None:
    split = load_npz(saved(tmp_path, x=np.full((4, 1, 4, 4), 1e300), y=Y))
    assert split.train is not None
    with pytest.raises(DatasetError, match="infinity"):
        split.train.check(manifest)

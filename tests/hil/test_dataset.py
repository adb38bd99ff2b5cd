from __future__ import annotations

import math
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


def test_a_split_file_gives_both_parts(manifest: Manifest, tmp_path: Path) -> None:
    split = load_npz(
        saved(tmp_path, x_train=X, y_train=Y, x_test=X[:2].astype("u1"), y_test=Y[:2].astype("u1")), manifest
    )
    assert split.train is not None and split.test is not None
    assert (len(split.train), len(split.test)) == (4, 2)
    assert split.test.x["image"].dtype == np.float32 and split.test.y.dtype == np.int64


def test_one_part_alone_is_fine(manifest: Manifest, tmp_path: Path) -> None:
    split = load_npz(saved(tmp_path, x_test=X, y_test=Y), manifest)
    assert split.train is None and split.test is not None


def test_x_and_y_serve_for_both(manifest: Manifest, tmp_path: Path) -> None:
    split = load_npz(saved(tmp_path, x=X, y=Y), manifest)
    assert split.train is split.test is not None


def test_a_missing_file_is_named(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no data file .*nowhere.npz"):
        load_npz(tmp_path / "nowhere.npz", manifest)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 cut", b"x,y\n1,2\n", b"\x93NUMPY\1\0"])
def test_what_is_no_npz_is_an_error(manifest: Manifest, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"numpy\.savez"):
        load_npz(path, manifest)


def test_a_folder_is_an_error(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        load_npz(tmp_path, manifest)


def test_a_single_array_is_an_error(manifest: Manifest, tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", X)
    with pytest.raises(DatasetError, match="single array"):
        load_npz(tmp_path / "data.npy", manifest)


def test_objects_are_never_unpickled(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        load_npz(saved(tmp_path, x=np.array([{}, {}], dtype=object), y=Y), manifest)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"\(none\)"),
        ({"images": X, "labels": Y}, "images, labels"),
        ({"x_train": X}, "x_train and y_train"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "x_test and y_test"),
        ({"x": X, "y": Y[:3]}, "4 samples in x and 3 labels in y"),
        ({"image": X, "y": Y[:3]}, "4 samples in image and 3 labels in y"),
        ({"x": X[:0], "y": Y[:0]}, "empty"),
        ({"x": X, "y": np.eye(4)}, "argmax"),
        ({"x": X, "y": Y.astype(float)}, "integers"),
        ({"x": X, "y": np.array(["a", "b", "c", "d"])}, "<U1"),
        ({"x": X.astype(complex), "y": Y}, "complex128"),
        ({"x": np.float32(1), "y": Y}, "shape"),
    ],
)
def test_unusable_arrays_are_described(
    manifest: Manifest, tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        load_npz(saved(tmp_path, **arrays), manifest)


def broken(**changes: Any) -> Dataset:
    x, y = X.copy(), Y.astype(np.int64)
    for index, value in changes.get("labels", {}).items():
        y[index] = value
    for index, value in changes.get("values", {}).items():
        x[index] = value
    return Dataset({"image": x.reshape(changes.get("shape", x.shape))}, y, "data.npz")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (broken(shape=(4, 16)), r"shape \[16\], but .*'image' takes \[1, 4, 4\].*\['n', 1, 4, 4\]"),
        (broken(labels={2: 3}), r"Label 2 .* is 3, but the model has 3 classes, 0 to 2 \(1 of 4"),
        (broken(labels={1: -1, 3: 7}), r"Label 1 .* is -1, .*\(2 of 4"),
        (broken(values={(3, 0, 1, 1): np.nan}), "Sample 3 .*NaN"),
        (broken(values={(0, 0, 0, 0): np.inf}), "Sample 0"),
        (Dataset({"image": X[:0]}, Y[:0], "data.npz"), "has 0 samples"),
        (Dataset({"picture": X}, Y, "data.npz"), "samples for picture, but .* are image"),
        (Dataset({"image": X}, Y[:3], "data.npz"), "4 samples of 'image' and 3 labels"),
    ],
)
def test_data_that_does_not_fit_the_model_is_refused(manifest: Manifest, data: Dataset, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        data.check(manifest)


def test_data_that_fits_passes(manifest: Manifest) -> None:
    broken().check(manifest)


def test_values_too_large_for_float32_are_found(manifest: Manifest, tmp_path: Path) -> None:
    split = load_npz(saved(tmp_path, x=np.full((4, 1, 4, 4), 1e300), y=Y), manifest)
    assert split.train is not None
    with pytest.raises(DatasetError, match="infinity"):
        split.train.check(manifest)


def of_loss(manifest: Manifest, loss: str, *shape: int) -> Manifest:
    """The manifest of a model of one input and one output, both float32, with float32 labels."""
    array = {"name": "image", "shape": shape, "bytes": 4 * math.prod(shape), "dtype": "float32"}
    changes = {"loss": loss, "inputs": [array], "output": array, "label": {**array, "classes": 0}}
    return Manifest.model_validate({**manifest.model_dump(), **changes})


def test_targets_are_numbers_of_the_outputs_shape(manifest: Manifest, tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).standard_normal((5, 3))
    split = load_npz(saved(tmp_path, x=numbers, y=numbers[::-1]), of_loss(manifest, "mse", 2, 3))
    assert split.train is not None and split.train.y.dtype == np.float32
    assert split.train.y.tolist() == numbers[::-1].astype(np.float32).tolist()
    split.train.check(of_loss(manifest, "mse", 2, 3))


def test_an_autoencoder_needs_no_targets(manifest: Manifest, tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).standard_normal((5, 3))
    split = load_npz(saved(tmp_path, x_train=numbers), of_loss(manifest, "mse", 1, 3))
    assert split.train is not None and split.test is None
    assert split.train.y is split.train.x["image"]
    with pytest.raises(DatasetError, match="x_train and y_train"):
        load_npz(saved(tmp_path, x_train=numbers), of_loss(manifest, "bce", 1, 3))


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        ("mse", [[0.0, np.nan]], "Label 0 .* NaN"),
        ("mse", [[0.0, 1.0, 2.0]], r"shape \[3\], but the loss \(mse\) takes \[2\]"),
        ("mse", [["a", "b"]], "real numbers of shape .*n, 2"),
        ("bce", [[0.5, 0.5], [0.0, 1.5]], "Label 1 .* does not hold probabilities, numbers from 0 to 1 \\(1 of 2"),
        ("bce", [[-0.1, 0.5]], "Label 0 .* bce"),
        ("soft-cross-entropy", [[0.5, 0.5], [0.5, 0.4]], "Label 1 .* add up to 1"),
        ("soft-cross-entropy", [[1.5, -0.5]], "Label 0 .* add up to 1"),
    ],
)
def test_targets_that_do_not_fit_the_loss_are_refused(
    manifest: Manifest, tmp_path: Path, loss: str, y: Any, message: str
) -> None:
    wanted = of_loss(manifest, loss, 1, 2)
    with pytest.raises(DatasetError, match=message):
        split = load_npz(saved(tmp_path, x=np.zeros((len(y), 2)), y=np.array(y)), wanted)
        assert split.train is not None
        split.train.check(wanted)


def test_targets_that_fit_the_loss_pass(manifest: Manifest, tmp_path: Path) -> None:
    for loss, y in (("bce", [[0.0, 1.0]]), ("soft-cross-entropy", [[0.25, 0.75]]), ("mse", [[-3.0, 1e9]])):
        wanted = of_loss(manifest, loss, 1, 2)
        split = load_npz(saved(tmp_path, x=np.zeros((1, 2)), y=np.array(y)), wanted)
        assert split.train is not None
        split.train.check(wanted)


def of_words(manifest: Manifest) -> Manifest:
    """The manifest of a model that reads token ids and a mask, and labels every token."""
    ids = {"name": "ids", "shape": (1, 4), "bytes": 16, "dtype": "int32", "index_range": (-10, 10)}
    mask = {"name": "mask", "shape": (1, 4), "bytes": 16, "dtype": "float32"}
    label = {"name": "label", "shape": (1, 4), "bytes": 16, "dtype": "int32", "classes": 3}
    return Manifest.model_validate({**manifest.model_dump(), "inputs": [ids, mask], "label": label})


IDS, MASK, TAGS = np.array([[0, 9, -10, 5]] * 3), np.ones((3, 4)), np.array([[0, 1, 2, 0]] * 3)


def test_several_inputs_go_by_their_names(manifest: Manifest, tmp_path: Path) -> None:
    words = of_words(manifest)
    split = load_npz(saved(tmp_path, ids_test=IDS.astype("u1").astype(int) % 10, mask_test=MASK, y_test=TAGS), words)
    assert split.train is None and split.test is not None
    assert [array.dtype for array in split.test.x.values()] == [np.int32, np.float32]
    split = load_npz(saved(tmp_path, ids=IDS, mask=MASK, y=TAGS), words)
    assert split.train is not None
    split.train.check(words)
    assert {name: array.shape for name, array in split.train.samples(np.array([2])).items()} == {
        "ids": (1, 4),
        "mask": (1, 4),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": None}, "ids_train, mask_train and y_train, .* or ids, mask and y are needed"),
        ({"mask": MASK[:2]}, "2 samples in mask and 3 labels in y"),
        ({"ids": IDS.astype(float)}, "ids of .* is float64 .* whole numbers"),
        ({"ids": IDS + 2**40}, "ids of .* beyond int32"),
        ({"ids": np.array([[0, 1, 2, 3], [0, 0, 0, 10], [0, 0, 0, -11]])}, "Sample 1 .* 'ids' .* 0 to 9 \\(2 samples"),
        ({"y": TAGS[:, 0]}, "integers of shape .*n, 4"),
        ({"y": TAGS[:, :3]}, r"shape \[3\], but the loss \(cross-entropy\) takes \[4\]"),
        ({"y": TAGS + np.array([0, 0, 0, 3])}, "Label 0, 3 of .* is 3"),
    ],
)
def test_arrays_of_several_inputs_that_do_not_fit_are_refused(
    manifest: Manifest, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    words = of_words(manifest)
    arrays = {"ids": IDS, "mask": MASK, "y": TAGS} | changes
    with pytest.raises(DatasetError, match=message):
        split = load_npz(saved(tmp_path, **{k: v for k, v in arrays.items() if v is not None}), words)
        assert split.train is not None
        split.train.check(words)

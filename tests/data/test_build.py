"""Raw tables in, a checked dataset or one clear error out."""

import numpy as np
import pandas as pd
import pytest

import fedlab_mm as fl
from fedlab_mm.data import build
from fedlab_mm.data.tables import read_feature


def log(rows, split=None):
    table = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    return table if split is None else table.assign(split=split)


ITEMS = pd.DataFrame({"title": list("abcd")})
FEATURES = {"image": np.ones((4, 2), dtype=np.float16)}
ROWS = [(0, 0, 5), (0, 1, 3), (0, 2, 5), (0, 3, 4)]


def test_last_interactions_are_held_out_stably():
    data = build("x", log(ROWS), ITEMS, FEATURES)
    assert data.interactions["item"].tolist() == [1, 3, 0, 2]  # items 0 and 2 share a time: the number decides
    assert build("x", log(ROWS[::-1]), ITEMS, FEATURES).fingerprint == data.fingerprint
    assert data.interactions["split"].tolist() == ["train", "train", "valid", "test"]
    assert data.features["image"].dtype.is_floating_point and data.features["image"].element_size() == 4


def test_repeats_and_short_users_are_dropped_counted_and_said():
    rows = [*ROWS, (0, 1, 9), (7, 0, 1), (7, 1, 2), (9, 0, 1), (9, 1, 2), (9, 3, 3)]
    with pytest.warns(UserWarning, match="x: dropped 1 user with fewer than three interactions"):
        data = build("x", log(rows), ITEMS, FEATURES)
    assert data.n_users == 2  # 7 went, 9 became 1
    assert data.dropped["repeated pairs"] == 1
    assert data.dropped["users with fewer than three interactions"] == 1
    assert "dropped: repeated pairs" in data.describe().index
    assert data.train[0].tolist() == [1, 3] and data.train[1].tolist() == [0]


def test_a_pair_that_is_both_trained_on_and_held_out_stays_held_out():
    split = ["train", "train", "valid", "test", "train"]
    data = build("x", log([(0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 3, 4), (0, 3, 0)], split), ITEMS, FEATURES)
    assert data.target_U("test").tolist() == [3]
    assert data.train[0].tolist() == [0, 1]


def test_users_that_a_predefined_split_leaves_without_a_target_are_dropped():
    rows = [*ROWS, (1, 0, 1), (1, 1, 2), (1, 2, 3)]
    split = ["train", "train", "valid", "test", "train", "train", "test"]
    with pytest.warns(UserWarning, match="dropped 1 user without one validation and one test target"):
        data = build("x", log(rows, split), ITEMS, FEATURES)
    assert data.n_users == 1


@pytest.mark.parametrize(
    ("interactions", "features", "message"),
    [
        (log([(0, 0, 1), (0, 4, 2)]), FEATURES, r"i\.csv, row 3: item 4 is unknown; there are items 0 to 3"),
        (log([(0, 0, 1), (0, -1, 2)]), FEATURES, r"row 3: item -1 is unknown"),
        (log([(0, "q", 1)]), FEATURES, r"i\.csv, row 2: item 'q' is not a whole number"),
        (log([(0, 0, 1), (0, 1, np.nan)]), FEATURES, r"i\.csv, row 3: timestamp 'nan' is not a whole number"),
        (log([]), FEATURES, "no interactions"),
        (log(ROWS).drop(columns="item"), FEATURES, "column item is missing; there are user, timestamp"),
        (log(ROWS, ["train", "train", "later", "test"]), FEATURES, "row 4: split is none of train, valid, test"),
        (log(ROWS), {"image": np.ones((3, 2))}, r"image: has shape \[3, 2\], but there are 4 items"),
        (log(ROWS), {"text": np.array([[1.0], [2], [np.nan], [3]])}, "text, row 2: holds a NaN"),
    ],
)
def test_bad_tables_are_named(interactions, features, message):
    with pytest.raises(fl.FedlabError, match=message):
        build("x", interactions, ITEMS, features, source="i.csv")


def test_nobody_left():
    with pytest.raises(fl.FedlabError, match="nobody is left with an interaction each to train"):
        build("x", log(ROWS[:2]), ITEMS, FEATURES)


def test_feature_files_are_checked_and_never_run_code(tmp_path):
    path = tmp_path / "f.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(fl.FedlabError, match=r"f\.npy: not a \.npy file of numbers"):
        read_feature(path, 1)
    path.write_bytes(b"")
    with pytest.raises(fl.FedlabError, match=r"not a \.npy file"):
        read_feature(path, 1)
    np.save(path, np.array([["a"]]))
    with pytest.raises(fl.FedlabError, match="not numbers"):
        read_feature(path, 1)

"""Raw tables in, a checked dataset or one clear error out."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.data import build
from fedlab_mm.data.tables import read_feature
from tests.conftest import but


def log(rows, split=None):
    table = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    return table if split is None else table.assign(split=split)


ITEMS = pd.DataFrame({"title": list("abcd")})
FEATURES = {"image": np.eye(4, 2, dtype=np.float16)}
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


def test_under_a_predefined_split_everybody_trains_and_may_have_no_target_or_several():
    rows = [*ROWS, (1, 0, 1), (1, 1, 2), (1, 2, 3), (1, 3, 4), (2, 0, 1), (3, 1, 1), (3, 2, 2)]
    split = ["train", "train", "valid", "test", "train", "train", "test", "test", "train", "valid", "test"]
    with pytest.warns(UserWarning, match="dropped 1 user without training interactions"):
        data = build("x", log(rows, split), ITEMS, FEATURES)
    assert data.n_users == 3 and data.several
    assert [data.targets("test")[u].tolist() for u in range(3)] == [[3], [2, 3], []]
    assert data.target_U("valid").tolist() == [2, -1, -1]
    with pytest.raises(fl.FedlabError, match="x: user 1 has 2 test targets, and one is asked for"):
        data.target_U("test")
    with pytest.raises(fl.FedlabError, match="the split leaves nobody a valid interaction"):
        build("x", log(ROWS, ["train", "train", "test", "test"]), ITEMS, FEATURES)


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
        (log(ROWS), {"text": np.array([[1.0], [2], [np.nan], [3]])}, "text, row 2, column 0 is NaN; encode that"),
        (log(ROWS), {"text": np.array([[1.0], [2], [3], [-np.inf]])}, "text, row 3, column 0 is infinite; encode"),
        (log(ROWS), {"text": np.array([[1, 2.0], [2, 4e38], [3, 0], [4, 0]])}, r"row 1, column 1 is 4e\+38, too large"),
        (log(ROWS), {"id": np.eye(4)}, r"modality 'id': 'id' names the item ID's own signal"),
        (log(ROWS), {"a:b": np.eye(4)}, r"modality 'a:b': its name holds ':'; call it otherwise"),
        (log(ROWS), {"a/b": np.eye(4)}, r"modality 'a/b': its name holds '/'; call it otherwise"),
        (log(ROWS), {"a\nb": np.eye(4)}, r"modality 'a\\nb': its name holds '\\n'; call it otherwise"),
        (log(ROWS), {".a": np.eye(4)}, r"modality '\.a': its name begins with a dot; call it otherwise"),
        (log(ROWS), {"": np.eye(4)}, r"modality '': a name is text, neither empty nor with spaces around it"),
        (log(ROWS), {"a ": np.eye(4)}, r"modality 'a ': a name is text, neither empty nor"),
        (log(ROWS), {3: np.eye(4)}, r"modality 3: a name is text"),
    ],
)
def test_bad_tables_are_named(interactions, features, message):
    with pytest.raises(fl.FedlabError, match=message):
        build("x", interactions, ITEMS, features, source="i.csv")


LOSABLE = {
    "audio": np.stack([20_000_001 + np.array([0, 1, 0, 1]), np.arange(4)], axis=1),
    "year": 1 + 1e-9 * np.array([[1, 0.5], [-1, 0.5], [1, 0.5], [-1, 0.5]]),
}


def test_columns_that_single_precision_would_lose_are_kept_and_told(recipe, tmp_path):
    """Whole numbers beyond 2^24, which float32 rounds to even ones, and a billionth around one."""
    with pytest.warns(UserWarning) as told:
        data = build("x", log(ROWS), ITEMS, LOSABLE)
    assert [str(w.message) for w in told] == [
        "x, modality 'audio': 1 of 2 columns (first: 0) are finer than float32 can tell apart, so all of them are kept "
        "as float64",
        "x, modality 'year': 1 of 2 columns (first: 1) are the same for every item and tell nothing; 1 of 2 columns "
        "(first: 0) are finer than float32 can tell apart, so all of them are kept as float64",
    ]
    assert data.features["audio"].tolist() == LOSABLE["audio"].tolist()
    for method in ("fedvlr", "fedmr", "vbpr", "gfmfr"):
        run = fl.train(
            but(recipe, dataset="x", method=method, feature_scale=1.0, rounds=2, k=1, fit_epochs=5, groups=1),
            data,
            progress=False,
        )
        shared = run.model.method.shared
        inputs = shared.inputs if method == "gfmfr" else shared.fusion.inputs
        expected = {"audio": [[-1, -1.341641], [1, -0.447214], [-1, 0.447214], [1, 1.341641]]}
        expected["year"] = [[1, 0], [-1, 0], [1, 0], [-1, 0]]
        for modality, standard in inputs().items():
            assert standard.dtype is recipe.dtype
            np.testing.assert_allclose(standard, expected[modality], atol=1e-6)
    alike = fl.train(recipe.but(dataset="x", rounds=2, k=1), data, progress=False)
    new = alike.recommend(0, 1, new_items={m: f[2:3] for m, f in data.features.items()})
    assert np.isfinite(new["score"]).all()
    with pytest.warns(UserWarning, match="finer than float32"):
        again = fl.load(fl.save_dataset(data, tmp_path / "x"))
    assert again.fingerprint == data.fingerprint
    with pytest.warns(UserWarning, match="finer than float32"):
        other = build("x", log(ROWS), ITEMS, {**LOSABLE, "audio": LOSABLE["audio"] + [[0, 0], [1, 0], [0, 0], [0, 0]]})
    assert other.fingerprint != data.fingerprint


def test_what_single_precision_holds_stays_in_it():
    """Sizes alone lose nothing, nor do the digits that any feature has beyond float32's."""
    rng = np.random.default_rng(0)
    ordinary = rng.normal(size=(4, 3)) * [1e-30, 1, 1e30] + [0, 1000, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = build("x", log(ROWS), ITEMS, {"audio": ordinary, "tags": np.eye(4, dtype=bool)})
    assert {f.dtype for f in data.features.values()} == {torch.float32}
    assert np.array_equal(data.features["audio"], ordinary.astype(np.float32))


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

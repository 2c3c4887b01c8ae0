"""From what the files hold to a dataset: the core, the splits, what is missing, and a count of all that is left out."""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedlab_mm as fl
from fedlab_mm.centralised.popularity import Popularity
from fedlab_mm.data import Preparation, Raw, prepare
from fedlab_mm.data.prepare import NO_TITLE
from fedlab_mm.data.splits import k_core, leave_one_out, temporal, without_repeats
from fedlab_mm.evaluation import evaluate_split

FEW = settings(max_examples=60, deadline=None, derandomize=True)
pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 9)), min_size=1, max_size=60)


def log_of(rows):
    return pd.DataFrame(rows, columns=["user", "item", "timestamp"])


def world(n_users=30, n_items=10, seed=0, widths=(3, 5)):
    """A log of different lengths over a common span of time, and two ready modalities."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"u{user}", f"i{item}", int(rng.integers(100)))
        for user in range(n_users)
        for item in rng.permutation(n_items)[: 3 + user % 6]
    ]
    items = pd.DataFrame({"item": [f"i{i}" for i in range(n_items)], "title": [f"title {i}" for i in range(n_items)]})
    features = {m: rng.normal(size=(n_items, w)).astype(np.float32) for m, w in zip("ab", widths, strict=True)}
    return Raw(log_of(rows), items, "log.csv", "items.csv", features, encode=())


def rows_left_out(data):
    """Interactions among all that is counted as left out."""
    return sum(n for what, n in data.dropped.items() if what.startswith(("interactions", "repeated pairs")))


def quietly(raw, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return prepare("x", raw, Preparation(**options))


def naive_core(rows, users, items):
    """Take out one user or one item after the other, until none is left to take out."""
    rows = list(rows)
    while True:
        for place, least in ((0, users), (1, items)):
            counts = {}
            for row in rows:
                counts[row[place]] = counts.get(row[place], 0) + 1
            poor = [name for name, n in counts.items() if n < least]
            if poor:
                rows = [row for row in rows if row[place] != poor[0]]
                break
        else:
            return rows


@FEW
@given(rows=pairs, users=st.integers(0, 4), items=st.integers(0, 4))
def test_the_core_is_the_fixed_point_of_a_plain_loop(rows, users, items):
    kept = k_core(log_of(rows), users, items)
    assert [tuple(row) for row in kept.to_numpy()] == naive_core(rows, users, items)
    assert k_core(kept, users, items).equals(kept)


@FEW
@given(rows=pairs)
def test_one_interaction_of_every_user_is_left_for_each_target(rows):
    log = log_of(rows).set_index(np.arange(5, 5 + len(rows))[::-1])  # an index in any order
    split = leave_one_out(log)
    assert split.index.equals(log.index)
    for _, of_user in log.assign(split=split, place=np.arange(len(log))).groupby("user"):
        in_time = sorted(zip(of_user["timestamp"], of_user["place"], of_user["split"], strict=True))
        last = [s for _, _, s in in_time]
        assert last == ["train"] * (len(last) - 2) + ["valid", "test"][-len(last) :]


@FEW
@given(rows=pairs, held_out=st.floats(0.05, 0.95))
def test_nothing_is_trained_on_that_happened_after_a_target(rows, held_out):
    log = log_of(rows)
    log = log.assign(split=temporal(log, held_out))
    starts = {s: log["timestamp"][log["split"] == s].min() for s in ("train", "valid", "test")}
    latest = {s: log["timestamp"][log["split"] == s].max() for s in ("train", "valid")}
    assert not latest["train"] >= min(starts["valid"], starts["test"])
    assert not latest["valid"] >= starts["test"]
    held = log[log["split"].isin(["valid", "test"])]
    assert not held.duplicated(["user", "split"]).any()
    unused = log[log["split"] == ""]
    assert (unused["timestamp"] >= held.groupby("user")["timestamp"].min().reindex(unused["user"]).to_numpy()).all()


@FEW
@given(rows=pairs, splits=st.lists(st.sampled_from(["train", "valid", "test"]), min_size=60, max_size=60))
def test_a_pair_stays_once_its_target_first_its_earliest_row_next(rows, splits):
    log = log_of(rows).assign(split=splits[: len(rows)])
    kept = without_repeats(log)
    rank = {"test": 0, "valid": 1, "train": 2}
    best = {}
    for row, (user, item, time, split) in enumerate(log.itertuples(index=False)):
        best[user, item] = min(best.get((user, item), (9,)), (rank[split], time, row))
    assert sorted(best_row for *_, best_row in best.values()) == kept.index.tolist()


def test_the_core_is_cut_counted_and_told():
    raw = world()
    data = quietly(raw, core=5)
    kept = naive_core([tuple(r) for r in raw.interactions.to_numpy()], 5, 5)
    assert len(data.interactions) == len(kept) == len(raw.interactions) - rows_left_out(data)
    assert data.users["id"].tolist() == list(dict.fromkeys(user for user, *_ in kept))
    assert set(data.items["id"]) == {item for _, item, _ in kept}
    assert data.dropped["users with fewer than 5"] == 30 - data.n_users > 0
    assert data.dropped["items with fewer than 5"] == 10 - data.n_items
    for modality, feature in data.features.items():
        rows = [int(item[1:]) for item in data.items["id"]]
        assert np.array_equal(feature.numpy(), raw.features[modality][rows])


def test_without_a_core_all_items_stay_and_short_users_go():
    raw = world()
    log = pd.concat([raw.interactions, log_of([("late", "i0", 1), ("late", "i1", 2)])], ignore_index=True)
    raw = Raw(log, raw.items, features=raw.features, encode=())
    with pytest.warns(UserWarning, match="x: dropped 1 user with fewer than three interactions"):
        data = prepare("x", raw, Preparation())
    assert (data.n_users, data.n_items) == (30, 10)
    assert data.dropped["users with fewer than three interactions"] == 1
    assert len(log) == len(data.interactions) + rows_left_out(data)


def test_more_may_be_asked_of_users():
    data = quietly(world(), fewest=6)
    assert data.n_users == 15 and data.dropped["users with fewer than 6"] == 15
    assert data.interactions.groupby("user").size().min() == 6


def test_repeated_pairs_are_dropped_once_and_counted():
    raw = world()
    log = pd.concat([raw.interactions, raw.interactions.assign(timestamp=1000)], ignore_index=True)
    data = quietly(Raw(log, raw.items, features=raw.features, encode=()))
    assert data.dropped["repeated pairs"] == len(raw.interactions)
    assert data.interactions["timestamp"].max() < 1000
    assert data.fingerprint == quietly(raw).fingerprint


def test_a_given_split_that_is_not_asked_for_has_no_say():
    raw = world()
    log = raw.interactions
    again = log.assign(timestamp=1000, split="test")
    both = pd.concat([log.assign(split="train"), again], ignore_index=True)
    for rule in ("leave-one-out", "temporal"):
        data = quietly(Raw(both, raw.items, features=raw.features, encode=()), split=rule)
        assert data.fingerprint == quietly(raw, split=rule).fingerprint


def test_users_and_items_are_numbered_by_their_ids():
    rows = [(u, f"i{i}", i) for u in ("10", "9", "b10", "2", "b9", "09") for i in (10, 9, 2)]
    items = pd.DataFrame({"item": ["i9", "i10", "i2"], "title": ["nine", "ten", "two"]})
    feature = np.array([[9.0], [10], [2]])
    data = quietly(Raw(log_of(rows), items, features={"a": feature}, encode=(), covers=feature))
    assert data.users["id"].tolist() == ["2", "09", "9", "10", "b9", "b10"]
    assert data.items["id"].tolist() == ["i2", "i9", "i10"] and data.items["title"].tolist() == ["two", "nine", "ten"]
    assert data.features["a"].ravel().tolist() == data.covers.ravel().tolist() == [2, 9, 10]


def at_once(n_users=20, seed=0):
    """Ids that are names, and for everybody several interactions a second."""
    raw = world(n_users, seed=seed)
    return dataclasses.replace(raw, interactions=raw.interactions.assign(timestamp=lambda t: t["timestamp"] % 12))


@pytest.mark.parametrize("split", ["leave-one-out", "temporal"])
def test_the_order_of_rows_has_no_say(split, recipe):
    raw = at_once()
    data = quietly(raw, split=split)
    run = fl.train(recipe.but(rounds=2), data, progress=False)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        log = raw.interactions.sample(frac=1, random_state=seed)
        order = rng.permutation(10)
        features = {m: f[order] for m, f in raw.features.items()}
        shuffled = dataclasses.replace(raw, interactions=log, items=raw.items.iloc[order], features=features)
        again = quietly(shuffled, split=split)
        assert again.fingerprint == data.fingerprint and again.tied == data.tied
    assert fl.train(recipe.but(rounds=2), again, progress=False).test == run.test


def test_at_equal_times_the_id_decides_and_it_is_told(tmp_path):
    rows = [("a", "i10", 5), ("a", "i9", 5), ("a", "i1", 4), ("b", "i1", 1), ("b", "i9", 2), ("b", "i10", 3)]
    rows += [("c", "i10", 3), ("c", "i9", 3), ("c", "i8", 3), ("c", "i1", 4)]
    items = pd.DataFrame({"item": [f"i{n}" for n in range(12)], "title": "t"})
    data = quietly(Raw(log_of(rows), items, encode=()))
    ids = data.items["id"].to_numpy()
    assert ids[data.target_U("test")].tolist() == ["i10", "i10", "i1"]
    assert ids[data.target_U("valid")].tolist() == ["i9", "i9", "i10"]
    assert data.tied == {"valid": 2, "test": 1}  # of a the two are tied, of c only the validation target
    told = fl.audit(data, k=5).loc["targets chosen by id at equal times"]
    assert (told["n"], told["of"]) == (1, 3)
    assert fl.load(fl.save_dataset(data, tmp_path / "saved")).tied == data.tied
    assert data.describe().loc["valid targets chosen by item id at equal times"].item() == 2
    within = log_of(rows).assign(fraction=[2, 1, 0, 0, 0, 0, 1, 2, 3, 0])
    data = quietly(Raw(within, items, encode=()))
    assert ids[data.target_U("test")].tolist() == ["i10", "i10", "i1"] and not data.tied
    assert ids[data.target_U("valid")].tolist() == ["i9", "i9", "i8"]
    assert "targets chosen by id at equal times" not in fl.audit(data, k=5).index


@pytest.fixture(scope="module")
def by_the_clock():
    raw = world(n_users=20, seed=1)
    return raw, quietly(raw, split="temporal", held_out=0.4)


def test_under_one_clock_some_users_have_no_target(by_the_clock):
    raw, data = by_the_clock
    log = data.interactions
    starts = [log["timestamp"][log["split"] == s].min() for s in ("valid", "test")]
    assert log["timestamp"][log["split"] == "train"].max() < starts[0] < starts[1]
    for split in ("valid", "test"):
        target_U = data.target_U(split)
        assert (target_U == -1).any() and (target_U >= 0).any()
        asked = log[log["split"] == split]
        assert (target_U >= 0).sum() == len(asked) and (target_U[asked["user"]] == asked["item"]).all()
    assert (data.train.lengths >= 1).all()
    assert len(raw.interactions) == len(log) + rows_left_out(data)
    late = set(raw.interactions["user"]) - set(data.users["id"])
    assert data.dropped["users who come after the training time"] == len(late) > 0


def test_users_without_a_target_are_trained_and_left_out_of_the_means(by_the_clock, recipe):
    _, data = by_the_clock
    scores_UI = Popularity().scores(data)
    for method in ("none", "fedvlr", "fedmr"):
        run = fl.train(recipe.but(method=method, rounds=2), data, progress=False)
        valid = run.history.query("split == 'valid' and metric == 'hr@5'")["value"]
        assert np.isfinite(run.test["hr@5"]) and np.isfinite(valid).all()
    with_target = np.flatnonzero(data.target_U("test") >= 0)
    everyone = evaluate_split(scores_UI, data, "test", k=5)["hr@5"]
    alone = fl.evaluate(scores_UI[with_target], data.target_U("test")[with_target], data.train.take(with_target), k=5)
    assert everyone == pytest.approx(alone["hr@5"])


def with_holes():
    """Of ten items, the first three have no "a"; item 2 and 3 have no title."""
    raw = world()
    raw.features["a"][:3] = np.nan
    items = raw.items.assign(title=raw.items["title"].where(~raw.items["item"].isin(["i2", "i3"]), ""))
    return Raw(raw.interactions, items, "log.csv", "items.csv", raw.features, encode=("text",))


def test_what_is_missing_is_filled_as_in_the_papers(tmp_path):
    raw = with_holes()
    data = quietly(raw, encoder="offline", cache=tmp_path)
    a = data.features["a"].numpy()
    assert a[:3] == pytest.approx(np.tile(raw.features["a"][3:].mean(axis=0), (3, 1)), rel=1e-6)
    assert np.array_equal(a[3:], raw.features["a"][3:])
    text = data.features["text"].numpy()
    assert np.array_equal(text[2], text[3]) and text[2].any()
    assert data.items["title"][2] == NO_TITLE
    assert data.missing == {"a": 3, "text": 2}
    shown = data.describe()["x"]
    assert shown["a missing, now mean of the others"] == 3
    assert shown[f"text missing, now '{NO_TITLE}'"] == 2


def test_what_is_missing_is_zero(tmp_path):
    data = quietly(with_holes(), missing="zero", encoder="offline", cache=tmp_path)
    assert not data.features["a"].numpy()[:3].any() and not data.features["text"].numpy()[2:4].any()
    assert data.features["a"].numpy()[3:].any(axis=1).all()
    shown = data.describe()["x"]
    assert (shown["a missing, now zero"], shown["text missing, now zero"]) == (3, 2)


@pytest.mark.parametrize("core", [0, 4])
def test_what_is_missing_is_dropped_with_its_interactions(tmp_path, core):
    raw = with_holes()
    data = quietly(raw, missing="drop", core=core, encoder="offline", cache=tmp_path)
    assert not data.missing and not set(data.items["id"]) & {"i0", "i1", "i2", "i3"}
    shown = data.describe()["x"]
    assert (shown["dropped: items without a"], shown["dropped: items without text"]) == (3, 2)
    of_them = raw.interactions["item"].isin(["i0", "i1", "i2", "i3"]).sum()
    assert shown["dropped: interactions with them"] == of_them if core == 0 else of_them > 0
    assert len(raw.interactions) == len(data.interactions) + rows_left_out(data)
    if core:
        assert data.interactions.groupby("user").size().min() >= core <= data.interactions.groupby("item").size().min()
    rows = [int(item[1:]) for item in data.items["id"]]
    assert np.array_equal(data.features["a"].numpy(), raw.features["a"][rows])


def test_nobody_is_left_once_items_are_dropped():
    raw = world()
    raw.features["a"][1:] = np.nan
    with pytest.raises(fl.FedlabError, match=r"log\.csv: no user has 3 interactions"):
        quietly(raw, missing="drop")


many_pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(0, 9)), min_size=20, max_size=60)


@pytest.mark.slow
@FEW
@given(
    rows=many_pairs,
    splits=st.none() | st.lists(st.sampled_from(["train", "valid", "test"]), min_size=60, max_size=60),
    core=st.integers(0, 3),
    rule=st.sampled_from([None, "leave-one-out", "temporal"]),
    holes=st.sets(st.integers(0, 7), max_size=3),
    missing=st.sampled_from(["papers", "drop"]),
)
def test_every_row_is_kept_or_counted(rows, splits, core, rule, holes, missing):
    log = log_of(rows) if splits is None else log_of(rows).assign(split=splits[: len(rows)])
    feature = np.ones((8, 2), dtype=np.float32)
    feature[list(holes)] = np.nan
    items = pd.DataFrame({"item": range(8), "title": "t"})
    try:
        data = quietly(Raw(log, items, features={"a": feature}, encode=()), core=core, split=rule, missing=missing)
    except fl.FedlabError:
        return
    assert len(rows) == len(data.interactions) + rows_left_out(data)
    there = set(
        zip(data.users["id"][data.interactions["user"]], data.items["id"][data.interactions["item"]], strict=True)
    )
    assert there <= {(user, item) for user, item, _ in rows} and len(there) == len(data.interactions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"core": -1}, "core=-1: must be a whole number, at least 0"),
        ({"core": 2.5}, r"core=2\.5: must be a whole number"),
        ({"core": True}, "core=True: must be a whole number"),
        ({"fewest": 2}, "fewest=2: must be a whole number, at least 3"),
        ({"fewest": None}, "fewest=None: must be a whole number"),
        ({"split": "random"}, "unknown split 'random': there are: None, given, leave-one-out, temporal"),
        ({"missing": "mean"}, "unknown missing 'mean': there are: papers, zero, drop"),
        ({"held_out": 0}, "held_out=0: .*between 0 and 1"),
        ({"held_out": 1.0}, r"held_out=1\.0: .*between 0 and 1"),
        ({"held_out": float("nan")}, "held_out=nan: .*between 0 and 1"),
        ({"held_out": "a fifth"}, "held_out='?a fifth'?: .*between 0 and 1"),
        ({"min_rating": "four"}, "min_rating='four': the lowest rating to keep is a number"),
        ({"min_rating": float("nan")}, "min_rating=nan: the lowest rating to keep is a number"),
        ({"encoder": "clap"}, "unknown encoder 'clap'"),
        ({"kcore": 5}, "load has no option kcore; there are: core, fewest, split"),
    ],
)
def test_wrong_options_are_named_before_anything_is_read(options, message):
    with pytest.raises(fl.FedlabError, match=message):
        Preparation().but(**options)


def test_whole_numbers_of_numpy_are_options_too():
    assert Preparation(core=np.int64(5)).core == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interactions": log_of([])}, r"log\.csv: there are no interactions in it"),
        ({"items": world().items[:0]}, r"items\.csv: there are no items in it"),
        ({"items": pd.concat([world().items, world().items[4:5]])}, r"items\.csv, row 4: item i4 is listed twice"),
        ({"items": world().items[["item"]]}, r"items\.csv: column title is missing"),
        ({"items": world().items[:9]}, r"log\.csv, row \d+: item i9 is unknown; it is not among the 9 of items\.csv"),
        ({"interactions": world().interactions[["user", "item"]]}, r"log\.csv: column timestamp is missing"),
        ({"interactions": world().interactions.assign(split="dev")}, r"log\.csv, row 0: split is none of train, valid"),
        ({"interactions": log_of([("u", "i1", 1), ("u", "i2", 1)])}, r"log\.csv: no user has 3 interactions"),
        ({"features": {"a": np.full((10, 2), np.nan)}}, r"items\.csv: no item has 'a' that can be read"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    raw = world()
    whole = {n: getattr(raw, n) for n in ("interactions", "items", "source", "catalogue", "features", "encode")}
    with pytest.raises(fl.FedlabError, match=message):
        quietly(Raw(**{**whole, **change}))


def test_a_split_that_cannot_be_made():
    with pytest.raises(fl.FedlabError, match=r"log\.csv: split='given', but it has no split column"):
        quietly(world(), split="given")
    raw = world()
    at_once = Raw(raw.interactions.assign(timestamp=7), raw.items, "log.csv", features=raw.features, encode=())
    with pytest.raises(fl.FedlabError, match="split='temporal' leaves no training, validation or test interaction"):
        quietly(at_once, split="temporal")


def test_a_row_without_a_user_is_refused_and_none_vanishes():
    raw = world()
    for lost in (np.nan, None, "", " "):
        log = pd.concat([raw.interactions, log_of([(lost, "i0", 1)])], ignore_index=True)
        with pytest.raises(fl.FedlabError, match=rf"log\.csv, row {len(raw.interactions)}: user is empty"):
            quietly(dataclasses.replace(raw, interactions=log))
    log = raw.interactions.assign(item=raw.interactions["item"].where(raw.interactions.index != 4, None))
    with pytest.raises(fl.FedlabError, match=r"log\.csv, row 4: item is empty"):
        quietly(dataclasses.replace(raw, interactions=log))
    with pytest.raises(fl.FedlabError, match=r"items\.csv, row 9: item is empty"):
        quietly(dataclasses.replace(raw, items=raw.items.assign(item=[*raw.items["item"][:9], np.nan])))
    for wrong in (np.nan, 2.5):
        log = raw.interactions.assign(timestamp=[*raw.interactions["timestamp"][:-1], wrong])
        with pytest.raises(fl.FedlabError, match=rf"log\.csv, row {len(log) - 1}: timestamp .* is not a whole number"):
            quietly(dataclasses.replace(raw, interactions=log))


def test_the_parts_of_a_log_may_have_labels_in_common():
    raw = world()
    half = len(raw.interactions) // 2
    parts = [raw.interactions[:half], raw.interactions[half:].reset_index(drop=True)]
    for split in ("leave-one-out", "temporal"):
        joined = quietly(dataclasses.replace(raw, interactions=pd.concat(parts)), split=split)
        assert joined.fingerprint == quietly(raw, split=split).fingerprint

"""Files and frames as people have them: by whatever names, parted and dated in whatever way, they are the same data."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.data.columns import choose, plain

START = 1_700_000_000


def tables(seed=0):
    """Seven users, eight items; times in seconds, no two of a user alike; titles with all that parts cells."""
    rng = np.random.default_rng(seed)
    rows = [(10 * u, 100 + i, START + 86_400 * t + u) for u in range(7) for t, i in enumerate(rng.permutation(8)[:5])]
    titles = [f"red; thing, no. {i}" for i in range(7)] + ['"Great" | Day']
    items = pd.DataFrame({"item": range(100, 108), "title": titles})
    return pd.DataFrame(rows, columns=["user", "item", "timestamp"]), items


@pytest.fixture
def offline(tmp_path):
    return {"encoder": "offline", "cache": tmp_path / "cache", "progress": False}


@pytest.fixture
def plain_folder(tmp_path, offline):
    return load(tmp_path / "plain", *tables(), offline)


def load(folder, log, items, options, sep=",", ending="csv"):
    folder.mkdir()
    log.to_csv(folder / f"interactions.{ending}", index=False, sep=sep)
    items.to_csv(folder / f"items.{ending}", index=False, sep=sep)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fl.load(folder, **options)


@pytest.mark.parametrize(
    "names",
    [
        ("user_id", "item_id", "timestamp", "title"),
        ("userId", "movieId", "timestamp", "name"),
        ("User ID", "Item-ID", "Time", "Title"),
        ("user_id:token", "item_id:token", "timestamp:float", "movie_title:token_seq"),
    ],
)
def test_columns_go_by_many_names(tmp_path, offline, plain_folder, names):
    log, items = tables()
    log.columns = names[:3]
    items.columns = [names[1], names[3]]
    data = load(tmp_path / "named", log, items, offline)
    assert data.fingerprint == plain_folder.fingerprint and "read as" not in plain_folder.about
    assert data.about["read as"].startswith(f"{names[0]} as user, {names[1]} as item")


@pytest.mark.parametrize(("sep", "ending"), [(";", "csv"), ("\t", "csv"), ("|", "csv"), ("\t", "tsv"), (",", "tsv")])
def test_cells_are_parted_by_what_the_header_shows(tmp_path, offline, plain_folder, sep, ending):
    assert load(tmp_path / "parted", *tables(), offline, sep, ending).fingerprint == plain_folder.fingerprint


def dated(form):
    return lambda t: pd.to_datetime(t, unit="s", utc=True).dt.strftime(form)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (dated("%Y-%m-%d %H:%M:%S"), "times as dates (UTC where no zone is named)"),
        (dated("%Y-%m-%dT%H:%M:%SZ"), "times as dates (UTC where no zone is named)"),
        (dated("%Y-%m-%dT%H:%M:%S.250+00:00"), "times as dates (UTC where no zone is named)"),
        (lambda t: t.astype(float), None),
        (lambda t: t * 10**3 + 999, "times in milliseconds"),
        (lambda t: t * 10**6 + 5, "times in microseconds"),
        (lambda t: t * 10**9 + 5, "times in nanoseconds"),
    ],
)
def test_times_are_written_in_many_ways(tmp_path, offline, plain_folder, write, told):
    log, items = tables()
    data = load(tmp_path / "timed", log.assign(timestamp=write(log["timestamp"])), items, offline)
    assert data.fingerprint == plain_folder.fingerprint and data.about.get("read as") == told


def test_within_a_second_the_finer_time_decides(tmp_path, offline):
    log, items = tables()
    log["timestamp"] = START * 10**9 - np.arange(len(log))  # the first row of each user is its last interaction
    data = load(tmp_path / "fine", log, items, offline)
    first = log.groupby("user").first()["item"].astype(str).tolist()
    assert data.items["id"][data.target_U("test")].tolist() == first and not data.tied


def test_days_alone_are_times_and_turns_too(tmp_path, offline, plain_folder):
    log, items = tables()
    days = log.assign(timestamp=dated("%Y-%m-%d")(log["timestamp"]))
    turns = log.assign(timestamp=log.groupby("user").cumcount())
    for name, other in (("days", days), ("turns", turns)):
        data = load(tmp_path / name, other, items, offline)
        assert (data.target_U("test") == plain_folder.target_U("test")).all()
    assert data.interactions["timestamp"].max() == 4


def test_doubtful_times_are_told_and_wrong_ones_refused(tmp_path, offline):
    log, items = tables()
    log.loc[3, "timestamp"] *= 1000
    folder = tmp_path / "doubtful"
    with pytest.raises(
        UserWarning, match=r"read as seconds, but '17\d+' looks like milliseconds \(row 5, and 0 more\)"
    ):
        load(folder, log, items, offline)
    for wrong in ("2024-13-40", "yesterday"):
        days = dated("%Y-%m-%d")(log["timestamp"].where(log.index != 3, START)).where(log.index != 3, wrong)
        log.assign(timestamp=days).to_csv(folder / "interactions.csv", index=False)
        with pytest.raises(
            fl.FedlabError, match=rf"interactions\.csv, row 5: timestamp '{wrong}' is no date like 2024"
        ):
            fl.load(folder, **offline)


def test_what_could_be_either_is_asked_for(tmp_path, offline):
    with pytest.raises(fl.FedlabError, match=r"f: each of item_id, movieId could be the item: call one of them item"):
        choose(["user", "item_id", "movieId", "timestamp"], ("user", "item", "timestamp"), (), "f")
    with pytest.raises(fl.FedlabError, match=r"f: each of time, date could be the timestamp"):
        choose(["date", "time"], ("timestamp",), (), "f")
    with pytest.warns(UserWarning, match="f: column item is the item; movieId is not read"):
        assert choose(["movieId", "item"], ("item",), (), "f") == {"item": "item"}
    assert choose(["label", "Rating", "stars"], (), ("rating",), "f") == {"rating": "Rating"}
    assert choose(["click", "score"], (), ("rating",), "f") == {"rating": "score"}
    assert plain(" User-ID ") == plain("user_id:token") == plain("userId") == "userid"
    log, items = tables()
    load(tmp_path / "two", log, items, offline)
    log.to_csv(tmp_path / "two" / "interactions.tsv", sep="\t", index=False)
    with pytest.raises(fl.FedlabError, match=r"interactions\.csv and interactions\.tsv are both there: keep one"):
        fl.load(tmp_path / "two", **offline)


def test_showings_that_nobody_clicked_are_told(tmp_path, offline, plain_folder):
    log, items = tables()
    shown = pd.concat([log.assign(is_click=1), log.head(3).assign(item=[107, 107, 107], is_click=0)])
    with pytest.warns(UserWarning, match=r"frames: the ratings \(0 to 1\) are not used, so a low one counts as a like"):
        fl.from_frames(shown, items, **offline)
    clicked = fl.from_frames(shown, items, min_rating=1, **offline)
    assert clicked.fingerprint == plain_folder.fingerprint and clicked.dropped["interactions rated below 1"] == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = fl.from_frames(log.assign(label="shop a"), items, **offline)  # no rating at all
    assert named.fingerprint == plain_folder.fingerprint and "ratings" not in named.about


def test_atomic_files_of_recbole(tmp_path, offline, plain_folder):
    log, items = tables()
    folder = tmp_path / "ml"
    folder.mkdir()
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += [f"{u}\t{i}\t4\t{float(t)}" for u, i, t in log.itertuples(index=False)]
    (folder / "ml.inter").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    lines = ["item_id:token\tmovie_title:token_seq\tclass:token_seq"]
    lines += [f"{i}\t{title}\tDrama War" for i, title in items.itertuples(index=False)]
    (folder / "ml.item").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    (folder / "ml.user").write_text("user_id:token\tage:token\n0\t24\n", encoding="utf-8", newline="\n")
    assert fl.load(folder, **offline).fingerprint == plain_folder.fingerprint


def test_parquet_is_read_where_pyarrow_is_there(tmp_path, offline, plain_folder, monkeypatch):
    folder = tmp_path / "arrow"
    folder.mkdir()
    log, items = tables()
    frames = {
        "interactions.parquet": log.assign(timestamp=pd.to_datetime(log["timestamp"], unit="s")),
        "items.parquet": items,
    }
    for name in frames:
        (folder / name).touch()

    def lacking(path):
        raise ImportError("Unable to find a usable engine; tried using: 'pyarrow', 'fastparquet'")

    monkeypatch.setattr(pd, "read_parquet", lacking)
    with pytest.raises(
        ImportError, match=r"a Parquet file needs pyarrow, which is not installed: pip install pyarrow$"
    ):
        fl.load(folder, **offline)
    monkeypatch.setattr(pd, "read_parquet", lambda path: frames[path.name])
    assert fl.load(folder, **offline).fingerprint == plain_folder.fingerprint


def test_parquet_itself(tmp_path, offline, plain_folder):
    pytest.importorskip("pyarrow")
    folder = tmp_path / "arrow"
    folder.mkdir()
    log, items = tables()
    log.assign(timestamp=pd.to_datetime(log["timestamp"], unit="s")).to_parquet(folder / "interactions.parquet")
    items.to_parquet(folder / "items.parquet")
    assert fl.load(folder, **offline).fingerprint == plain_folder.fingerprint
    (folder / "items.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(fl.FedlabError, match=r"items\.parquet: cannot be read as Parquet"):
        fl.load(folder, **offline)


def at(log, change):
    """The log with dates in place of seconds."""
    return log.assign(timestamp=change(pd.to_datetime(log["timestamp"], unit="s", utc=True)))


@pytest.mark.parametrize(
    "change",
    [
        lambda log: log,
        lambda log: log.astype(float),
        lambda log: log.astype({"user": str, "item": "category"}),
        lambda log: log.astype("Int64"),
        lambda log: at(log, lambda t: t.dt.tz_localize(None)),
        lambda log: at(log, lambda t: t.dt.tz_convert("Asia/Tokyo")),
        lambda log: at(log, lambda t: pd.Series([d.to_pydatetime() for d in t], dtype=object)),
        lambda log: log.sample(frac=1, random_state=1).set_index(np.zeros(len(log))),
    ],
)
def test_frames_are_as_good_as_files(offline, plain_folder, change):
    log, items = tables()
    data = fl.from_frames(change(log), items, **offline)
    assert data.fingerprint == plain_folder.fingerprint and data.name == "frames"


def test_features_of_frames(offline, recipe):
    log, items = tables()
    sound = np.arange(24, dtype=np.float32).reshape(8, 3)
    sound[2] = np.nan
    kinds = (sound, torch.from_numpy(sound), torch.from_numpy(sound).bfloat16(), pd.DataFrame(sound))
    for feature in kinds:
        data = fl.from_frames(log, items[["item"]], {"sound": feature}, name="mine", **offline)
        assert data.features["sound"][1].tolist() == [3, 4, 5] and data.missing == {"sound": 1}
    run = fl.train(recipe.but(dataset="mine", method="fedvlr", rounds=2), data, progress=False)
    assert np.isfinite(run.history["value"]).all() and len(run.recommend(user="60", k=3)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interactions": [1, 2]}, "interactions: a pandas DataFrame is wanted, not a list"),
        ({"interactions": tables()[0].drop(columns="item")}, "interactions: column item is missing; there are user"),
        ({"interactions": tables()[0].iloc[:, [0, 1, 1, 2]]}, "interactions: column item is there twice"),
        ({"interactions": tables()[0].replace({"user": {30: np.nan}})}, "interactions, row 15: user is empty"),
        (
            {"interactions": tables()[0].replace({"item": {105: 7}})},
            "item 7 is unknown; it is not among the 8 of items",
        ),
        ({"items": tables()[1].assign(item=100)}, "items, row 1: item 100 is listed twice"),
        ({"features": {"a": np.ones((7, 2))}}, r"features: a has shape \[7, 2\], but there are 8 items, a row each"),
        ({"features": {"a": np.array([["x"]] * 8)}}, "features: a holds <U1, not numbers"),
        ({"features": {"id": np.ones((8, 2))}}, "modality 'id': 'id' names the item ID's own signal"),
        ({"items": None, "features": {"a": np.ones((8, 2))}}, "a need items, whose rows say which item"),
        ({"kcore": 5}, "load has no option kcore"),
        ({"interactions": tables()[0][:0], "items": None}, "interactions: there are no interactions in it"),
        (
            {
                "interactions": pd.DataFrame(
                    {"user": [1, 1], "item": [100, 101], "date": [pd.NaT, pd.Timestamp(2024, 1, 1)]}
                )
            },
            "interactions, row 0: date '' is no date like",
        ),
    ],
)
def test_what_does_not_fit_is_named(offline, change, message):
    log, items = tables()
    with pytest.raises(fl.FedlabError, match=message):
        fl.from_frames(**{"interactions": log, "items": items, **offline, **change})


def test_saved_times_stay_seconds(tmp_path):
    """Whatever their size: they were understood before."""
    log = pd.DataFrame({"user": [0] * 4, "item": [0, 1, 2, 3], "timestamp": [10**12 + t for t in range(4)]})
    data = fl.data.build("far", log, pd.DataFrame({"title": list("abcd")}), {})
    assert fl.load(fl.save_dataset(data, tmp_path / "far")).fingerprint == data.fingerprint

"""Click logs: every showing stays, each user's last one is the test target, attributes are codes."""

import shutil

import numpy as np
import pandas as pd
import pytest

import fedlab_mm as fl
from fedlab_mm.data.clicks import click_log
from fedlab_mm.registry import lookup
from tests.conftest import SHARED

START = 1_684_763_932_919  # ms


@pytest.fixture(scope="module")
def kuaisar_r():
    if not (SHARED / "kuaisar-r").is_dir():
        pytest.skip(f"KuaiSAR-R's files are not in {SHARED / 'kuaisar-r'}")
    return fl.load("kuaisar-r", root=SHARED)


def test_kuaisar_r_is_that_of_mrff(kuaisar_r):
    log = kuaisar_r.interactions
    assert (kuaisar_r.n_users, kuaisar_r.n_items, len(log)) == (1791, 69704, 117590)
    assert round(100 * log["click"].mean(), 1) == 51.4
    assert log["split"].value_counts().to_dict() == {"train": 117590 - 2 * 1791, "valid": 1791, "test": 1791}
    assert not any(kuaisar_r.dropped.values())
    assert kuaisar_r.attributes["user"] == {
        "onehot_feat1": 8, "onehot_feat2": 3, "search_active_level": 7, "reco_active_level": 4
    }  # fmt: skip
    assert list(kuaisar_r.attributes["item"].values()) == [2, 22, 37, 277, 324, 41]
    assert kuaisar_r.describe().loc["clicks %"].item() == 51.4


def test_the_last_row_of_every_user_is_its_test_target(kuaisar_r):
    rows = pd.read_csv(SHARED / "kuaisar-r" / "df.csv")
    last = rows.groupby("user_id").tail(1).sort_values("user_id")
    test = kuaisar_r.interactions.query("split == 'test'")
    assert kuaisar_r.users["id"][test["user"]].tolist() == last["user_id"].tolist()
    assert kuaisar_r.items["id"][test["item"]].tolist() == last["video_id"].tolist()
    assert test["click"].tolist() == last["is_click"].tolist()
    assert test["timestamp"].tolist() == (last["timestamp"] // 1000).astype(int).tolist()


def test_attributes_of_kuaisar_r_are_codes_for_the_same_values(kuaisar_r):
    users = pd.read_csv(SHARED / "kuaisar-r" / "user_features.csv").set_index("user_id").loc[kuaisar_r.users["id"]]
    for name, n in kuaisar_r.attributes["user"].items():
        codes = kuaisar_r.users[name]
        assert sorted(codes.unique()) == list(range(n))
        assert codes.tolist() == np.unique(users[name], return_inverse=True)[1].tolist()


def rec(folder, **changes):
    """KuaiSAR as published: its columns, their order, and a table of more items and users than were shown."""
    rows = []
    for user in (4, 11, 30):
        for n in range(4 + user % 3):
            rows.append({"user_id": user, "item_id": 100 + (user + n) % 6, "playing_time": 60792.0, "duration_ms": 9.0,
                         "time": "2023-05-22 15:53:20", "timestamp": float(START + 400 * n), "click": n % 2,
                         "forward": 0, "like": 0, "follow": 0, "search": 0, "search_item_related": 0})  # fmt: skip
    table = pd.DataFrame(rows)
    table.assign(**changes).to_csv(folder / "rec_inter.csv", index=False)


def src(folder):
    rows = []
    for user in (4, 11):
        for n in range(5):
            rows.append({"user_id": user, "search_session_id": 1, "search_session_time": "2023-05-22 21:58:52",
                         "search_session_timestamp": START + 10 * (n // 2), "keyword": "[20, 34, 3]",
                         "search_source": "USER_INPUT", "item_id": 100 + n, "click_cnt": n % 3,
                         "item_type": "VIDEO"})  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "src_inter.csv", index=False)


def tables(folder, level="reco_active_level"):
    pd.DataFrame({"user_id": [30, 4, 99, 11], "onehot_feat1": [2, 0, 1, 7], "onehot_feat2": [0, 0, 0, 1],
                  "search_active_level": [3, 3, 3, 3], level: [1, 2, 1, 1]}).to_csv(
        folder / "user_features.csv", index=False)  # fmt: skip
    n = 5  # item 105 has no attributes
    levels = {f"{place}_level_category_{what}": ["娱乐", "空", "娱乐", "游戏", "空"]
              for place in ("first", "second", "third", "fourth") for what in ("id", "name", "name_en")}  # fmt: skip
    pd.DataFrame({"item_id": range(100, 100 + n), "caption": "[1, 213, 24]", "author_id": 10,
                  "item_type": ["NORMAL", "AD", "NORMAL", "", "NORMAL"], "upload_time": "2023-04-22",
                  "upload_type": "LongImport", **levels}).to_csv(folder / "item_features.csv", index=False)  # fmt: skip


@pytest.fixture
def published(tmp_path):
    rec(tmp_path)
    src(tmp_path)
    tables(tmp_path)
    return tmp_path


def test_recommendations_as_published(published):
    log = fl.load("kuaisar:rec", root=published)
    assert fl.load("kuaisar", root=published).fingerprint == log.fingerprint
    assert log.users["id"].tolist() == [4, 11, 30] and log.items["id"].tolist() == list(range(100, 106))
    assert log.interactions["timestamp"].between(START // 1000, START // 1000 + 2).all()
    assert log.users["onehot_feat1"].tolist() == [0, 2, 1] and log.attributes["user"]["search_active_level"] == 1
    assert log.about["licence"].startswith("CC BY-NC-SA")


def test_searches_as_published(published):
    log = fl.load("kuaisar:search", root=published)
    assert (log.n_users, log.n_items) == (2, 5)
    assert log.interactions["click"].tolist() == [0, 1, 1, 0, 1] * 2  # any number of clicks is a click
    assert log.items["id"][log.interactions.query("split == 'test'")["item"]].tolist() == [104, 104]


def test_the_two_names_of_an_attribute(published):
    both = []
    for level in ("rec_active_level", "reco_active_level"):
        tables(published, level)
        both.append(fl.load("kuaisar:rec", root=published))
    assert both[0].fingerprint == both[1].fingerprint and both[0].users["reco_active_level"].tolist() == [1, 0, 0]


def test_unknown_attributes_have_a_code_of_their_own(published):
    log = fl.load("kuaisar:rec", root=published)
    assert log.dropped["items without attributes (a code of their own)"] == 1
    assert log.dropped["users without attributes (a code of their own)"] == 0
    # AD, NORMAL, and one code for the empty cell and for the item that is not in the table
    assert log.items["item_type"].tolist() == [1, 0, 1, 2, 1, 2] and log.attributes["item"]["item_type"] == 3
    assert log.items["upload_type"].tolist() == [0] * 5 + [1]


def test_within_a_second_milliseconds_decide_and_then_the_row(published):
    rec(published, timestamp=[START + t for t in (80, 70, 60, 50, 40, 5, 5, 5, 5, 5, 5, 30, 10, 20, 20)])
    log = fl.load("kuaisar:rec", root=published)
    of_user = [g for _, g in log.interactions.groupby("user")]
    assert log.items["id"][of_user[0]["item"]].tolist() == [102, 101, 100, 105, 104]
    assert log.items["id"][of_user[1]["item"]].tolist() == [105, 100, 101, 102, 103, 104]
    assert log.items["id"][of_user[2]["item"]].tolist() == [101, 102, 103, 100]
    assert all(g["split"].tolist()[-2:] == ["valid", "test"] for g in of_user)


def test_a_showing_may_come_again_and_short_users_go(published):
    table = pd.read_csv(published / "rec_inter.csv")
    more = table.iloc[[0, 0]].assign(user_id=[4, 77])
    pd.concat([table, more]).to_csv(published / "rec_inter.csv", index=False)
    log = fl.load("kuaisar:rec", root=published)
    assert len(log.interactions) == len(table) + 1 and log.dropped["users with fewer than 3 showings"] == 1
    assert fl.load("kuaisar:rec", root=published, fewest=6).n_users == 2


def kuairand(folder):
    names = list(lookup("dataset", "kuairand-pure").files)
    for part, file in enumerate(names[:2]):
        rows = [
            {"user_id": user, "video_id": 10 * user + n + 4 * part, "date": 20220408, "hourmin": 1000,
             "time_ms": 1_649_400_000_000 + 10**9 * part - 7 * n, "is_click": int(n == 0), "is_like": 0,
             "play_time_ms": 0, "duration_ms": 15_000, "is_rand": 0, "tab": 1}
            for user in (0, 3) for n in range(2 + user)
        ]  # fmt: skip
        pd.DataFrame(rows).to_csv(folder / file, index=False)
    ranges = {f"{who}_user_num_range": ["[1,10)", "0"] for who in ("follow", "fans", "friend")}
    pd.DataFrame({"user_id": [0, 3], "user_active_degree": ["full_active", "UNKNOWN"], "is_lowactive_period": 0,
                  "is_live_streamer": [-124, 0], "is_video_author": 1, **ranges, "register_days_range": "31-60",
                  **{f"onehot_feat{n}": [n, ""] for n in range(18)}}).to_csv(
        folder / names[2], index=False)  # fmt: skip
    ids = list(range(8)) + list(range(30, 40))
    pd.DataFrame({"video_id": ids, "author_id": 5, "video_type": "NORMAL", "upload_dt": "2022-04-01",
                  "upload_type": ["ShortImport", ""] * 9, "visible_status": 1, "video_duration": "",
                  "server_width": 720, "server_height": 1280, "music_id": 6, "music_type": 9.0,
                  "tag": ["12,65", "3"] * 9}).to_csv(
        folder / names[3], index=False)  # fmt: skip
    return folder


def test_kuairand_as_published(tmp_path):
    log = fl.load("kuairand-pure", root=kuairand(tmp_path))
    assert (log.n_users, log.n_items, len(log.interactions)) == (2, 13, 14)
    first = log.interactions.query("user == 0")
    assert log.items["id"][first["item"]].tolist() == [1, 0, 5, 4]  # each file's rows run backwards in time
    assert first["click"].tolist() == [0, 1, 0, 1] and first["split"].tolist() == ["train", "train", "valid", "test"]
    assert log.attributes["user"]["is_live_streamer"] == 2 and log.users["onehot_feat7"].tolist() == [0, 1]
    assert log.attributes["item"] == {"author_id": 1, "video_type": 1, "upload_type": 2, "music_type": 1, "tag": 2}
    assert not any(log.dropped.values())


def test_no_statistic_that_was_counted_later_is_an_attribute():
    parts = [lookup("dataset", n) for n in ("kuairand-pure", "kuaisar", "kuaisar-r")]
    assert not any("statistic" in file for part in parts for file in part.files)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("log_standard_4_22_to_5_08_pure.csv", "15000,0,1\n", "15000,0,1\n3,1,1,1,1,2,0,0,0,0,0\n",
         r"log_standard_4_22_to_5_08_pure\.csv, row 3: click 2 is neither 0 nor 1"),
        ("log_standard_4_08_to_4_21_pure.csv", "20220408,1000,", "20220408,1000,x",
         r"log_standard_4_08_to_4_21_pure\.csv, row 2: time_ms 'x1649400000000' is not a whole number"),
        ("user_features_pure.csv", "is_live_streamer", "streams",
         r"user_features_pure\.csv: column is_live_streamer is missing; there are user_id"),
        ("user_features_pure.csv", "user_id,", "id,", r"user_features_pure\.csv: column user_id is missing"),
        ("user_features_pure.csv", "\n3,", "\n0,", r"user_features_pure\.csv, row 3: user_id 0 is listed twice"),
        ("video_features_basic_pure.csv", "\n31,", "\n30,", r"video_features_basic_pure\.csv, row 11: video_id 30 is"),
        ("video_features_basic_pure.csv", "\n31,", "\nx,", r"video_features_basic_pure\.csv, row 11: video_id 'x'"),
    ],
)  # fmt: skip
def test_bad_files_are_named(tmp_path, file, old, new, message):
    path = kuairand(tmp_path) / file
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8", newline="\n")
    with pytest.raises(fl.FedlabError, match=message):
        fl.load("kuairand-pure", root=tmp_path)


def test_the_prepared_layout_reads_which_attributes_it_has(tmp_path, kuaisar_r):
    """A cut of KuaiSAR-R whose lists name less, and one thing twice."""
    for file in ("user_features.csv", "video_features.csv"):
        shutil.copyfile(SHARED / "kuaisar-r" / file, tmp_path / file)
    pd.read_csv(SHARED / "kuaisar-r" / "df.csv", nrows=2000).to_csv(tmp_path / "df.csv", index=False)
    whole = fl.load("kuaisar-s", root=tmp_path)
    assert list(whole.attributes["user"]) == list(kuaisar_r.attributes["user"])
    (tmp_path / "KuaiSAR-S_user_feature_dict.txt").write_text(
        "user_id\nonehot_feat2\r\nonehot_feat2\n", encoding="utf-8", newline="\n"
    )
    log = fl.load("kuaisar-s", root=tmp_path)
    assert list(log.attributes["user"]) == ["onehot_feat2"] and len(log.attributes["item"]) == 6
    (tmp_path / "KuaiSAR-S_user_feature_dict.txt").write_bytes(b"\xff")
    with pytest.raises(fl.FedlabError, match=r"KuaiSAR-S_user_feature_dict\.txt: cannot be read"):
        fl.load("kuaisar-s", root=tmp_path)


def test_what_a_click_log_is_not(published):
    with pytest.raises(
        fl.FedlabError, match="kuaisar, a click log, has no option core; there are: fewest, last, progress"
    ):
        fl.load("kuaisar:rec", root=published, core=5)
    with pytest.raises(fl.FedlabError, match="unknown part 'src' of kuaisar: there are: rec, search"):
        fl.load("kuaisar:src", root=published)
    with pytest.raises(fl.FedlabError, match=r"rec_inter\.csv: no user has 9 showings"):
        fl.load("kuaisar:rec", root=published, fewest=9)
    (published / "rec_inter.csv").write_text("user_id,item_id,timestamp,click\n", encoding="utf-8", newline="\n")
    with pytest.raises(fl.FedlabError, match=r"rec_inter\.csv: there are no showings in it"):
        fl.load("kuaisar:rec", root=published)


def test_a_log_without_any_attribute():
    log = pd.DataFrame({"user": [1] * 3, "item": [1, 2, 3], "timestamp": [1, 1, 1], "click": [0, 1, 0]})
    made = click_log("x", log, pd.DataFrame({"id": [1]}), pd.DataFrame({"id": [9]}), "x.csv", 3, {})
    assert made.attributes == {"user": {}, "item": {}} and made.describe().loc["showings"].item() == 3
    assert made.interactions["item"].tolist() == [0, 1, 2]


def test_every_showing_is_kept_or_counted_and_none_is_nobodys():
    part = pd.DataFrame({"user": [1] * 3, "item": [1, 2, 3], "timestamp": [1, 2, 3], "click": [0, 1, 0]})
    ids = pd.DataFrame({"id": [1]})
    log = pd.concat([part, part, part.assign(user=2)[:2]])  # labels come up again
    made = click_log("x", log, ids, ids, "x.csv", 3, {})
    assert len(made.interactions) == 6 and made.dropped["showings of these users"] == 2
    with pytest.raises(fl.FedlabError, match=r"x\.csv, row 1: user is empty"):
        click_log("x", part.assign(user=[1, np.nan, 1]), ids, ids, "x.csv", 3, {})


def test_showings_at_one_time_keep_the_order_of_rows_and_it_is_told():
    log = pd.DataFrame({"user": 1, "item": [1, 2, 3], "timestamp": [1, 2, 2], "click": [0, 1, 0]})
    ids = pd.DataFrame({"id": [1]})
    told = "1 of 1 test showings share their time with another of the user's: the later row of the file counts as later"
    assert click_log("x", log, ids, ids, "x.csv", 3, {}).about == {"equal times": told}
    assert not click_log("x", log.assign(fraction=[0, 1, 2]), ids, ids, "x.csv", 3, {}).about


def test_ids_that_no_float_holds_stay_as_they_are(published):
    large = {4: 2**53 + 1, 11: 2**53 + 2, 30: 2**53}
    for file in ("rec_inter.csv", "user_features.csv"):
        table = pd.read_csv(published / file)
        table.assign(user_id=table["user_id"].replace(large)).to_csv(published / file, index=False)
    log = fl.load("kuaisar:rec", root=published)
    assert log.users["id"].tolist() == [2**53, 2**53 + 1, 2**53 + 2]
    assert log.users["onehot_feat1"].tolist() == [1, 0, 2]

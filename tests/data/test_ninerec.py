"""KU as published, and what its loader says when the files are not as published."""

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import fedlab_mm as fl
from tests.conftest import SHARED


def test_statistics(ku):
    assert (ku.n_users, ku.n_items) == (204, 560)
    assert ku.dropped["repeated pairs"] == 5
    assert ku.interactions["split"].value_counts().to_dict() == {"train": 3076, "valid": 204, "test": 204}
    assert int((~ku.warm_I).sum()) == 16
    assert int((~ku.warm_I[ku.target_U("test")]).sum()) == 88
    for feature in ku.features.values():
        assert feature.shape == (560, 512)
        assert feature.norm(dim=1).numpy() == pytest.approx(1, abs=1e-3)


@pytest.fixture
def copy(ku, tmp_path):
    return shutil.copytree(SHARED / "ku", tmp_path / "ku", copy_function=shutil.copyfile)


def edit(path, change):
    table = pd.read_csv(path)
    change(table)
    table.to_csv(path, index=False)


def test_found_by_folder_parent_or_environment(ku, copy, monkeypatch):
    assert fl.load("ku", root=copy).fingerprint == ku.fingerprint
    monkeypatch.setenv("FEDLAB_MM_DATA", str(copy.parent))
    assert fl.load("ku").fingerprint == ku.fingerprint


def test_missing_files_are_explained(tmp_path, monkeypatch):
    monkeypatch.delenv("FEDLAB_MM_DATA", raising=False)
    with pytest.raises(fl.FedlabError, match=r"'ku': no inter\.csv.*Get them from github.*or set FEDLAB_MM_DATA"):
        fl.load("ku", root=tmp_path)
    (tmp_path / "inter.csv").touch()
    with pytest.raises(fl.FedlabError, match=r"lacks image_features\.npy, text_features\.npy"):
        fl.load("ku", root=tmp_path)


def test_an_unknown_item(copy):
    edit(copy / "inter.csv", lambda t: t.loc.__setitem__((10, "itemID"), 560))
    with pytest.raises(
        fl.FedlabError, match=r"inter\.csv, row 12: item 560 is unknown; it is not among the 560 of .*i_id_mapping"
    ):
        fl.load("ku", root=copy)


def test_a_short_user(copy):
    table = pd.read_csv(copy / "inter.csv")
    table[(table.userID != 3) | (table.split_label > 0)].to_csv(copy / "inter.csv", index=False)
    with pytest.warns(UserWarning, match="ku: dropped 1 user without training interactions"):
        assert fl.load("ku", root=copy).n_users == 203


def test_features_that_do_not_fit(copy):
    feature = np.load(copy / "image_features.npy")
    np.save(copy / "image_features.npy", feature[:-1])
    with pytest.raises(fl.FedlabError, match=r"image_features\.npy: has shape \[559, 512\], but there are 560 items"):
        fl.load("ku", root=copy)
    feature[4, 7] = np.nan
    np.save(copy / "image_features.npy", feature)
    with pytest.raises(fl.FedlabError, match=r"image_features\.npy, row 4, column 7 is NaN; encode"):
        fl.load("ku", root=copy)


def test_columns_and_content(copy):
    (copy / "inter.csv").write_text("", encoding="utf-8", newline="\n")
    with pytest.raises(fl.FedlabError, match=r"inter\.csv: cannot be read as CSV"):
        fl.load("ku", root=copy)
    (copy / "inter.csv").write_text("userID,itemID\n1,2\n", encoding="utf-8", newline="\n")
    with pytest.raises(fl.FedlabError, match=r"inter\.csv: column timestamp is missing; there are userID, itemID"):
        fl.load("ku", root=copy)
    edit(copy / "i_id_mapping.csv", lambda t: t.loc.__setitem__((0, "itemID"), 1))
    with pytest.raises(fl.FedlabError, match=r"i_id_mapping\.csv: itemID is not 0 to 559"):
        fl.load("ku", root=copy)


ITEMS = [
    ("v12", "红色，的\u732b", "A red cat, and more"),
    ("v3", "狗", 'Dog "Rex"'),
    ("v7", "没有英文", ""),
    ("v40", "", "Only English"),
    ("v5", "火车 🚂", "Train 🚂"),
    ("v6", "", ""),
]
SEEN = {
    user: [ITEMS[i][0] for i in order]
    for user, order in {"900": [0, 1, 2, 3, 4], "12": [4, 3, 2, 1, 0, 5], "7": [1, 2, 3]}.items()
}


def published(folder, name="Bili_Food", item_first=True, times=None, titles=3):
    """A set as NineRec's release has it: no headers, commas, covers of all items but one."""
    rows, clock = [], 0
    for turn in range(6):
        for user, seen in SEEN.items():
            if turn < len(seen):
                clock += 1
                rows.append([seen[turn], user] if item_first else [user, seen[turn]])
                if times == "s":
                    rows[-1].append(1_600_000_000 + clock)
                elif times == "ms":
                    rows[-1].append(1_600_000_000_000 + 1000 * clock)
                elif times == "backwards":
                    rows[-1].append(1_600_000_000 - clock)
                elif times == "backwards within a second":
                    rows[-1].append(1_600_000_000_999 - clock)
    pd.DataFrame(rows).to_csv(folder / f"{name}_pair.csv", header=False, index=False)
    items = pd.DataFrame(ITEMS).iloc[:, :titles]
    items.to_csv(folder / f"{name}_item.csv", header=False, index=False, encoding="utf-8")
    (folder / f"{name}_cover").mkdir(exist_ok=True)
    for n, (item, *_) in enumerate(ITEMS[:-1]):
        Image.new("RGB", (8, 6), (40 * n, 99, 0)).save(folder / f"{name}_cover" / f"{item}.jpg")
    return folder


@pytest.fixture
def offline(tmp_path):
    return {"encoder": "offline", "cache": tmp_path / "cache", "progress": False}


@pytest.mark.parametrize("times", [None, "s", "ms"])
@pytest.mark.parametrize("item_first", [True, False])
def test_the_publishers_layout(tmp_path, offline, item_first, times):
    published(tmp_path, item_first=item_first, times=times)
    with pytest.warns(UserWarning, match="bili-food: dropped 1 user with fewer than 5"):
        data = fl.load("bili-food", root=tmp_path, **offline)
    assert data.users["id"].tolist() == ["12", "900"]
    assert data.items["id"].tolist() == ["v3", "v5", "v6", "v7", "v12", "v40"]
    assert data.items["title"].tolist() == [
        'Dog "Rex"', "Train 🚂", "The title is missing.", "没有英文", "A red cat, and more", "Only English"
    ]  # fmt: skip
    assert data.missing == {"image": 1, "text": 1}
    for number, user in enumerate(data.users["id"]):
        of_user = data.interactions[data.interactions["user"] == number]
        assert data.items["id"][of_user["item"]].tolist() == SEEN[user]
        assert of_user["split"].tolist() == ["train"] * (len(of_user) - 2) + ["valid", "test"]
        assert times is None or of_user["timestamp"].between(1_600_000_000, 1_600_000_099).all()
    assert data.covers[0].shape == (6, 8, 3)


@pytest.mark.parametrize("times", ["backwards", "backwards within a second"])
def test_times_decide_where_there_are_any(tmp_path, offline, times):
    published(tmp_path, times=times)
    data = fl.load("bili-food", root=tmp_path, fewest=3, **offline)
    assert data.n_users == 3
    assert data.items["id"][data.target_U("test")].tolist() == [SEEN[u][0] for u in ("7", "12", "900")]


def test_ku_is_known_in_both_layouts_and_a_set_may_have_one_title(tmp_path, offline):
    published(tmp_path, name="KU", titles=2)
    data = fl.load("ku", root=tmp_path, core=2, **offline)
    assert data.items["title"][0] == ITEMS[1][1] and data.n_users == 2
    assert fl.load("qb", root=published(tmp_path, name="QB"), fewest=3, **offline).n_items == 6
    with pytest.raises(
        fl.FedlabError, match=r"'tn': no .* or TN_pair\.csv, TN_item\.csv in .*github\.com/westlake-repl"
    ):
        fl.load("tn", root=tmp_path, **offline)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("Bili_Food_pair.csv", "v3\n", r"Bili_Food_pair\.csv, row 1: has one cell; there should be 3"),
        ("Bili_Food_pair.csv", "", r"Bili_Food_pair\.csv: cannot be read as CSV \(it is empty\)"),
        ("Bili_Food_pair.csv", "v3,1,5\nv3,1\n", r"Bili_Food_pair\.csv, row 2: has fewer cells"),
        ("Bili_Food_pair.csv", "v3,1,5\nv9,1,6\n", r"Bili_Food_pair\.csv, row 2: item v9 is unknown"),
        ("Bili_Food_pair.csv", "v3,1,5\nv3,,6\n", r"Bili_Food_pair\.csv, row 2: user is empty"),
        ("Bili_Food_pair.csv", "v3,1,5\nv3,1,x\n", r"Bili_Food_pair\.csv, row 2: timestamp 'x' is not a whole number"),
        ("Bili_Food_item.csv", "v3,a,b\nv3,c,d\n", r"Bili_Food_item\.csv, row 2: item v3 is listed twice"),
        ("Bili_Food_item.csv", "v3,a,b\nv4,c,d,e\n", r"Bili_Food_item\.csv: cannot be read as CSV"),
    ],
)
def test_published_files_that_are_not_as_published(tmp_path, offline, file, content, message):
    published(tmp_path)
    (tmp_path / file).write_text(content, encoding="utf-8", newline="\n")
    with pytest.raises(fl.FedlabError, match=message):
        fl.load("bili-food", root=tmp_path, **offline)


def test_users_called_like_items_and_cells_that_repeat_in_the_first_row(tmp_path, offline):
    published(tmp_path)
    (tmp_path / "Bili_Food_pair.csv").write_text("5,5\n6,5\n7,5\n5,6\n6,6\n7,6\n", encoding="utf-8", newline="\n")
    (tmp_path / "Bili_Food_item.csv").write_text("5,5,5\n6,a,b\n7,a,b\n", encoding="utf-8", newline="\n")
    data = fl.load("bili-food", root=tmp_path, fewest=3, **offline)
    assert (data.n_users, data.n_items, len(data.interactions)) == (2, 3, 6)

"""KU as published, and what its loader says when the files are not as published."""

import shutil

import numpy as np
import pandas as pd
import pytest

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
    with pytest.warns(UserWarning, match="ku: dropped 1 user with fewer than three interactions"):
        assert fl.load("ku", root=copy).n_users == 203


def test_features_that_do_not_fit(copy):
    feature = np.load(copy / "image_features.npy")
    np.save(copy / "image_features.npy", feature[:-1])
    with pytest.raises(fl.FedlabError, match=r"image_features\.npy: has shape \[559, 512\], but there are 560 items"):
        fl.load("ku", root=copy)
    feature[4, 7] = np.nan
    np.save(copy / "image_features.npy", feature)
    with pytest.raises(fl.FedlabError, match=r"image_features\.npy, row 4: holds a NaN"):
        fl.load("ku", root=copy)


def test_columns_and_content(copy):
    (copy / "inter.csv").write_text("")
    with pytest.raises(fl.FedlabError, match=r"inter\.csv: cannot be read as CSV"):
        fl.load("ku", root=copy)
    (copy / "inter.csv").write_text("userID,itemID\n1,2\n")
    with pytest.raises(fl.FedlabError, match=r"inter\.csv: column timestamp is missing; there are userID, itemID"):
        fl.load("ku", root=copy)
    edit(copy / "i_id_mapping.csv", lambda t: t.loc.__setitem__((0, "itemID"), 1))
    with pytest.raises(fl.FedlabError, match=r"i_id_mapping\.csv: itemID is not 0 to 559"):
        fl.load("ku", root=copy)

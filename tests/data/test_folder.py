"""A folder of one's own: read, trained on, written and read again; nothing outside it is looked at."""

import dataclasses
import json
import os
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

import fedlab_mm as fl
from fedlab_mm.data import build
from fedlab_mm.data.prepare import NO_TITLE
from tests.conftest import tiny


@pytest.fixture
def folder(tmp_path):
    """Eight users, nine items with titles, pictures of all but two, and a sound of each."""
    rng = np.random.default_rng(0)
    here = tmp_path / "mine"
    (here / "images").mkdir(parents=True)
    rows = [(f"u{u}", f"i{i}", t) for u in range(8) for t, i in enumerate(rng.permutation(9)[: 4 + u % 3])]
    pd.DataFrame(rows, columns=["user", "item", "timestamp"]).to_csv(here / "interactions.csv", index=False)
    items = pd.DataFrame(
        {"item": [f"i{i}" for i in range(9)], "title": [f"a red thing, number 10{i}" for i in range(9)]}
    )
    items.to_csv(here / "items.csv", index=False)
    for i in range(7):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(here / "images" / f"i{i}.png")
    np.save(here / "audio.npy", rng.normal(size=(9, 5)))
    return here


@pytest.fixture
def offline(tmp_path):
    return {"encoder": "offline", "cache": tmp_path / "cache", "progress": False}


def rewrite(path, **columns):
    pd.read_csv(path, dtype=str).assign(**columns).to_csv(path, index=False)


@pytest.mark.parametrize("method", ["fedvlr", "fedmr"])
def test_three_modalities_of_different_width_are_trained_on(folder, offline, recipe, method):
    data = fl.load(folder, **offline)
    assert {m: f.shape for m, f in data.features.items()} == {"image": (9, 512), "text": (9, 512), "audio": (9, 5)}
    assert data.missing == {"image": 2} and data.name == "mine"
    recipe = recipe.but(method=method, operators=("sum", "gate", "solo"), rounds=2)
    run = fl.train(recipe, data, progress=False)
    assert np.isfinite(run.history["value"]).all()
    assert run.router_weights().shape == (8, 2 + 4)  # sum, gate, and each of image, text, audio and ID alone
    other = fl.train(recipe.but(without=("audio",)), data, progress=False)
    assert other.router_weights().shape == (8, 2 + 3)


def test_a_folder_without_items_pictures_or_features(tmp_path, offline):
    (tmp_path / "interactions.csv").write_text(
        "item,timestamp,user\n" + "".join(f"x{i},{i},me\n" for i in range(4)), encoding="utf-8", newline="\n"
    )
    data = fl.load(tmp_path, **offline)
    assert data.items["id"].tolist() == ["x0", "x1", "x2", "x3"] and not data.features and data.covers is None
    assert set(data.items["title"]) == {NO_TITLE}
    assert data.interactions["split"].tolist() == ["train", "train", "valid", "test"]


def test_a_ready_modality_takes_the_place_of_encoding(folder, offline):
    save_file({"any": np.eye(9, 4, dtype=np.float16)}, folder / "image.safetensors")
    np.save(folder / "text.npy", np.where(np.arange(9)[:, None] == 3, np.nan, np.ones((9, 2))))
    data = fl.load(folder, **offline)
    assert data.features["image"].shape == (9, 4) and data.features["text"][3].tolist() == [1, 1]
    assert data.missing == {"text": 1} and data.filled == {"text": "mean of the others"}
    assert not offline["cache"].exists()
    assert data.covers[0].shape == (9, 9, 3)  # the pictures are still there to be shown


def test_pictures_by_name_or_as_the_items_say(folder, offline):
    by_name = fl.load(folder, **offline)
    (folder / "images" / "more").mkdir()
    (folder / "images" / "i0.png").rename(folder / "images" / "more" / "zero.png")
    names = ["more/zero.png", *[f" i{i}.png " for i in range(1, 7)], "", ""]
    rewrite(folder / "items.csv", image=names)
    assert fl.load(folder, **offline).fingerprint == by_name.fingerprint


def test_pictures_that_cannot_be_read_count_as_missing_and_are_listed(folder, offline):
    (folder / "images" / "i0.png").write_bytes(b"no picture")
    rewrite(folder / "items.csv", image=["i0.png", "gone.png", *[f"i{i}.png" for i in range(2, 7)], "", ""])
    with pytest.warns(UserWarning, match="2 pictures cannot be read and count as missing"):
        data = fl.load(folder, **offline)
    assert data.problems["item"].tolist() == ["i0", "i1"] and data.missing["image"] == 4
    assert data.describe()["mine"]["unreadable pictures"] == 2


@pytest.mark.parametrize("name", ["../interactions.csv", "/etc/passwd", "a/../../b.png", "..\\b.png", "C:\\b.png", "/"])
def test_pictures_outside_the_folder_are_refused(folder, offline, name):
    rewrite(folder / "items.csv", image=[name] + [""] * 8)
    with pytest.raises(fl.FedlabError, match=r"items\.csv, row 2: image '.*' leads out of .*images"):
        fl.load(folder, **offline)


def test_pictures_and_features_are_found_however_they_are_written(folder, offline):
    """Another case, another ending, a folder within, accents in two characters, leading zeros."""
    plain = fl.load(folder, **offline)
    names = ["é", "Ab", "3", "i3", "i4", "i5", "i6", "i7", "i8"]
    rename = dict(zip([f"i{i}" for i in range(9)], names, strict=True))
    for table in ("interactions.csv", "items.csv"):
        known = pd.read_csv(folder / table)
        known.assign(item=known["item"].map(rename)).to_csv(folder / table, index=False)
    (folder / "images").rename(folder / "pictures")
    (folder / "pictures").rename(folder / "Images")
    images = folder / "Images"
    (images / "more").mkdir()
    (images / "i0.png").rename(images / "e\u0301.png")
    (images / "i1.png").rename(images / "aB.PNG")
    (images / "i2.png").rename(images / "00003.png")
    (images / "i3.png").rename(images / "more" / "i3.png")
    Image.open(images / "i4.png").save(images / "i4.tif")
    (images / "i4.png").unlink()
    (folder / "audio.npy").rename(folder / "audio.NPY")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = fl.load(folder, **offline)
    assert data.missing == plain.missing == {"image": 2}
    before = {now: then for then, now in rename.items()}  # items are numbered by their names, which are others now
    order = [plain.items["id"].tolist().index(before[name]) for name in data.items["id"]]
    for modality, feature in plain.features.items():
        assert torch.equal(data.features[modality], feature[order]), modality


def test_an_empty_cell_is_filled_by_name_and_a_named_picture_is_found_in_any_case(folder, offline):
    by_name = fl.load(folder, **offline)
    rewrite(folder / "items.csv", image=["", "I1.PNG", *[""] * 7])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fl.load(folder, **offline).fingerprint == by_name.fingerprint


def test_what_is_there_and_not_read_is_told(folder, offline):
    (folder / "images" / "gone.png").touch()
    for name in ["clip.npz", "video.pt", "tags.csv", "audio.npy.gz", "i7.jpg", "README.txt", ".hidden.npz", "made.py"]:
        (folder / name).touch()
    (folder / "features").mkdir()
    np.save(folder / "features" / "text.npy", np.eye(9))
    with pytest.warns(UserWarning) as told:
        data = fl.load(folder, **offline)
    assert list(data.features) == ["audio", "image", "text"] and data.features["text"].shape == (9, 512)
    assert [str(w.message) for w in told] == [
        f"{folder / 'images'}: 1 picture matches no item, or several (gone.png)",
        f"{folder}: 6 files that look like features or pictures are not read (first: audio.npy.gz). Features are read "
        "from NAME.npy (numpy.save) or NAME.safetensors beside interactions.csv, pictures from images/",
    ]


@pytest.mark.skipif(os.name == "nt", reason="no such file names")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a:b.npy", "its name holds ':'"),
        ("a\\b.npy", r"its name holds '\\\\'"),
        (" .npy", "a name is text, neither empty"),
    ],
)
def test_a_modality_with_an_impossible_name_is_refused_with_its_file(folder, offline, name, message):
    np.save(folder / name, np.eye(9))
    with pytest.raises(fl.FedlabError, match=rf"mine/.*: modality '.*': {message}"):
        fl.load(folder, **offline)


def test_ratings_are_told_of_and_asked_for(folder, offline):
    n = len(pd.read_csv(folder / "interactions.csv"))
    stars = [1 + row % 5 for row in range(n)]
    rewrite(folder / "interactions.csv", rating=[*map(str, stars[:-1]), ""])
    with pytest.warns(UserWarning, match=r"mine: the ratings \(1 to 5\) are not used, so a low one counts as a like"):
        data = fl.load(folder, **offline)
    assert len(data.interactions) == n and data.about["ratings"] == "1 to 5, each an interaction"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        liked = fl.load(folder, min_rating=2, **offline)
    low = sum(star < 2 for star in stars[:-1])
    assert liked.dropped["interactions rated below 2"] == low and liked.dropped["interactions without a rating"] == 1
    assert len(liked.interactions) == n - low - 1
    assert liked.about["ratings"] == "2 to 5, lower ones were left out"
    with pytest.raises(fl.FedlabError, match=r"interactions\.csv: min_rating=6 leaves nothing: the highest is 5"):
        fl.load(folder, min_rating=6, **offline)
    rewrite(folder / "interactions.csv", rating=["good"] * n)
    with pytest.raises(fl.FedlabError, match=r"interactions\.csv, row 2: rating 'good' is not a number"):
        fl.load(folder, **offline)
    rewrite(folder / "interactions.csv", rating=["1"] * n)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # ratings that are all alike say nothing
        fl.load(folder, **offline)


def test_where_there_are_no_ratings_none_can_be_asked_for(folder, offline):
    with pytest.raises(fl.FedlabError, match=r"interactions\.csv: min_rating=4, but there are no ratings in it"):
        fl.load(folder, min_rating=4, **offline)


ODD = [
    "<b>Bold</b> &amp; <script>alert(1)</script>",
    "🎬🍿 family 👨‍👩‍👧‍👦",
    '"quoted", with a comma',
    "two\nlines",
    "word " * 50_000,
    "NA",
    "  \t ",
    "=1+1",
    "שלום ١٢٣ 標題",
]


def test_titles_of_every_kind(folder, offline):
    rewrite(folder / "items.csv", title=ODD)
    data = fl.load(folder, **offline)
    shown = [t.strip() for t in ODD]
    shown[6] = NO_TITLE
    assert data.items["title"].tolist() == shown
    assert data.missing["text"] == 1 and np.isfinite(data.features["text"].numpy()).all()
    again = fl.load(fl.save_dataset(data, folder.parent / "saved"))
    assert again.items["title"].tolist() == shown and again.fingerprint == data.fingerprint


def test_lone_surrogates_and_control_characters_go(offline):
    raw = fl.data.Raw(
        pd.DataFrame({"user": [0] * 3, "item": [0, 1, 2], "timestamp": [1, 2, 3]}),
        pd.DataFrame({"item": range(3), "title": ["caf\ud83d\xe9", "\ud800", "a\x00b\x1b[2J"]}, dtype=object),
        encode=("text",),
    )
    data = fl.data.prepare("x", raw, fl.data.Preparation(**offline))
    assert data.items["title"].tolist() == ["café", NO_TITLE, "ab[2J"]
    assert data.missing["text"] == 1


@pytest.mark.parametrize("split", ["leave-one-out", "temporal"])
def test_what_is_saved_is_loaded_the_same(folder, offline, tmp_path, split, recipe):
    log = pd.read_csv(folder / "interactions.csv")
    rng = np.random.default_rng(3)
    rewrite(folder / "interactions.csv", timestamp=rng.integers(0, 60, len(log)))
    data = fl.load(folder, split=split, held_out=0.4, **offline)
    if split == "temporal":
        assert (data.target_U("test") < 0).any() and data.interactions.groupby("user").size().min() < 3
    saved = fl.save_dataset(data, tmp_path / "saved")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = fl.load(saved)
    assert again.fingerprint == data.fingerprint
    assert again.users["id"].tolist() == data.users["id"].tolist()
    assert again.items["id"].tolist() == data.items["id"].tolist()
    assert again.interactions.equals(data.interactions)
    written = json.loads((saved / "dataset.json").read_text(encoding="utf-8"))
    assert written["sha256"] == data.fingerprint and written["dropped"] == dict(data.dropped)
    third = fl.load(fl.save_dataset(again, tmp_path / "third"))
    assert third.fingerprint == data.fingerprint
    run = fl.train(recipe.but(rounds=2), data, progress=False)
    assert fl.train(recipe.but(rounds=2), again, progress=False).test == run.test


def test_generated_and_built_data_are_saved_too(toy, world, tmp_path):
    for data in (toy, world, tiny(seed=3)):
        again = fl.load(fl.save_dataset(data, tmp_path / data.name))
        assert again.fingerprint == data.fingerprint


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    ids=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), min_size=3, max_size=6),
    users=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), min_size=1, max_size=4),
)
@example(ids=["a\rb", 'a"b', "a,b\n"], users=["\r\n,", "\x1d1", "NA", '"'])
@example(ids=["1", "1.0", "01"], users=["1e3", "-0", "x\0", "x"])
def test_any_names_survive_being_saved(tmp_path_factory, ids, users):
    ids = list(dict.fromkeys(i.strip() for i in ids if i.strip()))
    users = list(dict.fromkeys(u.strip() for u in users if u.strip()))
    if len(ids) < 3 or not users:
        return
    here = tmp_path_factory.mktemp("names")
    rows = [(u, i, t) for u in users for t, i in enumerate(ids)]
    raw = fl.data.Raw(
        pd.DataFrame(rows, columns=["user", "item", "timestamp"]), pd.DataFrame({"item": ids, "title": ids}), encode=()
    )
    data = fl.data.prepare("x", raw, fl.data.Preparation())
    again = fl.load(fl.save_dataset(data, here / "saved"))
    assert again.fingerprint == data.fingerprint
    assert sorted(again.items["id"]) == sorted(ids) and sorted(again.users["id"]) == sorted(users)


def test_a_folder_is_replaced_only_if_it_is_one_of_ours(world, tmp_path):
    here = tmp_path / "d"
    here.mkdir()
    fl.save_dataset(world, here)  # an empty one may be written to
    fl.save_dataset(tiny(seed=5), here)
    assert fl.load(here).fingerprint == tiny(seed=5).fingerprint
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    for place in (tmp_path / "other", tmp_path / "other" / "thesis.tex"):
        with pytest.raises(fl.FedlabError, match="is there and holds no prepared dataset: choose another place"):
            fl.save_dataset(world, place)
    with pytest.raises(fl.FedlabError, match="cannot be written"):
        fl.save_dataset(world, tmp_path / "other" / "thesis.tex" / "d")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "other"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("interactions.csv", None, r"holds no interactions\.csv: a folder needs one"),
        ("interactions.csv", "user,item\n1,2\n", r"interactions\.csv: column timestamp is missing"),
        (
            "interactions.csv",
            "user,item,timestamp\nu,i0,soon\n",
            r"interactions\.csv, row 2: timestamp 'soon' is not a",
        ),
        ("interactions.csv", "user,item,timestamp\n ,i0,1\n", r"interactions\.csv, row 2: user is empty"),
        ("interactions.csv", "user,item,timestamp\nu,i9,1\n", r"interactions\.csv, row 2: item i9 is unknown"),
        ("interactions.csv", "user,item,timestamp,split\nu,i1,1,dev\n", r"interactions\.csv, row 2: split is none of"),
        ("interactions.csv", "user,item,timestamp\n", r"interactions\.csv: there are no interactions in it"),
        ("items.csv", "title\nx\n", r"items\.csv: column item is missing; there are title"),
        ("items.csv", "item,title\ni0,x\ni0,y\n", r"items\.csv, row 3: item i0 is listed twice"),
        ("items.csv", "item,title\ni0,x\n,y\n", r"items\.csv, row 3: item is empty"),
        ("items.csv", "item,title\n", r"items\.csv: there are no items in it"),
        ("audio.safetensors", "", r"modality 'audio' has two files, audio\.npy and audio\.safetensors"),
        ("id.npy", "", r"id\.npy: modality 'id': 'id' names the item ID's own signal"),
        ("dataset.json", "[1]", r"dataset\.json: is not what `save_dataset` writes"),
        ("dataset.json", '{"about": 5}', r"dataset\.json: is not what `save_dataset` writes"),
        ("dataset.json", '{"about": ', r"dataset\.json: is not JSON"),
    ],
)
def test_bad_files_are_named(folder, offline, file, content, message):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content, encoding="utf-8", newline="\n")
        if file == "items.csv":
            (folder / "audio.npy").unlink()
    with pytest.raises(fl.FedlabError, match=message):
        fl.load(folder, **offline)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((slice(None), np.nan), r"audio\.npy: every row is missing"),
        ((2, np.inf), r"audio\.npy, row 2, column 0 is infinite$"),
        (((3, 1), np.nan), r"audio\.npy, row 3, column 1 is NaN \(a missing row is NaN throughout\)"),
        (((5, 4), -1e300), r"audio\.npy, row 5, column 4 is -1e\+300, too large for float32$"),
    ],
)
def test_bad_features_are_named(folder, offline, change, message):
    feature = np.load(folder / "audio.npy")
    feature[change[0]] = change[1]
    np.save(folder / "audio.npy", feature)
    with pytest.raises(fl.FedlabError, match=message):
        fl.load(folder, **offline)


def test_a_folder_needs_a_name():
    with pytest.raises(fl.FedlabError, match="name the folder as root, or load its path itself"):
        fl.load("folder")
    for name in ("~nobody-of-that-name/mine", "/gone/mine"):
        with pytest.raises(fl.FedlabError, match=r"mine holds no interactions\.csv"):
            fl.load(name)
    with pytest.raises(fl.FedlabError, match=r"dataset 'ku': no inter\.csv"):
        fl.load("ku", root="~nobody-of-that-name")


def test_saved_titles_are_those_of_the_data(tmp_path):
    log = pd.DataFrame({"user": [0] * 3, "item": [0, 1, 2], "timestamp": [1, 2, 3]})
    data = build("x", log, pd.DataFrame({"title": ["a", "b, c", 'd "e"']}), {})
    assert fl.load(fl.save_dataset(data, tmp_path / "x")).fingerprint == data.fingerprint


def test_a_saved_dataset_still_says_what_was_left_out_and_filled_in(tmp_path):
    toy = fl.load("toy", core=8)
    lost = dataclasses.replace(toy, missing={"image": 7}, filled={"image": "mean of the others"})
    back = fl.load(fl.save_dataset(lost, tmp_path / "saved"))
    assert back.fingerprint == toy.fingerprint
    told = back.describe().iloc[:, 0]
    assert told["image missing, now mean of the others"] == 7
    assert told["dropped: items with fewer than 8"] == toy.dropped["items with fewer than 8"]

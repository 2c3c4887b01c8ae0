"""MovieLens in its three layouts, written small as GroupLens writes them, and latest-small itself where it is there."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import fedlab_mm as fl
from fedlab_mm.centralised.ease import EASE
from fedlab_mm.centralised.popularity import Popularity
from fedlab_mm.encoding import OfflineEncoder
from fedlab_mm.evaluation import evaluate_split
from fedlab_mm.registry import lookup
from tests.conftest import SHARED

USERS, MOVIES = range(1, 7), (1, 2, 10, 34, 1210, 3000)
TITLES = [
    "Toy Story (1995)",
    'American President, The "Nr. 1" (1995)',
    "Misérables, Les (1995)",
    "Léon: The Professional (1994)",
    "Untold | Stories; a :: b",
    "",
]
GENRES = ["Animation|Children's", "Comedy", "", "Thriller", "Drama", "Comedy|War"]


def ratings(sep, stars="{}"):
    """Everybody rates every movie, in an order and at a time of one's own."""
    rows = []
    for user in USERS:
        for n, movie in enumerate(np.random.default_rng(user).permutation(MOVIES)):
            rows.append(sep.join(map(str, (user, movie, stars.format(1 + n % 5), 978300000 + 100 * user + n))))
    return rows


def latest_small(folder):
    rows = ratings(",", "{}.0")
    (folder / "ratings.csv").write_text(
        "\n".join(["userId,movieId,rating,timestamp", *rows]) + "\n", encoding="utf-8", newline="\n"
    )
    quoted = ['"' + t.replace('"', '""') + '"' if set(t) & set(',"') else t for t in TITLES]
    lines = [f"{m},{t},{g or '(no genres listed)'}" for m, t, g in zip(MOVIES, quoted, GENRES, strict=True)]
    (folder / "movies.csv").write_text(
        "\r\n".join(["movieId,title,genres", *lines]) + "\r\n", encoding="utf-8", newline="\n"
    )


def one_million(folder):
    (folder / "ratings.dat").write_text("\n".join(ratings("::")) + "\n", encoding="utf-8", newline="\n")
    titles = [t.replace(" :: ", " ") for t in TITLES]
    lines = [f"{m}::{t}::{g}" for m, t, g in zip(MOVIES, titles, GENRES, strict=True)]
    (folder / "movies.dat").write_text("\n".join(lines) + "\n", encoding="latin-1", newline="\n")


def hundred_thousand(folder):
    (folder / "u.data").write_text("\n".join(ratings("\t")) + "\n", encoding="utf-8", newline="\n")
    names = lookup("dataset", "ml-100k").read_movies.__globals__["_GENRES"]
    assert len(names) == 19
    lines = []
    for movie, title, genres in zip(MOVIES, [t.replace(" | ", " ") for t in TITLES], GENRES, strict=True):
        marks = ["1" if name in genres.split("|") else "0" for name in names]
        lines.append("|".join([str(movie), title, "01-Jan-1995", "", "http://us.imdb.com/M/title-exact?x", *marks]))
    (folder / "u.item").write_text("\n".join(lines) + "\n", encoding="latin-1", newline="\n")


LAYOUTS = {"ml-latest-small": latest_small, "ml-1m": one_million, "ml-100k": hundred_thousand}


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path):
    folder = tmp_path / request.param
    folder.mkdir()
    LAYOUTS[request.param](folder)
    return request.param, folder


@pytest.fixture
def offline(tmp_path):
    return {"encoder": "offline", "cache": tmp_path / "cache", "progress": False}


def test_each_layout_is_read(layout, offline):
    name, folder = layout
    data = fl.load(name, root=folder.parent, **offline)
    assert (data.n_users, data.n_items, len(data.interactions)) == (6, 6, 36)
    assert data.users["id"].tolist() == [str(u) for u in USERS]
    assert data.items["id"].tolist() == [str(m) for m in MOVIES]
    titles = data.items["title"].tolist()
    assert titles[:4] == TITLES[:4] and titles[4].startswith("Untold") and titles[5] == "The title is missing."
    assert data.interactions["timestamp"].between(978300100, 978300605).all()
    for user in USERS:
        last = np.random.default_rng(user).permutation(MOVIES)[-1]
        assert data.items["id"][data.target_U("test")[user - 1]] == str(last)
    assert set(data.features) == {"text"} and not data.missing and data.covers is None
    assert "grouplens" in data.about["source"] and "Harper" in data.about["citation"]


def test_what_was_liked_may_be_asked_for(layout, offline):
    name, folder = layout
    data = fl.load(name, root=folder, core=0, min_rating=3, **offline)
    assert data.dropped["interactions rated below 3"] == 6 * 3 and len(data.interactions) == 6 * 3
    for user in USERS:  # the stars of the six, in the order of time, are 1, 2, 3, 4, 5, 1
        fifth = np.random.default_rng(user).permutation(MOVIES)[4]
        assert data.items["id"][data.target_U("test")[user - 1]] == str(fifth)
    assert fl.load(name, root=folder, **offline).about["ratings"] == "1 to 5, each an interaction"


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_files_that_were_saved_again_as_utf_8(layout, offline, bom):
    name, folder = layout
    before = fl.load(name, root=folder, **offline)
    for path in folder.iterdir():
        raw = path.read_bytes()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        path.write_bytes((bom + text).encode("utf-8"))
    data = fl.load(name, root=folder, **offline)
    assert data.items["title"].tolist() == before.items["title"].tolist() and "Misérables, Les (1995)" in set(
        data.items["title"]
    )
    assert data.fingerprint == before.fingerprint


def test_what_the_text_encoder_reads(layout):
    name, folder = layout
    texts = lookup("dataset", name).read(folder).items["text"].tolist()
    assert texts[0] == "Toy Story (1995). Animation, Children's"
    assert texts[2] == "Misérables, Les (1995)" and texts[5] == "Comedy, War"
    (folder / "abstracts.json").write_text(
        json.dumps({"1": "Toys live. \ud83d", "10": "Prison.", "5": "?"}), encoding="utf-8", newline="\n"
    )
    texts = lookup("dataset", name).read(folder).items["text"].tolist()
    assert texts[0] == "Toy Story (1995). Toys live." and texts[2] == "Misérables, Les (1995). Prison."
    assert texts[1].endswith("(1995). Comedy")


def test_posters_are_found_by_movie(layout, offline):
    name, folder = layout
    (folder / "posters").mkdir()
    for n, movie in enumerate((1, 34, 9999)):
        Image.new("RGB", (6, 9), (80 * n, 9, 9)).save(folder / "posters" / f"{movie}.jpg")
    (folder / "posters" / "2.txt").touch()
    data = fl.load(name, root=folder, **offline)
    assert data.missing == {"image": 4} and data.covers[3].shape == (9, 6, 3)
    assert data.features["image"][1].tolist() == data.features["image"][2].tolist()


@pytest.mark.parametrize("content", ["[]", '{"1": 5}', "{"])
def test_abstracts_that_are_none_are_named(layout, offline, content):
    name, folder = layout
    (folder / "abstracts.json").write_text(content, encoding="utf-8", newline="\n")
    with pytest.raises(fl.FedlabError, match=r"abstracts\.json: is not"):
        fl.load(name, root=folder, **offline)


@pytest.mark.parametrize(
    ("name", "file", "more", "message"),
    [
        ("ml-latest-small", "ratings.csv", "1,1,5\n", r"ratings\.csv, row 38: "),
        ("ml-latest-small", "ratings.csv", "1,7,5.0,978300000\n", r"ratings\.csv, row 38: item 7 is unknown"),
        ("ml-latest-small", "movies.csv", "1,x,y\n", r"movies\.csv, row 8: item 1 is listed twice"),
        ("ml-1m", "ratings.dat", "1::1::5\n", r"ratings\.dat, row 37: has fewer cells than the header"),
        ("ml-1m", "ratings.dat", "1::1::5::soon\n", r"ratings\.dat, row 37: timestamp 'soon' is not a whole number"),
        ("ml-1m", "ratings.dat", "1::1::5::1::1\n", r"ratings\.dat: cannot be read as CSV"),
        ("ml-100k", "u.data", "1\t1\t5\t\n", r"u\.data, row 37: timestamp '' is not a whole number"),
        ("ml-100k", "u.item", "5|x|y\n", r"u\.item, row 7: has fewer cells than the header"),
    ],
)
def test_a_broken_row_is_named(tmp_path, offline, name, file, more, message):
    LAYOUTS[name](tmp_path)
    with open(tmp_path / file, "a", encoding="utf-8", newline="\n") as out:
        out.write(more)
    with pytest.raises(fl.FedlabError, match=message):
        fl.load(name, root=tmp_path, **offline)


def test_what_is_not_there_is_explained(tmp_path):
    latest_small(tmp_path)
    (tmp_path / "movies.csv").unlink()
    with pytest.raises(fl.FedlabError, match=r"'ml-latest-small': .* lacks movies\.csv\. Get them from grouplens\.org"):
        fl.load("ml-latest-small", root=tmp_path)
    with pytest.raises(fl.FedlabError, match="dataset 'ml-1m' has no parts, so 'small' is none of them"):
        fl.load("ml-1m:small", root=tmp_path)


@pytest.fixture(scope="module")
def movielens(tmp_path_factory):
    if not (SHARED / "ml-latest-small" / "posters").is_dir():
        pytest.skip(f"MovieLens' files and posters are not in {SHARED / 'ml-latest-small'}")
    cache = tmp_path_factory.mktemp("cache")
    return fl.load("ml-latest-small", root=SHARED, encoder="offline", cache=cache, progress=False)


@pytest.mark.slow
def test_latest_small_is_that_of_the_papers(movielens):
    assert (movielens.n_users, movielens.n_items, len(movielens.interactions)) == (610, 3650, 90274)
    assert movielens.n_items - movielens.missing["image"] == 1846
    assert movielens.features["image"].shape == movielens.features["text"].shape == (3650, 512)
    assert 90274 + movielens.dropped["interactions outside the core"] == 100836
    assert not len(movielens.problems)
    assert movielens.tied == {"valid": 137, "test": 91}


@pytest.mark.slow
def test_simple_baselines_on_latest_small(movielens):
    for baseline, hit_rate in ((Popularity(), 0.111), (EASE(200), 0.277)):
        assert evaluate_split(baseline.scores(movielens), movielens, "test")["hr@50"] == pytest.approx(
            hit_rate, abs=5e-4
        )


def test_a_second_load_encodes_nothing(movielens, tmp_path, monkeypatch):
    """On a copy without most of its users, so that it takes no time."""
    folder = tmp_path / "ml"
    folder.mkdir()
    for file in ("movies.csv", "abstracts.json"):
        shutil.copyfile(SHARED / "ml-latest-small" / file, folder / file)
    with open(SHARED / "ml-latest-small" / "ratings.csv", encoding="utf-8") as source:
        (folder / "ratings.csv").write_text(
            "".join(line for line, _ in zip(source, range(3000), strict=False)), encoding="utf-8", newline="\n"
        )
    shutil.copytree(SHARED / "ml-latest-small" / "posters", folder / "posters")
    options = {"root": folder, "encoder": "offline", "cache": tmp_path / "cache", "progress": False}
    first = fl.load("ml-latest-small", **options)
    for method in ("prepare", "encode_texts"):
        monkeypatch.setattr(OfflineEncoder, method, None)
    assert fl.load("ml-latest-small", **options).fingerprint == first.fingerprint

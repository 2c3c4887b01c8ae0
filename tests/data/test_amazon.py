"""Amazon Reviews 2023: JSON lines, plain or packed, and what becomes of those that say too little."""

import gzip
import json

import numpy as np
import pytest
from PIL import Image

import fedlab_mm as fl
from fedlab_mm.registry import lookup

ITEMS = ["B001", "B002", "B003", "B004", "0123456789"]
NAME = "Gift_Cards"


def review(user, item, time, **more):
    return {"rating": 5.0, "title": "good", "user_id": user, "parent_asin": item, "asin": "B0",
            "timestamp": time, "verified_purchase": True, **more}  # fmt: skip


REVIEWS = [
    review(f"A{user}", item, 1_588_687_728_000 + 1000 * turn)
    for user in range(6)
    for turn, item in enumerate(np.random.default_rng(user).permutation(ITEMS))
]
META = [
    {"parent_asin": "B001", "title": "<b>Card</b>", "images": [{"variant": "PT01", "large": "http://x/pt.jpg"},
                                                               {"variant": "MAIN", "large": "http://x/1.jpg"}]},
    {"parent_asin": "B002", "title": "Box 🎁", "images": [{"large": None, "hi_res": "http://x/2.jpg"}]},
    {"parent_asin": "B003", "title": None, "images": []},
    {"parent_asin": "0123456789", "title": "A book", "images": None},
    {"parent_asin": "B999", "title": "Never reviewed", "images": [{"thumb": "http://x/9.jpg"}]},
]  # fmt: skip


def write(folder, reviews=REVIEWS, meta=META, packed=False):
    for name, records in ((NAME, reviews), (f"meta_{NAME}", meta)):
        content = "".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records).encode()
        if packed:
            (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(content))
        else:
            (folder / f"{name}.jsonl").write_bytes(content)
    return folder


@pytest.fixture
def load(tmp_path):
    def load(**options):
        quiet = {"encoder": "offline", "cache": tmp_path / "cache", "progress": False}
        return fl.load(f"amazon:{NAME}", root=tmp_path, **quiet, **options)

    return load


@pytest.mark.parametrize("packed", [False, True])
def test_reviews_become_interactions(tmp_path, load, packed):
    write(tmp_path, packed=packed)
    data = load()
    assert (data.name, data.n_users, data.n_items, len(data.interactions)) == (f"amazon-{NAME}", 6, 5, 30)
    titles = dict(zip(data.items["id"], data.items["title"], strict=True))
    assert titles == {
        "B001": "<b>Card</b>", "B002": "Box 🎁", "B003": "The title is missing.", "B004": "The title is missing.",
        "0123456789": "A book",
    }  # fmt: skip
    assert data.missing == {"text": 2}  # one without metadata, one whose metadata have no title
    assert data.interactions["timestamp"].between(1_588_687_728, 1_588_687_732).all()
    for number, user in enumerate(data.users["id"]):
        last = np.random.default_rng(int(user[1:])).permutation(ITEMS)[-1]
        assert data.items["id"][data.target_U("test")[number]] == last


@pytest.mark.parametrize("plain", [NAME, f"meta_{NAME}"])
def test_one_file_may_be_unpacked_beside_the_other(tmp_path, load, plain):
    write(tmp_path, packed=True)
    packed = tmp_path / f"{plain}.jsonl.gz"
    (tmp_path / f"{plain}.jsonl").write_bytes(gzip.decompress(packed.read_bytes()))
    both = load()
    packed.unlink()
    assert load().fingerprint == both.fingerprint and len(both.interactions) == 30


def test_reviews_that_say_too_little_are_counted(tmp_path, load):
    few = [
        {}, review(None, "B001", 1), review("", "B001", 1), review(" ", "B001", 1), review("A\ud800", "B001", 1),
        review("A0", 5, 1), review("A0", "B001", "yesterday"), review("A0", "B001", True), review("A0", "B001", None),
    ]  # fmt: skip
    write(tmp_path, [*few, *REVIEWS, review(" A0 ", "B001", 2_000_000_000_000)])
    data = load()
    assert data.dropped["reviews without user, item or time"] == 9
    assert data.describe().loc["dropped: reviews without user, item or time"].item() == 9
    assert data.dropped["repeated pairs"] == 1 and len(data.interactions) == 30


def test_what_was_liked_may_be_asked_for(tmp_path, load):
    stars = [5.0, 2, "3", None, 4]
    write(tmp_path, [{**r, "rating": stars[n % 5]} for n, r in enumerate(REVIEWS)])
    data = load(core=0, min_rating=2)
    assert data.dropped["interactions rated below 2"] == 0 and data.dropped["interactions without a rating"] == 12
    assert len(data.interactions) == 18 and data.about["ratings"] == "2 to 5, lower ones were left out"


def test_within_a_second_milliseconds_decide(tmp_path, load):
    write(tmp_path, [review(r["user_id"], r["parent_asin"], 10**12 + 99 - n) for n, r in enumerate(REVIEWS)])
    data = load()
    assert data.interactions["timestamp"].unique().tolist() == [10**9]
    for number, user in enumerate(data.users["id"]):
        first = np.random.default_rng(int(user[1:])).permutation(ITEMS)[0]
        assert data.items["id"][data.target_U("test")[number]] == first


def test_only_incomplete_reviews(tmp_path, load):
    write(tmp_path, [{}, {}])
    with pytest.raises(
        fl.FedlabError, match=r"Gift_Cards\.jsonl: none of its 2 reviews has a user, an item and a time"
    ):
        load()
    write(tmp_path, [])
    with pytest.raises(fl.FedlabError, match=r"Gift_Cards\.jsonl: none of its 0 reviews"):
        load()


@pytest.mark.parametrize(
    ("reviews", "meta", "message"),
    [
        ([*REVIEWS, '{"user_id": "A1", "paren'], META, r"/Gift_Cards\.jsonl(\.gz)?, line 31: is not JSON"),
        ([*REVIEWS[:2], "[]\n", *REVIEWS], META, r"/Gift_Cards\.jsonl(\.gz)?, line 3: is not a JSON object"),
        (REVIEWS, [*META, "\n", "{'a': 1}\n"], r"/meta_Gift_Cards\.jsonl(\.gz)?, line 7: is not JSON"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_broken_line_is_named(tmp_path, load, reviews, meta, message, packed):
    write(tmp_path, reviews, meta, packed)
    with pytest.raises(fl.FedlabError, match=message):
        load()


def test_a_file_that_was_cut_off_is_named(tmp_path, load):
    write(tmp_path, packed=True)
    path = tmp_path / f"{NAME}.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(fl.FedlabError, match=r"Gift_Cards\.jsonl\.gz, after line \d+: .* damaged or cut off"):
        load()


def test_pictures_lie_in_a_folder_under_the_items_names(tmp_path, load):
    write(tmp_path)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (5, 4), "red").save(tmp_path / "images" / "B001.png")
    data = load()
    assert data.missing == {"image": 4, "text": 2}
    assert data.covers[int(np.flatnonzero(data.items["id"] == "B001")[0])].shape == (4, 5, 3)


def test_addresses_of_main_pictures(tmp_path):
    write(
        tmp_path, meta=[*META, {"title": "no item"}, {"parent_asin": "B5", "images": ["http://x/5.jpg", {"large": 5}]}]
    )
    titles, pictures = lookup("dataset", "amazon").catalogue(tmp_path / f"meta_{NAME}.jsonl")
    assert pictures == {"B001": "http://x/1.jpg", "B002": "http://x/2.jpg", "B999": "http://x/9.jpg"}
    assert titles["B003"] == "" and titles["B5"] == "" and len(titles) == 6


@pytest.mark.parametrize("part", ["../etc", "All Beauty", "Beauté", "a/b"])
def test_a_category_is_spelled_as_its_publisher_does(tmp_path, part):
    with pytest.raises(fl.FedlabError, match=f"category '{part}': write it as"):
        fl.load(f"amazon:{part}", root=tmp_path)


def test_what_is_not_there_is_explained(tmp_path, load):
    with pytest.raises(fl.FedlabError, match="name a category, as in amazon:All_Beauty or amazon:Gift_Cards"):
        fl.load("amazon", root=tmp_path)
    write(tmp_path)
    (tmp_path / f"meta_{NAME}.jsonl").unlink()
    with pytest.raises(fl.FedlabError, match=r"lacks meta_Gift_Cards\.jsonl.*Get them from amazon-reviews-2023"):
        load()


def test_both_files_of_a_category_have_two_addresses():
    for download, file in zip(lookup("dataset", "amazon").of(NAME).downloads, (NAME, f"meta_{NAME}"), strict=True):
        assert download.file == f"{file}.jsonl.gz" and len(download.urls) == 2
        assert all(url.startswith("https://") and url.endswith(f"/{file}.jsonl.gz") for url in download.urls)

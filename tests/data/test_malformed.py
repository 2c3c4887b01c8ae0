"""Whatever the bytes of a file, there is a dataset, or one error that names the file; and no row goes without being
counted."""

import csv
import gzip
import io
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import fedlab_mm as fl
from fedlab_mm.records import Dataset

SOME = settings(
    max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
USERS, ITEMS = 5, 6


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def valid_files():
    rng = np.random.default_rng(0)
    rows = [(u, i, 10 * u + t) for u in range(USERS) for t, i in enumerate(rng.permutation(ITEMS)[:5])]
    log = "user,item,timestamp\n" + "".join(f"u{u},i{i},{t}\n" for u, i, t in rows)
    items = "item,title,text\n" + "".join(f'i{i},"Title, {i}",{"words " * i}\n' for i in range(ITEMS))
    feature = rng.normal(size=(ITEMS, 3)).astype(np.float32)
    reviews = [{"user_id": f"u{u}", "parent_asin": f"i{i}", "timestamp": t * 1000} for u, i, t in rows]
    meta = [{"parent_asin": f"i{i}", "title": f"Title {i}", "images": [{"large": "x"}]} for i in range(ITEMS)]
    prepared = {"name": "x", "partial": False, "dropped": {}, "about": {"licence": "mine"}}
    lines = ["".join(json.dumps(r) + "\n" for r in records).encode() for records in (reviews, meta)]
    ratings = "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},4.0,{t}\n" for u, i, t in rows)
    movies = "movieId,title,genres\n" + "".join(f"{i},Film {i} (1999),Drama|War\n" for i in range(ITEMS))
    abstracts = {str(i): f"About {i}." for i in range(ITEMS)}
    return {
        "interactions.csv": log.encode(),
        "items.csv": items.encode(),
        "sound.npy": npy(feature),
        "sound.safetensors": save({"sound": feature}),
        "dataset.json": json.dumps(prepared).encode(),
        "All_Beauty.jsonl": lines[0],
        "meta_All_Beauty.jsonl": lines[1],
        "All_Beauty.jsonl.gz": gzip.compress(lines[0], mtime=0),
        "ratings.csv": ratings.encode(),
        "movies.csv": movies.encode(),
        "abstracts.json": json.dumps(abstracts).encode(),
    }


VALID = valid_files()


def load(folder, file, content):
    """The dataset that `file` belongs to, with this content in its place."""
    for old in folder.iterdir():
        if old.is_file():
            old.unlink()
    if "Beauty" in file:
        name, beside = "amazon:All_Beauty", ["All_Beauty.jsonl", "meta_All_Beauty.jsonl"]
        if file.endswith(".gz"):
            (folder / "meta_All_Beauty.jsonl.gz").write_bytes(gzip.compress(VALID["meta_All_Beauty.jsonl"]))
            beside = []
    elif file in ("ratings.csv", "movies.csv", "abstracts.json"):
        name, beside = "ml-latest-small", ["ratings.csv", "movies.csv"]
    else:
        name, beside = "folder", ["interactions.csv", "items.csv"]
    for other in beside:
        (folder / other).write_bytes(VALID[other])
    (folder / file).write_bytes(content)
    options = {"core": 0} if name != "folder" else {}
    return fl.load(name, root=folder, encoder="offline", cache=folder / "cache", progress=False, **options)


def outcome(folder, file, content):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = load(folder, file, content)
        except fl.FedlabError as error:
            said = str(error)
            assert file in said, said
            assert "\n" not in said and len(said) < 700, said
            return None
    assert isinstance(data, Dataset)
    assert data.n_users >= 1 and all(np.isfinite(f.numpy()).all() for f in data.features.values())
    assert set(data.interactions["split"]) <= {"train", "valid", "test"}
    data.describe()
    assert len(data.fingerprint) == 64
    return data


FILES = sorted(VALID)


@pytest.mark.parametrize("file", FILES)
def test_the_files_as_they_should_be(tmp_path, file):
    data = outcome(tmp_path, file, VALID[file])
    assert (data.n_users, data.n_items, len(data.interactions)) == (5, 6, 25)


@pytest.mark.parametrize("file", FILES)
@SOME
@given(content=st.binary(max_size=300))
def test_any_bytes_at_all(tmp_path, file, content):
    outcome(tmp_path, file, content)


@st.composite
def mutations(draw, content):
    """A file with some of its bytes replaced, left out, doubled or cut off."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.integers(0, 12))
        middle = draw(
            st.binary(max_size=6)
            | st.sampled_from([b",", b'"', b"\n", b"\r", b"\0", b"\xff", b"{", b"]", b"nan", b"-1", b"9" * 30, b"::"])
            | st.just(content[start : start + length] * 2)
        )
        content = content[:start] + middle + content[start + length :]
    return content if draw(st.integers(0, 3)) else content[: draw(st.integers(0, len(content)))]


@pytest.mark.parametrize("file", FILES)
@SOME
@given(data=st.data())
def test_files_with_small_damages(tmp_path, file, data):
    outcome(tmp_path, file, data.draw(mutations(VALID[file])))


@SOME
@given(data=st.data())
def test_lines_damaged_before_they_were_packed(tmp_path, data):
    outcome(tmp_path, "All_Beauty.jsonl.gz", gzip.compress(data.draw(mutations(VALID["All_Beauty.jsonl"]))))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=4), inside, max_size=3),
    max_leaves=5,
)
records = st.fixed_dictionaries(
    {},
    optional={"user_id": json_values, "parent_asin": json_values, "timestamp": json_values, "title": json_values,
              "images": json_values | st.lists(st.fixed_dictionaries({"variant": json_values, "large": json_values}))},
)  # fmt: skip


@pytest.mark.slow
@SOME
@given(more=st.lists(records, max_size=4))
@pytest.mark.parametrize("file", ["All_Beauty.jsonl", "meta_All_Beauty.jsonl"])
def test_records_of_any_form(tmp_path, file, more):
    lines = "".join(json.dumps(r) + "\n" for r in more).encode()
    data = outcome(tmp_path, file, VALID[file] + lines)
    if file == "All_Beauty.jsonl":
        short = data.dropped["users with fewer than three interactions"]
        rows = data.dropped["reviews without user, item or time"] + data.dropped["repeated pairs"] + 25
        assert rows + data.dropped.get("interactions of these users", 0) == 25 + len(more)
        assert short <= len(more)


@SOME
@given(about=st.dictionaries(st.sampled_from(["partial", "about", "name", "dropped", "x"]), json_values))
def test_what_a_prepared_folder_says_of_itself(tmp_path, about):
    outcome(tmp_path, "dataset.json", json.dumps(about).encode())


@SOME
@given(
    header=st.dictionaries(
        st.sampled_from(["descr", "fortran_order", "shape", "x"]),
        st.sampled_from(["<f4", "<f8", ">i2", "|O", "|S3", "<U2", "<M8[s]", "(2,)f4", "", 5, None, True, [],
                         [("a", "<f4")], (6, 3), (6,), (), (-1, 3), (3.5, 2), (2**62, 2**62), (6, 3, 1),
                         (10**9, 10**9)]),
    ),
    version=st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"]),
    body=st.binary(max_size=80),
)  # fmt: skip
def test_arrays_with_any_header(tmp_path, header, version, body):
    text = repr(header).encode() + b"\n"
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    outcome(tmp_path, "sound.npy", b"\x93NUMPY" + version + size + text + body)


@SOME
@given(
    header=st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__", ""]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F64", "F16", "BF16", "I8", "U64", "BOOL", "F8_E4M3", "C64", "X"]),
                "shape": st.lists(st.integers(-1, 9), max_size=3) | st.just([ITEMS, 1]),
                "data_offsets": st.just([0, 24]) | st.just([0, 12]) | st.lists(st.integers(-1, 90), max_size=3),
            }
        )
        | json_values,
        max_size=2,
    ),
    body=st.binary(min_size=24, max_size=24) | st.binary(max_size=30),
)
def test_tensors_with_any_header(tmp_path, header, body):
    text = json.dumps(header).encode()
    outcome(tmp_path, "sound.safetensors", len(text).to_bytes(8, "little") + text + body)


names = st.text(st.characters(exclude_categories=["Cs", "Zs", "Zl", "Zp", "Cc"]), min_size=1, max_size=3)
rows = st.lists(
    st.tuples(st.sampled_from("ABCDE") | names, st.sampled_from("uvwxyz") | names, st.integers(-(10**10), 10**10)),
    min_size=1,
    max_size=50,
)


@pytest.mark.slow
@settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=rows,
    split=st.none() | st.lists(st.sampled_from(["train", "valid", "test"]), min_size=50, max_size=50),
    core=st.sampled_from([0, 0, 2, 3]),
    rule=st.sampled_from([None, None, "leave-one-out", "temporal"]),
    order=st.permutations(["user", "item", "timestamp", "note"]),
)
def test_every_row_of_a_file_is_kept_or_counted(tmp_path, rows, split, core, rule, order):
    table = pd.DataFrame(rows, columns=["user", "item", "timestamp"]).assign(note="a, b\nc")
    if split is not None:
        table["split"] = split[: len(rows)]
    table = table[[*order, *table.columns[4:]]]
    table.to_csv(tmp_path / "interactions.csv", index=False, quoting=csv.QUOTE_NONNUMERIC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = fl.load(tmp_path, core=core, split=rule, encoder="offline", cache=tmp_path / "cache", progress=False)
        except fl.FedlabError as error:
            assert "interactions.csv" in str(error)
            return
    counted = sum(n for what, n in data.dropped.items() if what.startswith(("interactions", "repeated pairs")))
    assert len(rows) == len(data.interactions) + counted
    kept = zip(
        data.users["id"][data.interactions["user"]],
        data.items["id"][data.interactions["item"]],
        data.interactions["timestamp"],
        strict=True,
    )
    assert set(kept) <= set(rows)

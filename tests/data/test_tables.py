"""What other people wrote, read as text: a cell keeps its spelling, and what is wrong is said with file and row."""

import gzip
import io
import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

import fedlab_mm as fl
from fedlab_mm.data.tables import (
    as_time,
    named,
    read_feature,
    read_json,
    read_lines,
    read_table,
    shorten,
    whole_numbers,
)

ZIPPED = gzip.compress(b'{"a": 1}\n', mtime=0)  # the same in every process of pytest-xdist


@pytest.fixture
def write(tmp_path):
    def write(content, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_cells_stay_as_they_are_written(write):
    table = read_table(write('user,item,title\n007,NA,"a, ""b""\nc"\n1.0,nan, None \n'))
    assert table["user"].tolist() == ["007", "1.0"]
    assert table["item"].tolist() == ["NA", "nan"]
    assert table["title"].tolist() == ['a, "b"\nc', " None "]


def test_columns_are_found_by_name_in_any_order(write):
    path = write("\ufeff b ,c,a\r\n1,2,3\r\n")
    table = read_table(path, {"x": "a", "y": "b"}, optional={"z": "c", "w": "d"})
    assert table.to_dict("list") == {"x": ["3"], "y": ["1"], "z": ["2"]}


def test_columns_without_a_name_or_with_a_number_are_no_doubles(write):
    assert list(read_table(write(",a,a.1,\n0,1,2,3\n"))) == ["Unnamed: 0", "a", "a.1", "Unnamed: 3"]


def test_rows_are_counted_as_an_editor_shows_them(write):
    assert read_table(write("a,b\n1,2\n3,4\n")).index.tolist() == [2, 3]
    assert read_table(write("1,2\n3,4\n"), names=("a", "b")).index.tolist() == [1, 2]
    assert read_table(write("\n\na,b\n1,2\n\n,\n3,4\n\n")).index.tolist() == [4, 7]
    assert read_table(write("1::2\n\n3::4\n"), names=("a", "b"), sep="::").index.tolist() == [1, 3]


def test_only_comma_separated_files_quote(write):
    assert read_table(write('1|"Great" Day\n2|"\n'), names=("a", "b"), sep="|")["b"].tolist() == ['"Great" Day', '"']
    path = write(b'1::L\xe9on: "\xe9\n')
    assert read_table(path, names=("a", "b"), sep="::", encoding="latin-1")["b"].tolist() == ['Léon: "é']


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, r"t\.csv: cannot be read as CSV \(it is empty\)"),
        ("\n\n", {}, r"t\.csv: cannot be read as CSV \(it is empty\)"),
        ("a,b\n1,2,3\n", {}, r"t\.csv: .*a row has more cells than the header"),
        ("a,b\n1,2\n1,2,3\n", {}, r"t\.csv: .*Expected 2 fields in line 3, saw 3"),
        ("a,b\n1,2\n\n3\n", {}, r"t\.csv, row 4: has fewer cells than the header"),
        ("1::2\n3\n", {"names": ("a", "b"), "sep": "::"}, r"t\.csv, row 2: has fewer cells"),
        ("1|2\n3\n", {"names": ("a", "b"), "sep": "|"}, r"t\.csv, row 2: has fewer cells"),
        ('a,b\n"1,2\n', {}, r"t\.csv: .*EOF inside string"),
        (b"a,b\n1,\xff\n", {}, r"t\.csv: .*can't decode byte 0xff"),
        ("a,b\n".encode("utf-16"), {}, r"t\.csv: .*can't decode"),
        ("a,b\n1,2\n", {"columns": {"x": "c"}}, r"t\.csv: column c is missing; there are a, b"),
        ('"a\nb",' + "c" * 999, {"columns": {"x": "d"}}, r"t\.csv: column d is missing; there are a b, c{39}…$"),
        (",".join(f"a{n}" for n in range(99)), {"columns": {"x": "d"}}, r"t\.csv: .* there are a0, a1, .{360,400}…$"),
        ("a,b,a\n1,2,3\n", {"columns": {"x": "b"}}, r"t\.csv: column a is there twice"),
        ("a, a,b\n1,2,3\n", {"columns": {"x": "a"}}, r"t\.csv: column a is there twice"),
    ],
)
def test_bad_tables_are_named(write, content, options, message):
    with pytest.raises(fl.FedlabError, match=message):
        read_table(write(content), **options)


def test_a_missing_file_and_a_folder(tmp_path):
    for read in (read_table, read_json, lambda path: list(read_lines(path))):
        with pytest.raises(fl.FedlabError, match=r"no\.csv: there is no such file"):
            read(tmp_path / "no.csv")
        with pytest.raises(fl.FedlabError, match="cannot be read"):
            read(tmp_path)


def test_a_cell_may_be_very_long(write):
    title = "long " * 100_000
    table = read_table(write(f"item,title,text\n1,{title},\n2,b,c\n"))
    assert table["title"][2] == title and table["text"][2] == ""


def column(*cells):
    return pd.Series(cells, index=range(2, 2 + len(cells)), dtype=str)


def test_whole_numbers_in_their_many_spellings():
    numbers = whole_numbers(column("5", "-3", " 7 ", "964982703.0", "1.5e9", "+2"), "time", "f")
    assert numbers.tolist() == [5, -3, 7, 964982703, 1_500_000_000, 2]
    assert whole_numbers(column("1685336204570.0", "-1"), "time", "f", per=1000).tolist() == [1685336204, -1]
    assert numbers.index.tolist() == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("beside", ["1", "1.0", "1e3"])
def test_whole_numbers_do_not_go_through_a_float(beside):
    large = ["9007199254740993", " 9223372036854775807", "-9223372036854775808", "9007199254740993.0"]
    numbers = whole_numbers(column(*large, beside), "user_id", "f").tolist()
    assert numbers[:4] == [2**53 + 1, 2**63 - 1, -(2**63), 2**53 + 1]


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "x",
        "2\n5",
        "2.5",
        "nan",
        "inf",
        "0x10",
        "1_000",
        "True",
        "1e400",
        "9223372036854775808",
        "9007199254740993.5",
        "9" * 400,
        "1,5",
    ],
)
def test_what_is_no_whole_number_is_said_with_its_row(cell):
    with pytest.raises(fl.FedlabError, match=r"f\.csv, row 3: time '.*' is not a whole number") as error:
        whole_numbers(column("1", cell), "time", "f.csv")
    assert len(str(error.value)) < 120


def test_names_are_trimmed_and_not_empty():
    assert named(column(" a", "b b "), "user", "f").tolist() == ["a", "b b"]
    with pytest.raises(fl.FedlabError, match=r"f\.csv, row 3: user is empty"):
        named(column("a", " \t"), "user", "f.csv")


def test_lines_of_json_plain_and_packed(write):
    content = b'\xef\xbb\xbf{"a": 1}\n\n{"a": "\\ud83d"}\r\n'
    for path in (write(content, "r.jsonl"), write(gzip.compress(content, mtime=0), "r.jsonl.gz")):
        assert list(read_lines(path)) == [(1, {"a": 1}), (3, {"a": "\ud83d"})]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b'{"a": 1}\n{"a": \n', "r.jsonl", r"r\.jsonl, line 2: is not JSON"),
        (b'{"a": 1}\n[1]\n', "r.jsonl", r"r\.jsonl, line 2: is not a JSON object"),
        (b'{"a": "\xff"}\n', "r.jsonl", r"r\.jsonl, line 1: is not JSON"),
        (b"[" * 100_000, "r.jsonl", r"r\.jsonl, line 1: is not JSON"),
        (b'{"a": 1}\n', "r.jsonl.gz", r"r\.jsonl\.gz, after line 0: the compressed file is damaged or cut off"),
        (ZIPPED[:-9], "r.jsonl.gz", r"the compressed file is damaged or cut off"),
        (ZIPPED + b"more", "r.jsonl.gz", r"after line 1: the compressed file is damaged"),
    ],
)
def test_a_broken_line_is_named(write, content, name, message):
    with pytest.raises(fl.FedlabError, match=message):
        list(read_lines(write(content, name)))


@pytest.mark.parametrize("value", [None, True, "5", float("nan"), float("-inf"), 2**53, -(2**80), [1]])
def test_a_time_that_is_none(value):
    assert as_time(value) is None


def test_times():
    assert as_time(1588687728923, per=1000) == 1588687728
    assert as_time(1.5e12, per=1000) == 1_500_000_000
    assert as_time(-1, per=1000) == -1


def test_features_of_either_kind_become_float32_unless_they_hold_more(write, tmp_path):
    feature = np.arange(6, dtype=np.float64).reshape(3, 2)
    np.save(tmp_path / "a.npy", np.asfortranarray(feature))
    save_file({"whatever": feature.astype(np.float16)}, tmp_path / "b.safetensors")
    for name in ("a.npy", "b.safetensors"):
        read = read_feature(tmp_path / name, 3)
        assert read.dtype == (np.float64 if name == "a.npy" else np.float32)
        assert read.flags.c_contiguous and read.tolist() == feature.tolist()


def test_bfloat16_is_read(tmp_path):
    feature = torch.tensor([[1.5, -2], [0, 3.140625]], dtype=torch.bfloat16)
    save_torch({"text": feature}, tmp_path / "text.safetensors")
    read = read_feature(tmp_path / "text.safetensors", 2)
    assert read.dtype == np.float32 and read.tolist() == [[1.5, -2], [0, 3.140625]]


def npz():
    file = io.BytesIO()
    np.savez(file, a=np.ones((3, 2)))
    return file.getvalue()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: np.save(path, np.ones((2, 2))), r"has shape \[2, 2\], but there are 3 items, a row each"),
        (lambda path: np.save(path, np.ones(3)), r"has shape \[3\]"),
        (lambda path: np.save(path, np.ones((3, 0))), r"has shape \[3, 0\]"),
        (lambda path: np.save(path, np.ones((3, 2), dtype=complex)), "holds complex128, not numbers"),
        (lambda path: np.save(path, np.ones((3, 2), dtype=bool)), "holds bool, not numbers"),
        (lambda path: path.write_bytes(npz()), "holds NpzFile, not numbers"),
        (lambda path: path.write_bytes(b"PK\x03\x04 no archive"), r"not a \.npy file of numbers"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x76\x00{'descr': 5}".ljust(128)), r"not a \.npy file"),
    ],
)
def test_other_arrays_are_refused(tmp_path, make, message):
    path = tmp_path / "f.npy"
    make(path)
    with pytest.raises(fl.FedlabError, match=rf"f\.npy: {message}"):
        read_feature(path, 3)


def test_a_safetensors_file_holds_one_tensor_of_a_kind_that_numpy_knows(tmp_path):
    path = tmp_path / "f.safetensors"
    save_file({"b": np.ones((3, 2)), "a": np.ones((3, 2))}, path)
    with pytest.raises(fl.FedlabError, match=r"f\.safetensors: holds 2 tensors \(a, b\); one is wanted"):
        read_feature(path, 3)
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [3, 1], "data_offsets": [0, 3]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(3))
    with pytest.raises(fl.FedlabError, match=r"f\.safetensors: not a \.safetensors file of numbers"):
        read_feature(path, 3)


def test_reading_leaves_no_warnings_filter_behind(write):
    before = list(warnings.filters)
    read_table(write("a\n1\n"))
    assert list(warnings.filters) == before


def test_a_shortened_text_fits():
    assert shorten("x" * 50) == "x" * 39 + "…" and shorten(7) == "7" and shorten("a\r\n b") == "a b"

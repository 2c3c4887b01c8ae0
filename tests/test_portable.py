"""Nothing that only one system has: text is UTF-8 wherever it is read or written, files take their place everywhere."""

import ast
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fedlab_mm as fl
from fedlab_mm import files
from fedlab_mm.encoding.cache import FeatureCache

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("run", "Popen", "check_output")
FILES = sorted(p for folder in ("fedlab_mm", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py"))


OF_OTHERS = ("Image", "gzip", "tarfile", "webbrowser", "zipped")  # whose `open` reads no text


def calls_without_encoding(code):
    """Lines of calls that read or write text in whatever encoding the system has."""
    lines = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        owner = getattr(getattr(node.func, "value", None), "id", "")
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        told = {keyword.arg for keyword in node.keywords}
        words = [w.value for a in node.args for w in ast.walk(a) if isinstance(getattr(w, "value", None), str)]
        if name in ("read_text", "write_text"):
            by_default = len(node.args) <= (name == "write_text")
        elif name in ("open", "fdopen"):
            by_default = owner not in OF_OTHERS and not any(
                "b" in word and set(word) <= set("rwabx+") for word in words
            )
        else:
            by_default = bool({"text", "universal_newlines"} & told)
        if by_default and "encoding" not in told and name in ("read_text", "write_text", "open", "fdopen", *PROGRAMS):
            lines.append(node.lineno)
    return sorted(lines)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_text_is_utf_8(path):
    """What Windows takes instead depends on its language, and knows no ± or ∇."""
    assert not calls_without_encoding(path.read_text(encoding="utf-8"))


def test_what_counts_as_a_call_without_encoding():
    code = """
p.read_text()
p.write_text(x)
open(p)
open(p, "w")
p.open()
os.fdopen(h, "w")
subprocess.run(c, text=True)
p.read_text(encoding="utf-8")
p.write_text(x, "utf-8")
open(p, "rb")
os.fdopen(h, "wb")
open(p, "ab" if more else "wb")
Image.open(p)
subprocess.run(c, encoding="utf-8", text=True)
"""
    assert calls_without_encoding(code) == [2, 3, 4, 5, 6, 7, 8]


def test_a_file_has_the_same_bytes_on_every_system(tmp_path):
    files.put(tmp_path / "a.csv", "r̂ ± 1\nb\r\n")
    files.put(tmp_path / "a.csv", "r̂ ± 2\nb\r\n")
    assert (tmp_path / "a.csv").read_bytes() == "r̂ ± 2\nb\r\n".encode()
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_file_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    files.put(tmp_path / "a.csv", b"old")
    monkeypatch.setattr(files, "replace", refuse(9))
    with pytest.raises(PermissionError):
        files.put(tmp_path / "a.csv", b"new")
    assert (tmp_path / "a.csv").read_bytes() == b"old" and os.listdir(tmp_path) == ["a.csv"]


def refuse(times, do=os.replace):
    """Renaming as Windows does it while somebody reads: refused so many times."""
    left = [times]

    def renamed(partial, place):
        left[0] -= 1
        if left[0] >= 0:
            raise PermissionError(13, "Permission denied", str(place))
        return do(partial, place)

    return renamed


@pytest.mark.parametrize(("system", "busy", "works"), [("nt", 3, True), ("nt", 9, False), ("posix", 1, False)])
def test_on_windows_a_file_that_is_read_is_replaced_a_moment_later(tmp_path, monkeypatch, system, busy, works):
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    monkeypatch.setattr(files, "os", SimpleNamespace(name=system, replace=refuse(busy)))
    monkeypatch.setattr(files, "PATIENCE", (0, 0, 0, 0))
    if works:
        files.replace(tmp_path / "new", tmp_path / "old")
    else:
        with pytest.raises(PermissionError):
            files.replace(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == (b"new" if works else b"old")


@pytest.mark.parametrize("refused", [1, 2])
def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch, refused):
    """On Windows a folder cannot be renamed while a file in it is open."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").write_bytes(b"old")
    calls = []

    def renamed(partial, place):
        calls.append(place)
        if len(calls) == refused:
            raise PermissionError(13, "Permission denied", str(place))
        os.rename(partial, place)

    monkeypatch.setattr(files, "replace", renamed)
    refusal = pytest.raises(fl.FedlabError, match=r"run cannot be put in its place \(Permission denied\): close what")
    with refusal, files.whole(tmp_path / "run") as partial:
        partial.mkdir()
        (partial / "file").write_bytes(b"new")
    assert (tmp_path / "run" / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_what_is_written_is_as_readable_as_any_new_file(small_toy, recipe, tmp_path, umask, mode):
    """Libraries write for their owner only; another account is then told that there is no such file."""
    before = os.umask(umask)
    try:
        fl.train(recipe.but(rounds=1), small_toy, progress=False).save(tmp_path / "run")
        fl.save_dataset(small_toy, tmp_path / "data")
        files.put(tmp_path / "table.csv", "a\n")
        FeatureCache({"encoder": "x"}, tmp_path / "cache").add("text", {bytes(32): np.zeros(2, dtype=np.float32)})
    finally:
        os.umask(before)
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert len(written) > 10
    assert {p.name: oct(p.stat().st_mode & 0o777) for p in written} == {p.name: oct(mode) for p in written}
    folders = [p for p in tmp_path.rglob("*") if p.is_dir()]
    assert {oct(p.stat().st_mode & 0o777) for p in folders} == {oct(0o777 & ~umask)}


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    """`--csv /dev/null`, as root, would leave a plain file there."""
    files.put(Path(os.devnull), "a\n")
    assert not Path(os.devnull).is_file()
    if hasattr(os, "symlink") and os.name != "nt":
        (tmp_path / "real.csv").write_bytes(b"old")
        (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
        files.put(tmp_path / "link.csv", b"new")
        assert (tmp_path / "real.csv").read_bytes() == b"new" and (tmp_path / "link.csv").is_symlink()


def test_a_loaded_run_can_be_saved_to_its_place_again(world, recipe, tmp_path):
    fl.train(recipe, world, progress=False).save(tmp_path / "run")
    loaded = fl.load_run(tmp_path / "run", world)
    maps = Path("/proc/self/maps")  # where there is such a thing; on Windows `save` itself would fail
    if maps.is_file():
        assert str(tmp_path) not in maps.read_text(encoding="utf-8")
    fl.train(recipe.but(rounds=5), world, progress=False, resume=loaded).save(tmp_path / "run")
    assert fl.load_run(tmp_path / "run", world).rounds_done == 5

"""Kept vectors: never half, never lost to another process, and never code."""

import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import fedlab_mm as fl
from fedlab_mm.encoding import FeatureCache, cache, cache_folder

IDENTITY = {"encoder": "example", "width": 4}


def of(*numbers: int, width: int = 4) -> dict[bytes, np.ndarray]:
    return {n.to_bytes(32, "big"): np.full(width, n, dtype=np.float32) for n in numbers}


def same(a: dict[bytes, np.ndarray], b: dict[bytes, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[h], b[h]) for h in a)


@pytest.fixture
def kept(tmp_path) -> FeatureCache:
    return FeatureCache(IDENTITY, tmp_path)


def test_what_is_added_is_read(kept, tmp_path):
    assert kept.read("image") == {}
    kept.add("image", of(3, 1))
    kept.add("image", of(2))
    kept.add("text", of(9))
    for again in (kept, FeatureCache(IDENTITY, tmp_path)):
        assert same(again.read("image"), of(1, 2, 3)) and same(again.read("text"), of(9))


def test_a_later_vector_replaces_the_earlier(kept):
    kept.add("image", of(1))
    kept.add("image", {(1).to_bytes(32, "big"): np.zeros(4)})
    assert not kept.read("image")[(1).to_bytes(32, "big")].any()


def test_vectors_of_another_width_are_refused(kept):
    kept.add("image", of(1))
    with pytest.raises(fl.FedlabError, match=r"holds vectors of another width \(4 and 5\): an encoder's identity must"):
        kept.add("image", of(2, width=5))
    assert same(kept.read("image"), of(1))


def test_adding_nothing_writes_nothing(kept):
    kept.add("image", {})
    assert not kept.folder.exists()


def test_the_file_is_sorted_float32_and_its_manifest_says_what_made_it(kept):
    kept.add("image", {h: v.astype(np.float64) for h, v in of(3, 1, 2).items()})
    table = load_file(kept.folder / "image.safetensors")
    assert {n: (t.dtype.name, t.shape) for n, t in table.items()} == {
        "hashes": ("uint8", (3, 32)),
        "vectors": ("float32", (3, 4)),
    }
    assert table["hashes"][:, -1].tolist() == [1, 2, 3] == table["vectors"][:, 0].tolist()
    about = json.loads((kept.folder / "image.json").read_text(encoding="utf-8"))
    assert about == {"encoder": "example", "width": 4, "kind": "image", "count": 3}
    kept.add("image", of(4))
    assert json.loads((kept.folder / "image.json").read_text(encoding="utf-8"))["count"] == 4


def test_the_same_contents_are_the_same_bytes(tmp_path):
    one, two = FeatureCache(IDENTITY, tmp_path / "one"), FeatureCache(IDENTITY, tmp_path / "two")
    one.add("image", of(1, 2, 3))
    for n in (3, 1, 2):
        two.add("image", of(n))
    assert (one.folder / "image.safetensors").read_bytes() == (two.folder / "image.safetensors").read_bytes()


def test_an_identity_has_one_folder(tmp_path):
    folder = FeatureCache({"encoder": "x", "a": 1, "b": None}, tmp_path).folder
    assert folder == FeatureCache({"b": None, "a": 1, "encoder": "x"}, tmp_path).folder
    assert folder.parent == tmp_path / "features" and folder.name.startswith("x-")
    others = [{"encoder": "x", "a": 1}, {"encoder": "x", "a": 2, "b": None}, {"encoder": "y", "a": 1, "b": None}]
    assert len({FeatureCache(other, tmp_path).folder for other in others} | {folder}) == 4


def test_where_caches_live(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLAB_MM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert FeatureCache(IDENTITY).folder.is_relative_to(tmp_path)
    monkeypatch.setenv("FEDLAB_MM_CACHE", "~/kept")
    assert cache_folder() == Path.home() / "kept"
    for nothing in (lambda: monkeypatch.setenv("FEDLAB_MM_CACHE", ""), lambda: monkeypatch.delenv("FEDLAB_MM_CACHE")):
        nothing()
        assert "fedlab_mm" in cache_folder().parts and cache_folder().is_absolute()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_a_failure_before_the_rename_leaves_the_last_whole_file(kept, monkeypatch, kind):
    kept.add("image", of(1))
    before = sorted(p.name for p in kept.folder.iterdir())

    def failing(*_):
        raise kind

    with monkeypatch.context() as patched:
        patched.setattr(cache.os, "replace", failing)
        with pytest.raises(kind):
            kept.add("image", of(2))
    assert same(kept.read("image"), of(1))
    assert sorted(p.name for p in kept.folder.iterdir()) == before  # nothing half is left behind
    kept.add("image", of(3))  # nor is the lock
    assert same(kept.read("image"), of(1, 3))


# `fedlab_mm` imports torch, which takes seconds; a process that only keeps vectors can do without.
ALONE = textwrap.dedent(
    f"""
    import os, sys, time, types
    import numpy as np
    for name, folder in (("fedlab_mm", {str(Path(fl.__file__).parent)!r}),
                         ("fedlab_mm.encoding", {str(Path(cache.__file__).parent)!r})):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [folder]
    from fedlab_mm.encoding import cache
    kept = cache.FeatureCache({IDENTITY!r}, sys.argv[1])
    def of(n):
        return {{n.to_bytes(32, "big"): np.full(4, n, dtype=np.float32)}}
    """
)


def started(code: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", ALONE + textwrap.dedent(code), *map(str, arguments)])


def test_a_killed_process_leaves_the_last_whole_file(kept, tmp_path):
    kept.add("image", of(1))
    killed = started(
        """
        cache.os.replace = lambda *_: os._exit(9)
        kept.add("image", of(2))
        """,
        tmp_path,
    )
    assert killed.wait(60) == 9
    assert same(kept.read("image"), of(1))
    kept.add("image", of(3))  # its lock died with it
    assert same(kept.read("image"), of(1, 3))


def test_processes_that_add_at_once_lose_nothing(kept, tmp_path):
    both = [
        started(
            """
            mine = int(sys.argv[2])
            open(f"{sys.argv[1]}/ready-{mine}", "wb").close()
            while not os.path.exists(f"{sys.argv[1]}/ready-{1 - mine}"):
                time.sleep(0.001)
            for n in range(40):
                kept.add("image", of(mine * 100 + n))
            """,
            tmp_path,
            mine,
        )
        for mine in (0, 1)
    ]
    assert [process.wait(60) for process in both] == [0, 0]
    assert same(kept.read("image"), of(*range(40), *range(100, 140)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[FeatureCache, Path, bytes]:
    kept = FeatureCache(IDENTITY, tmp_path_factory.mktemp("cache"))
    kept.add("image", of(1, 2, 3))
    path = kept.folder / "image.safetensors"
    return kept, path, path.read_bytes()


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"not a file of vectors", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"{}"],
    ids=["empty", "zero", "text", "huge header", "no tensors"],
)
def test_a_damaged_file_counts_as_empty_and_is_made_anew(kept, content):
    kept.add("image", of(1))
    (kept.folder / "image.safetensors").write_bytes(content)
    assert kept.read("image") == {}
    kept.add("image", of(2))
    assert same(kept.read("image"), of(2))


def test_a_cut_file_counts_as_empty(whole):
    kept, path, content = whole
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert kept.read("image") == {}


HASHES = np.zeros((2, 32), dtype=np.uint8)
VECTORS = np.ones((2, 4), dtype=np.float32)


@pytest.mark.parametrize(
    "table",
    [
        {"hashes": HASHES},
        {"vectors": VECTORS},
        {"hashes": HASHES[:1], "vectors": VECTORS},
        {"hashes": HASHES[:, :31].copy(), "vectors": VECTORS},
        {"hashes": HASHES.astype(np.int64), "vectors": VECTORS},
        {"hashes": HASHES, "vectors": VECTORS[:, 0].copy()},
        {"hashes": HASHES, "vectors": np.array(1.0, dtype=np.float32)},
        {"hashes": HASHES, "vectors": VECTORS * np.nan},
        {"hashes": HASHES, "vectors": VECTORS * np.inf},
        {"hashes": HASHES, "vectors": VECTORS.astype(np.int64)},
    ],
)
def test_a_file_of_something_else_counts_as_empty(kept, table):
    kept.add("image", of(7))
    save_file(table, kept.folder / "image.safetensors")
    assert kept.read("image") == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_numbers_that_numpy_does_not_know_count_as_empty(kept, dtype):
    kept.folder.mkdir(parents=True)
    table = {"hashes": torch.zeros(2, 32, dtype=torch.uint8), "vectors": torch.ones(2, 4, dtype=dtype)}
    safetensors.torch.save_file(table, kept.folder / "image.safetensors")
    assert kept.read("image") == {}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=4))
def test_reading_a_damaged_file_never_fails(whole, edits):
    kept, path, content = whole
    damaged = bytearray(content)
    for where, value in edits:
        damaged[where % len(damaged)] = value
    path.write_bytes(damaged)
    for digest, vector in kept.read("image").items():
        assert len(digest) == 32 and vector.dtype == np.float32 and np.isfinite(vector).all()


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_pickle_is_not_opened(kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept.folder.mkdir(parents=True)
    (kept.folder / "image.safetensors").write_bytes(pickle.dumps(Code()))
    np.save(kept.folder / "text.safetensors", np.array([Code()], dtype=object), allow_pickle=True)
    os.rename(kept.folder / "text.safetensors.npy", kept.folder / "text.safetensors")
    assert kept.read("image") == kept.read("text") == {}
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Code()))
    assert (tmp_path / "ran").exists()  # it would have


def test_no_pickle_is_written(kept):
    kept.add("image", of(1))
    kept.add("text", of(1))
    endings = {path.suffix for path in kept.folder.iterdir()}
    assert endings <= {".safetensors", ".json", ".lock"}


def test_a_file_in_the_folder_s_place_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    kept = FeatureCache(IDENTITY, tmp_path / "file")
    assert kept.read("image") == {}
    with pytest.raises(fl.FedlabError, match=r"cannot be kept there \(.+\); set FEDLAB_MM_CACHE to a folder"):
        kept.add("image", of(1))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_one_clear_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(fl.FedlabError, match=r"cannot be kept there \(Permission denied\); set FEDLAB_MM_CACHE"):
        FeatureCache(IDENTITY, tmp_path).add("image", of(1))


@pytest.mark.parametrize("place", ["mkdir", "touch", "lock"])
def test_whatever_cannot_be_written_is_one_clear_error(kept, monkeypatch, place):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    where, name = {
        "mkdir": (Path, "mkdir"),
        "touch": (Path, "touch"),
        "lock": (cache.FileLock, "acquire"),
    }[place]
    monkeypatch.setattr(where, name, refused)
    with pytest.raises(fl.FedlabError, match=r"example-\w+: features cannot be kept there \(Permission denied\)"):
        kept.add("image", of(1))


def test_a_full_disk_is_one_clear_error_and_leaves_the_last_whole_file(kept):
    resource = pytest.importorskip("resource")
    kept.add("image", of(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(fl.FedlabError, match=r"features cannot be kept there \(.*File too large"):
            kept.add("image", of(*range(200)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(kept.read("image"), of(1))
    assert not [path for path in kept.folder.iterdir() if path.name.startswith(".")]

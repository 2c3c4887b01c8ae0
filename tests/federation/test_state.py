"""Where private state lives: touched rows, rank-one changes, room that is foreseen, devices."""

import errno
import gc
import io
import mmap
import os
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fedlab_mm as fl
from fedlab_mm.data.negatives import sample
from fedlab_mm.federation import state
from fedlab_mm.federation.backends.gram import Gram
from fedlab_mm.federation.backends.linear import LinearScores
from fedlab_mm.federation.state import PersonalRows, RankOne, Storage, read_tensors
from fedlab_mm.registry import names
from tests.conftest import engine_of, private_of, train_clients

CPU = torch.device("cpu")


def storage(budget=10**9):
    return Storage(CPU, budget)


def test_personal_rows_are_a_dense_table():
    generator = torch.Generator().manual_seed(0)
    initial = torch.randn(6, 3, generator=generator)
    rows, dense = PersonalRows(initial, 5, storage()), initial.expand(5, 6, 3).clone()
    for _ in range(4):
        pairs = torch.randperm(30, generator=generator)[:11]
        users, items, values = pairs // 6, pairs % 6, torch.randn(11, 3, generator=generator)
        rows.write(users, items, values)
        dense[users, items] = values
        assert torch.equal(rows.dense(slice(0, 5)), dense)
        assert torch.equal(rows.dense(slice(1, 3), n_items=8)[:, :6], dense[1:3])
        assert not rows.dense(slice(1, 3), n_items=8)[:, 6:].any()
        assert torch.equal(rows.read(users[:, None], items[:, None])[:, 0], values)
    again = PersonalRows(initial, 5, storage())
    again.load_state(rows.state())
    assert torch.equal(again.dense(slice(0, 5)), dense)
    kept = rows.state()
    assert len(kept["pairs"]) == rows.n_rows < 30 and (kept["pairs"].diff() > 0).all()


def test_a_rank_one_change():
    weight, moved, read = torch.randn(2, 3, 4), torch.randn(2, 3), torch.randn(2, 4)
    expected = 0.5 * weight - torch.einsum("ch,ck->chk", moved, read)
    torch.testing.assert_close(RankOne(0.5, moved, read).apply(weight), expected)
    assert torch.isfinite(RankOne(1.0, moved, read).bound_C()).all()
    moved[1] = torch.inf
    assert torch.isfinite(RankOne(1.0, moved, read).bound_C()).tolist() == [True, False]


def test_beyond_its_budget_storage_maps_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    small = storage(budget=1000)
    inside, beyond = small.rows(torch.ones(10), 20), small.rows(torch.ones(10), 50)
    assert small.taken == 800
    beyond[3] = 2.0
    assert beyond.shape == (50, 10) and beyond.sum() == 510 and inside.sum() == 200
    if os.name == "posix":  # on Windows the name goes with the mapping
        assert not list(tmp_path.iterdir())


def refuse(error):
    def refused(*_, **__):
        raise OSError(error, os.strerror(error))

    return refused


@pytest.fixture
def lengths(monkeypatch):
    """How long each file is when it is mapped; blocks are small, so that there are several."""
    seen = []

    def watched(number, length):
        seen.append(os.fstat(number).st_size)
        return mmap.mmap(number, length)

    monkeypatch.setattr(state, "mmap", SimpleNamespace(mmap=watched))
    monkeypatch.setattr(state, "BLOCK", 64)
    return seen


@pytest.mark.parametrize("here", ["is not", "does not grow", 95, 102, 45, errno.EINVAL, errno.EPERM])
def test_room_is_taken_where_posix_fallocate_is_not_or_cannot(monkeypatch, lengths, here):
    """macOS and Windows have none, and not every file system has it: "not supported" is 95 on Linux, and on macOS 45 or
    102. Where it takes the place and leaves the size, the file grows all the same."""
    if here == "does not grow":
        monkeypatch.setattr(os, "posix_fallocate", lambda *_: None, raising=False)
    elif here != "is not":
        monkeypatch.setattr(os, "posix_fallocate", refuse(here), raising=False)
    else:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    for n in (3, 16, 50):  # less than a block, one, and more
        tensor = storage(budget=0).rows(torch.arange(n), 1)
        assert tensor.tolist() == [list(range(n))] and lengths[-1] == 8 * n


def test_mapped_files_are_never_removed_by_name(monkeypatch):
    """Windows refuses that for a file that is open, and opening one a second time that goes when it is closed."""
    for name in ("unlink", "remove"):
        monkeypatch.setattr(os, name, refuse(errno.EACCES))
    tensor = storage(budget=0).rows(torch.ones(5), 3)
    assert tensor.sum() == 15


def test_a_mapped_file_goes_with_the_last_that_reads_it(monkeypatch):
    mapped = []

    class Mapped(mmap.mmap):
        def __init__(self, *_):
            mapped.append(weakref.ref(self))

    monkeypatch.setattr(state, "mmap", SimpleNamespace(mmap=Mapped))
    tensor = storage(budget=0).rows(torch.ones(5), 3)
    row = tensor[2].unsqueeze(0)
    del tensor
    gc.collect()
    assert mapped[0]() is not None and row.sum() == 5
    del row
    gc.collect()
    assert mapped[0]() is None


@pytest.mark.parametrize("at", ["once", "the second block"])
def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch, at):
    class Full(io.FileIO):
        def write(self, block):
            return super().write(block) if not self.tell() else refuse(errno.ENOSPC)()

    monkeypatch.setattr(state, "BLOCK", 64)
    monkeypatch.setattr(state.tempfile, "TemporaryFile", lambda prefix: Full(tmp_path / "file", "w+"))
    if at == "once":
        monkeypatch.setattr(os, "posix_fallocate", refuse(errno.ENOSPC), raising=False)
    else:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with pytest.raises(fl.FedlabError, match=r"has no room for 0\.0 GB of state \(No space left on device\)"):
        storage(budget=0).empty((50,), torch.int64)


@pytest.mark.parametrize("large", [1e9, 0])
def test_tensors_that_were_read_do_not_hang_on_their_file(tmp_path, monkeypatch, large):
    """Windows would not let go of it."""
    monkeypatch.setattr(state, "LARGE", large)
    path = tmp_path / "a.safetensors"
    written = {"a": torch.randn(3, 5), "round": torch.tensor(7), "none": torch.zeros(0, 4), "b": torch.arange(9).int()}
    save_file(written, path)
    read = read_tensors(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    path.unlink()
    assert read.keys() == written.keys()
    for name, value in written.items():
        assert torch.equal(read[name], value) and read[name].dtype == value.dtype


@pytest.mark.parametrize("backbone", names("backbone"))
@pytest.mark.parametrize("method", names("method"))
def test_mapped_state_changes_nothing(world, recipe, monkeypatch, backbone, method):
    r = recipe.but(backbone=backbone, method=method)
    run = fl.train(r, world, progress=False)
    monkeypatch.setenv(state.VARIABLE, "0")
    with pytest.warns(UserWarning, match="more than the 0.0 GB"):
        mapped = fl.train(r, world, progress=False)
    for name, value in run.last_state.items():
        assert torch.equal(mapped.last_state[name], value), name
    assert mapped.test == run.test


def test_too_many_clients_are_foreseen(world, recipe, monkeypatch):
    monkeypatch.setenv(state.VARIABLE, "0.000001")
    monkeypatch.setattr("psutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(fl.FedlabError, match="for the private parameters of 9 clients") as caught:
        next(fl.rounds(recipe, world))
    assert "a smaller dim (now 4)" in str(caught.value)
    for backbone, need in (
        ("fedrap", "the rows that they will have touched"),
        ("pfedrec", "the scores by the items that they keep"),
    ):
        with pytest.raises(fl.FedlabError, match=need):
            next(fl.rounds(recipe.but(backbone=backbone), world))


@pytest.mark.parametrize("given", ["much", "inf", "-inf", "nan", "-1", "1e300", "4 GB"])
def test_a_budget_is_a_number_of_gigabytes(world, recipe, monkeypatch, given):
    monkeypatch.setenv(state.VARIABLE, given)
    with pytest.raises(
        fl.FedlabError, match=rf"^FEDLAB_MM_MEMORY_GB={given}: must be a number of gigabytes, 0 or more"
    ):
        next(fl.rounds(recipe, world))


def test_a_budget_that_is_empty_is_none(monkeypatch):
    monkeypatch.setenv(state.VARIABLE, "0.5")
    assert state.free_memory(CPU) == 500_000_000
    monkeypatch.setenv(state.VARIABLE, " ")
    assert state.free_memory(CPU) != 500_000_000


def test_a_round_that_finds_no_room_moves_nothing(world, recipe, monkeypatch):
    engine = engine_of("stacked", recipe.but(backbone="fedrap", clients=0.3), world)
    engine.step()
    before = engine.state()

    def full(self, shape, dtype):
        raise fl.FedlabError("no room")

    monkeypatch.setattr(Storage, "empty", full)
    with pytest.raises(fl.FedlabError, match="no room"):
        for _ in range(9):
            before = engine.state()
            engine.step()
    for name, value in engine.state().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there(world, recipe, device):
    with pytest.raises(fl.FedlabError, match=f"device '{device}' is not there .*there are: cpu"):
        fl.train(recipe.but(device=device), world, progress=False)


@pytest.mark.parametrize("backbone", ["fcf", "fedncf"])
@pytest.mark.parametrize("method", names("method"))
def test_a_round_leaves_nothing_on_the_cpu(world, recipe, backbone, method):
    """Torch's meta device has no data, but refuses to mix with another: a stand-in for a GPU that is not here."""
    r = recipe.but(backbone=backbone, method=method, device="meta", chunk=4)
    engine = engine_of("stacked", r, world)
    samples = sample(world.train, world.n_items, np.arange(world.n_users), 4, 0, 1)
    work = train_clients(engine, samples, np.full(world.n_users, 1 / world.n_users), engine._sent())
    assert {v.device.type for v in work.mixed.values()} == {"meta"}
    sent = engine.backend.prepared(engine._sent())
    assert engine.backend.score_users(sent, slice(0, world.n_users)).shape == (world.n_users, world.n_items)
    if engine.method.routes:
        assert engine.backend.weights_of_users(sent, slice(0, world.n_users)).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("name", names("engine"))
@pytest.mark.parametrize("backbone", names("backbone"))
@pytest.mark.parametrize("method", names("method"))
def test_cuda_is_cpu(world, recipe, name, backbone, method):
    engines = [
        engine_of(name, recipe.but(backbone=backbone, method=method, engine=name, device=d), world)
        for d in ("cpu", "cuda")
    ]
    for _ in range(3):
        for engine in engines:
            engine.step()
    here, there = (engine.state() for engine in engines)
    for key, value in here.items():
        torch.testing.assert_close(there[key], value, rtol=1e-4, atol=1e-4, msg=key)
    torch.testing.assert_close(engines[1].scores(), engines[0].scores(), rtol=1e-4, atol=1e-4)


def test_a_round_with_clients_on_both_sides_of_the_crossover(world, recipe, monkeypatch):
    """FedMR by Gram matrices for those with few items, by copies for the others."""
    r = recipe.but(method="fedmr", precision="float64")
    one = engine_of("stacked", r, world)
    monkeypatch.setattr(Gram, "most_rows", 9)
    both = engine_of("stacked", r, world)
    for _ in range(2):
        one.step()
        both.step()
    for name, value in private_of(one).items():
        torch.testing.assert_close(private_of(both)[name], value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(both.scores(), one.scores(), rtol=1e-10, atol=1e-10)


def test_chunks_by_the_cache_change_nothing(world, recipe, monkeypatch):
    scores = []
    for cache in (1.0, 3e3, 1e9):
        monkeypatch.setattr(LinearScores, "cache", cache)
        engine = engine_of("stacked", recipe.but(precision="float64"), world)
        engine.step()
        scores.append(engine.scores())
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(scores[2], scores[0], rtol=1e-11, atol=1e-11)

"""A modality may have any name that a file can have: also one that torch would refuse as a module's."""

from dataclasses import replace

import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.fusion import Bank, part_name
from fedlab_mm.registry import names
from tests.conftest import but, engine_of

ODD = ["clip.b32", "forward", "ViT-B-32.openai", "training", "keys", "a%2Eb", "feature a"]


def renamed(data: fl.Dataset, image: str, text: str) -> fl.Dataset:
    return replace(data, features=dict(zip((image, text), data.features.values(), strict=True)))


@pytest.fixture(scope="module")
def odd(small_toy):
    return renamed(small_toy, "clip.b32", "forward")


def test_ordinary_names_stay_and_no_two_become_one():
    for name in ("image", "text", "audio", "vit-b_32", "Ton", "id", "ein Ton", "standards"):
        assert part_name(name) == name
    every = [*ODD, "clip%2Eb32", "a.b", "a%b", "image"]
    assert len({part_name(name) for name in every}) == len(every)
    bank = Bank(["sum", "solo"], {name: 3 for name in every}, n_items=5, dim=4)
    assert bank.views == ["sum", *(f"solo:{name}" for name in every)]
    inputs = {name: torch.randn(5, 3) for name in every}
    views = bank(inputs)
    for e, name in enumerate(every, start=1):
        torch.testing.assert_close(views[e], bank.maps[part_name(name)](inputs[name]))


@pytest.mark.parametrize("name", ODD)
def test_a_folder_with_such_a_file_trains(name, small_toy, recipe, tmp_path):
    folder = fl.save_dataset(renamed(small_toy, name, "text"), tmp_path / "mine")
    data = fl.load(folder)
    assert sorted(data.features) == sorted([name, "text"]) and f"{name} feature width" in data.describe().index
    run = fl.train(recipe.but(dataset="mine", rounds=1, operators=("sum", f"solo:{name}")), data, progress=False)
    assert list(run.router_weights()) == ["sum", f"solo:{name}"]


@pytest.mark.parametrize("method", names("method"))
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_method_trains_with_them_as_with_others(method, optimizer, small_toy, odd, recipe, tmp_path):
    """In both engines, saved and loaded, left out and alone; a name decides nothing but what is shown."""
    r = but(recipe, dataset="toy", method=method, operators=("mlp", "solo"), rounds=2, optimizer=optimizer, lr=0.01)
    r = r.but(shared_lr=0.01)
    plain, run = (fl.train(r, data, progress=False) for data in (small_toy, odd))
    assert run.test == plain.test
    for (key, value), (other, expected) in zip(run.last_state.items(), plain.last_state.items(), strict=True):
        assert key == other or part_name("forward") in key or part_name("clip.b32") in key
        assert torch.equal(value, expected), key
    loop = fl.train(r.but(engine="loop", rounds=1), odd, progress=False)
    stacked = fl.train(r.but(rounds=1), odd, progress=False)
    torch.testing.assert_close(loop.scores_UI, stacked.scores_UI, rtol=1e-3, atol=1e-3)
    run.save(tmp_path / "run")
    again = fl.load_run(tmp_path / "run", odd)
    assert torch.equal(again.scores_UI, run.scores_UI)
    if method in ("fedmr", "fedvlr"):
        assert list(run.router_weights()) == ["mlp", "solo:id", "solo:clip.b32", "solo:forward"]
    if method in ("fedmr", "fedvlr", "mlp"):
        assert list(run.model.signals()) == ["id", "clip.b32", "forward"]
    if run.model.method.fuses:
        new = {m: f[:2] for m, f in odd.features.items()}
        assert len(run.recommend(user=0, k=1, new_items=new)) == 1
    if method != "none":
        alone = fl.train(r.but(without=("forward",), rounds=1), odd, progress=False)
        other = fl.train(r.but(without=("text",), rounds=1), small_toy, progress=False)
        assert alone.test == other.test


def test_saved_runs_of_ordinary_names_keep_their_parameters_names(small_toy, recipe):
    engine = engine_of("stacked", recipe.but(dataset="toy"), small_toy)
    maps = {n for n in engine.state() if ".maps." in n}
    assert maps == {f"shared.fusion.bank.maps.{s}.{p}" for s in ("id", "image", "text") for p in ("weight", "bias")}


def test_numbers_are_counted_by_such_names(recipe):
    plain = fl.count_parameters(recipe.but(method="fedmr"), 5, 7, {"image": 3, "text": 4})
    assert fl.count_parameters(recipe.but(method="fedmr"), 5, 7, {"clip.b32": 3, "forward": 4}) == plain

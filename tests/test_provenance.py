"""What is kept is read back only where all that decided it is as it was: data, recipe, code."""

import dataclasses
import json
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm import registry
from fedlab_mm.experiments import cache
from fedlab_mm.provenance import code_behind, what_runs

OPERATOR = '''
import torch
from torch import nn

from fedlab_mm.registry import register

SHIFT = 0.0


def shifted(x):
    return x + SHIFT


@register("operator", "shifted mean")
class ShiftedMean(nn.Module):
    """A view that nobody else has."""

    def __init__(self, n_signals, dim):
        super().__init__()

    def forward(self, signals_MID):
        return shifted(torch.stack(list(signals_MID)).mean(0))  # a comment
'''
EDITS = {
    "a method": ("mean(0)", "sum(0)"),
    "a helper": ("x + SHIFT", "x - 3 * SHIFT - 0.5"),
    "a constant": ("SHIFT = 0.0", "SHIFT = 0.5"),
}
IDLE = {"a comment": ("# a comment", "# another"), "a docstring": ("nobody else has", "is new"), "nothing": ("", "")}


@pytest.fixture
def families(monkeypatch):
    """What a test registers is forgotten afterwards."""
    fl.available()
    kept = {family: dict(members) for family, members in registry._FAMILIES.items()}
    monkeypatch.setattr(registry, "_FAMILIES", kept)


def cell(code: str) -> dict:
    """A notebook's cell, run; each time with the notebook's one namespace."""
    space = {"__name__": "a notebook"}
    exec(compile(code, "<cell>", "exec"), space)
    return space


@pytest.fixture
def fused(families, recipe):
    """A recipe of an operator from a cell, which has run."""
    cell(OPERATOR)
    return recipe.but(method="fedvlr", operators=("shifted mean", "sum"), rounds=2)


@pytest.mark.parametrize("edit", [*EDITS.values(), *IDLE.values()], ids=[*EDITS, *IDLE])
def test_what_runs_is_known_by_what_decides(families, edit):
    before = what_runs(cell(OPERATOR)["ShiftedMean"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after = what_runs(cell(OPERATOR.replace(*edit))["ShiftedMean"])
    assert (before == after) == (edit in IDLE.values())


def test_a_helper_file_of_the_user_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_helpers.py").write_text("def f(x):\n    return x\n", encoding="utf-8")
    code = "import my_helpers\n\n\ndef use(x):\n    return my_helpers.f(x)\n"
    before = what_runs(cell(code)["use"])
    assert before == what_runs(cell(code)["use"])
    (tmp_path / "my_helpers.py").write_text("def f(x):\n    return 2 * x\n", encoding="utf-8")
    assert before != what_runs(cell(code)["use"])
    sys.modules.pop("my_helpers", None)


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        (lambda x, a=1: x, lambda x, a=1: x, True),
        (lambda x, a=1: x, lambda x, a=2: x, False),
        (lambda x: x.sum(), lambda x: x.mean(), False),
        (lambda x: [1, (2, {3})], lambda x: [1, (2, {4})], False),
        (lambda x: lambda: x + 1, lambda x: lambda: x + 2, False),
    ],
)
def test_functions_are_told_apart(first, second, alike):
    assert (what_runs(first) == what_runs(second)) == alike


def test_arrays_and_objects_that_a_member_names_count():
    def of(value):
        return what_runs(lambda x: (x, value))

    for a, b in ((np.arange(3), np.arange(3) + 1), (torch.zeros(2), torch.ones(2)), ({"a": [1]}, {"a": [2]})):
        assert of(a) == of(a) != of(b)
    loop: list = []
    loop.append(loop)
    assert of(loop)
    assert of(torch.float32) != of(torch.float64)


def test_other_members_do_not_count_where_none_is_named(recipe, fused):
    assert recipe.code == code_behind() != fused.code


def test_the_same_cell_may_run_twice_and_a_changed_one_says_so(families):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cell(OPERATOR)
        cell(OPERATOR)
    with pytest.warns(UserWarning, match="operator 'shifted mean' has other code now"):
        cell(OPERATOR.replace("mean(0)", "sum(0)"))
    with pytest.raises(fl.FedlabError, match="operator 'shifted mean' is registered twice"):
        cell(OPERATOR.replace("class ShiftedMean", "class Another"))


@pytest.mark.parametrize("family", ["opperator", "backbones", ""])
def test_a_misspelt_family_is_refused(families, family):
    with pytest.raises(fl.FedlabError, match=f"there is no family '{family}'"):
        registry.register(family, "mine")(dict)


def edit():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cell(OPERATOR.replace("mean(0)", "sum(0)"))


def test_a_cache_is_not_read_by_an_edited_operator(world, fused, tmp_path):
    old = fl.train(fused, world, progress=False, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    edit()
    new = fl.train(fused, world, progress=False, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    fresh = fl.train(fused, world, progress=False)
    assert torch.equal(new.scores_UI, fresh.scores_UI) and not torch.equal(old.scores_UI, fresh.scores_UI)
    table = fl.compare([fused], [0], world, [], progress=False, cache=tmp_path)
    assert table["hr@5", "mean"].iloc[0] == fresh.test["hr@5"]


def test_a_finished_run_is_read_from_a_cache_that_cannot_be_written(world, recipe, tmp_path, monkeypatch):
    first = fl.train(recipe, world, progress=False, cache=tmp_path)

    def refused(folder):
        raise fl.FedlabError(f"{folder} cannot be written")

    monkeypatch.setattr(cache, "free_folder", refused)
    assert torch.equal(fl.train(recipe, world, progress=False, cache=tmp_path).scores_UI, first.scores_UI)
    with pytest.raises(fl.FedlabError, match="cannot be written"):
        fl.train(recipe.but(seed=1), world, progress=False, cache=tmp_path)


def test_a_search_tries_anew_what_other_code_has_tried(world, fused, tmp_path):
    grid, folder = {"lr": [0.1, 0.5]}, tmp_path / "s"
    fl.tune(fused, grid, world, folder, progress=False)
    edit()
    with pytest.warns(UserWarning, match="2 settings were tried by other code, and are tried anew"):
        best = fl.tune(fused, grid, world, folder, progress=False)
    fresh = fl.tune(fused, grid, world, tmp_path / "fresh", progress=False)
    tables = [pd.read_csv(tmp_path / place / "tuning.csv").drop(columns="seconds") for place in ("s", "fresh")]
    assert best == fresh
    pd.testing.assert_frame_equal(*tables)
    kept = fl.load_run(folder / "best", world)
    assert kept.best_valid == pytest.approx(tables[0]["valid"].max())


def test_a_run_of_other_code_says_so(world, fused, tmp_path):
    folder = fl.train(fused, world, progress=False).save(tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fl.load_run(folder, world)
    edit()
    with pytest.warns(UserWarning, match=r"run was trained by other code \(fedlab_mm .*\): its figures are of then"):
        fl.load_run(folder, world)


def test_another_version_of_the_package_has_other_keys(world, recipe, monkeypatch):
    before = cache._key(recipe, world)
    monkeypatch.setattr(cache, "__version__", "9.9.9")
    assert cache._key(recipe, world) != before


# Data


def changed(data: fl.Dataset, **columns) -> fl.Dataset:
    return dataclasses.replace(data, interactions=data.interactions.assign(**columns))


def test_all_that_decides_a_run_is_in_the_fingerprint(world):
    log, items = world.interactions, world.items
    others = {
        "test for train": changed(world, split=log["split"].map({"train": "test", "test": "train", "valid": "valid"})),
        "time": changed(world, timestamp=log["timestamp"] + 1),
        "users' ids": dataclasses.replace(world, users=world.users.assign(id=world.users["id"].astype(str) + "x")),
        "items' ids": dataclasses.replace(world, items=items.assign(id=[f"i{n}" for n in items["item"]])),
        "titles joined": dataclasses.replace(world, items=items.assign(title=["a\nb", "c", *items["title"][2:]])),
        "titles joined elsewhere": dataclasses.replace(
            world, items=items.assign(title=["a", "b\nc", *items["title"][2:]])
        ),
        "a feature": dataclasses.replace(world, features={**world.features, "image": world.features["image"] + 1}),
        "a feature's shape": dataclasses.replace(
            world, features={**world.features, "image": world.features["image"].reshape(-1, world.n_items).T}
        ),
        "a modality's name": dataclasses.replace(
            world, features={"picture": world.features["image"], "text": world.features["text"]}
        ),
    }
    prints = {world.fingerprint, *(data.fingerprint for data in others.values())}
    assert len(prints) == 1 + len(others)


def test_a_split_the_other_way_round_is_another_world(recipe, tmp_path):
    """Train, test and valid once hashed alike, by their first letters."""
    log = pd.DataFrame({"user": [0, 0, 0, 1, 1, 1], "item": [0, 1, 2, 2, 1, 0], "timestamp": 0})
    there = log.assign(split=["train", "valid", "test"] * 2)
    back = log.assign(split=["test", "valid", "train"] * 2)
    items = pd.DataFrame({"item": [0, 1, 2, 3], "title": list("abcd")})
    worlds = [fl.data.build("two", x, items, {"image": np.eye(4)}) for x in (there, back)]
    assert worlds[0].fingerprint != worlds[1].fingerprint
    runs = [fl.train(recipe.but(k=1, method="none"), w, progress=False, cache=tmp_path) for w in worlds]
    assert [dict(run.test) for run in runs] == [
        dict(fl.train(recipe.but(k=1, method="none"), w, progress=False).test) for w in worlds
    ]
    runs[0].save(tmp_path / "run")
    with pytest.raises(fl.FedlabError, match="was trained on other data"):
        fl.load_run(tmp_path / "run", worlds[1])


def test_click_logs_too():
    log = fl.load("toy-clicks")
    swapped = log.interactions.assign(split=log.interactions["split"].map({"train": "test", "test": "train"}))
    named = dataclasses.replace(log, users=log.users.assign(id=log.users["id"].astype(str) + "x"))
    assert len({x.fingerprint for x in (log, named, dataclasses.replace(log, interactions=swapped))}) == 3


# Files of runs


@pytest.mark.parametrize("content", ["", "round,split,metric,value\n", "a,b\n1,2\n", None])
def test_a_run_whose_history_does_not_tell_of_it_is_refused(world, recipe, tmp_path, content):
    folder = fl.train(recipe, world, progress=False).save(tmp_path / "run")
    path = folder / "history.csv"
    if content is None:  # cut off
        content = "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:6])
    path.write_text(content, encoding="utf-8", newline="\n")
    with pytest.raises(fl.FedlabError, match=r"history\.csv|damaged run: No columns"):
        fl.load_run(folder, world)


def test_a_run_of_a_newer_version_says_who_wrote_it(world, recipe, tmp_path):
    folder = fl.train(recipe, world, progress=False).save(tmp_path / "run")
    for file, change in (
        ("run.json", lambda x: {**x, "versions": {**x["versions"], "fedlab_mm": "7.0.0"}}),
        ("recipe.json", lambda x: {**x, "wings": 2}),
    ):
        kept = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps(change(kept)), encoding="utf-8", newline="\n")
    with pytest.raises(fl.FedlabError, match=r"run was written by fedlab_mm 7\.0\.0, and this is .*: a Recipe has"):
        fl.load_run(folder, world)

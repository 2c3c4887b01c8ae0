"""Figures on disk are those that the code would make; and what is told of one that is not."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import fedlab_mm as fl
from fedlab_mm import figures, registry
from fedlab_mm.cli import main
from fedlab_mm.figures.base import Cells, Exhibit
from fedlab_mm.plotting import plot_variants

FOLDER = Path(__file__).resolve().parents[2] / "figures"


@pytest.mark.parametrize("name", registry.names("figure"))
def test_a_figure_is_what_its_code_would_make(name):
    assert figures.state(name, FOLDER) == "fresh", "run `make figures FIGURES={name} ROOT=…`, or DRAW=1 for its picture"
    about = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert about["source"] and about["caption"] and about["versions"]["torch"]
    assert len(figures.table_of(name, FOLDER)) > 0
    pixels = np.asarray(Image.open(FOLDER / f"{name}.png").convert("L"))
    assert pixels.shape[1] > 500 and pixels.std() > 5  # there is something on it


class Tiny(Cells):
    source, caption, dataset = "none", "two backbones of a small world", None
    seeds = (0, 1)
    rounds = 2

    def cells(self):
        for backbone in ("fcf", "fedavg"):
            recipe = fl.Recipe(dataset="tiny", backbone=backbone, method="none", rounds=self.rounds, k=5, dim=4)
            yield (backbone, "plain"), recipe

    def draw(self, table):
        return plot_variants(table.rename(columns={"hr@50": "x"}), metrics="x")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(registry._FAMILIES["figure"], "tiny", Tiny)
    return Tiny


def test_a_figure_leaves_four_files_and_knows_when_it_is_stale(tiny, world, tmp_path, monkeypatch):
    assert figures.state("tiny", tmp_path) == "missing: csv, json, png, pdf"
    paths = figures.make("tiny", tmp_path, data=world)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    table = figures.table_of("tiny", tmp_path)
    assert len(table) == 4 and set(table["seed"]) == {0, 1}
    about = json.loads((tmp_path / "tiny.json").read_text(encoding="utf-8"))
    assert about["data"]["sha256"] == world.fingerprint
    assert figures.state("tiny", tmp_path) == "fresh"

    text = (tmp_path / "tiny.csv").read_text(encoding="utf-8")
    (tmp_path / "tiny.csv").write_text(text.replace("fcf", "fcg"), encoding="utf-8", newline="\n")
    assert "changed by hand" in figures.state("tiny", tmp_path)
    (tmp_path / "tiny.csv").write_text(text, encoding="utf-8", newline="\n")
    monkeypatch.setattr(tiny, "rounds", 3)
    assert "its recipes have changed" in figures.state("tiny", tmp_path)
    monkeypatch.setattr(tiny, "rounds", 2)
    monkeypatch.setattr(tiny, "caption", "something else")
    assert "its caption has changed" in figures.state("tiny", tmp_path)


def test_the_command_checks_draws_and_refuses(tiny, world, tmp_path, capsys, monkeypatch):
    figures.make("tiny", tmp_path, data=world)
    before = (tmp_path / "tiny.csv").read_bytes()
    (tmp_path / "tiny.png").unlink()
    assert main(["figures", "tiny", "--out", str(tmp_path), "--check"]) == 1
    assert main(["figures", "tiny", "--out", str(tmp_path), "--draw"]) == 0
    assert main(["figures", "tiny", "--out", str(tmp_path), "--check"]) == 0
    assert (tmp_path / "tiny.csv").read_bytes() == before
    assert main(["figures", "tinny", "--out", str(tmp_path)]) == 2
    assert "did you mean 'tiny'" in capsys.readouterr().err
    assert main(["figures", "tiny", "--out", str(tmp_path / "empty"), "--draw"]) == 2
    assert "is not there: measure it with" in capsys.readouterr().err


def test_a_cache_lets_figures_share_what_they_share(tiny, world, tmp_path, monkeypatch):
    first = Tiny().measure(world, str(tmp_path))
    monkeypatch.setattr("fedlab_mm.experiments.train._engine_of", None)  # training anything would call it
    pd.testing.assert_frame_equal(Tiny().measure(world, str(tmp_path)), first)


def test_what_diverges_is_a_gap_not_a_figure(tiny, world, monkeypatch):
    from fedlab_mm.figures import base

    def diverge(recipe, *_, **__):
        raise fl.DivergedError(1, None)

    monkeypatch.setattr(base, "train", diverge)
    rows = list(base.measured(fl.Recipe(), world, (0, 1), None))
    assert [row["seed"] for row in rows] == [0, 1] and all(np.isnan(row["hr@50"]) for row in rows)


def test_an_exhibit_says_what_it_needs():
    with pytest.raises(NotImplementedError):
        Exhibit().settings()


def test_a_field_that_came_later_makes_no_figure_stale(tiny, world, tmp_path):
    figures.make("tiny", tmp_path, data=world)
    path = tmp_path / "tiny.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    value = about["settings"]["defaults"].pop("fit_epochs")
    path.write_text(json.dumps(about), encoding="utf-8", newline="\n")
    assert figures.state("tiny", tmp_path) == "fresh"
    about["settings"]["defaults"]["fit_epochs"] = value + 1  # a default that did change is another matter
    path.write_text(json.dumps(about), encoding="utf-8", newline="\n")
    assert figures.state("tiny", tmp_path).startswith("stale: its recipes")

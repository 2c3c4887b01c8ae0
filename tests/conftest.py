"""A world small enough to check by hand, and the real data where they are at hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.data import build
from fedlab_mm.federation.channel import Intake
from fedlab_mm.tasks import federation_of

collect_ignore = ["newcomers"]  # what they register is for their own test
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def tiny(n_users: int = 9, n_items: int = 14, seed: int = 0, widths: tuple[int, int] = (5, 7)) -> fl.Dataset:
    """A few users of very different activity, two modalities of unequal width."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        for when, item in enumerate(rng.permutation(n_items)[: 3 + (user * 5) % 8]):
            rows.append((user, int(item), when))
    log = pd.DataFrame(rows, columns=["user", "item", "timestamp"])
    items = pd.DataFrame({"title": [f"item {i}" for i in range(n_items)]})
    features = {m: rng.normal(size=(n_items, w)) for m, w in zip(("image", "text"), widths, strict=True)}
    return build("tiny", log, items, features)


@pytest.fixture(scope="session")
def world() -> fl.Dataset:
    return tiny()


@pytest.fixture(scope="session")
def toy() -> fl.Dataset:
    return fl.load("toy")


@pytest.fixture(scope="session")
def small_toy(toy) -> fl.Dataset:
    """The toy set with its first sixty users: all its items and features, a fifth of the time."""
    few = toy.interactions[toy.interactions["user"] < 60].reset_index(drop=True)
    return replace(toy, interactions=few, users=toy.users.head(60), truth={})


@pytest.fixture(scope="session")
def ku() -> fl.Dataset:
    if not (SHARED / "ku").is_dir():
        pytest.skip(f"KU's files are not in {SHARED / 'ku'}")
    return fl.load("ku", root=SHARED)


def private_of(engine) -> dict[str, torch.Tensor]:
    """Every client's private parameters, [U, …], personal tables whole."""
    private = {n: p.clone() for n, p in engine.private.items()}
    if engine.personal is not None:
        private["personal_table"] = engine.personal.dense(slice(0, engine.data.n_users))
    return private


def but(recipe: fl.Recipe, **settings) -> fl.Recipe:
    """The recipe with those of the settings that it reads, and with sizes that suit the tiny world."""
    names = {n: settings.pop(n) for n in ("backbone", "method") if n in settings}
    recipe = recipe.but(**names)
    small = {"groups": 2, "fit_epochs": 5} if recipe.method == "gfmfr" else {}
    return recipe.but(**{n: v for n, v in {**small, **settings}.items() if n in recipe.settings})


@pytest.fixture
def recipe() -> fl.Recipe:
    """Small enough for the tiny world, and every part of it at work."""
    return fl.Recipe(
        dataset="tiny",
        rounds=4,
        local_epochs=3,
        dim=4,
        id_dim=6,
        k=5,
        lr=0.1,
        shared_lr=0.1,
        weight_decay=1e-3,
    )


def engine_of(name: str, recipe: fl.Recipe, data):
    """A recipe's federation under a backend, before its first round."""
    return federation_of(recipe.but(engine=name), data)


def train_clients(federation, samples, alpha_C, sent):
    """What a round's clients keep, and `mixed`, what arrives of them."""
    federation.memory.begin(sent)
    intake = Intake(federation.channel, federation.round + 1, federation.nothing(sent))
    work = federation.backend.train(samples, alpha_C, sent, intake)
    work.mixed = intake.mixed
    return work

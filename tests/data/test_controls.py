"""Controls: the same numbers on other items, or noise of the same spread; and rows of their own in a comparison."""

import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.data.controls import controlled


def test_shuffled_features_are_those_of_other_items_alike_in_all_modalities(toy):
    other = controlled(toy, "shuffled", seed=3)
    order = [int((toy.features["text"] == row).all(dim=1).nonzero()[0]) for row in other.features["text"][:40]]
    assert order != list(range(40))
    assert torch.equal(other.features["image"][:40], toy.features["image"][order])
    assert other.fingerprint != toy.fingerprint and other.about["control"] == "shuffled, seed 3"
    assert not torch.equal(controlled(toy, "shuffled", seed=4).features["image"], other.features["image"])


def test_noise_has_the_same_mean_and_spread(toy):
    other, real = controlled(toy, "noise").features["image"], toy.features["image"]
    wide = real.std(dim=0) > 1e-6
    assert (other.std(dim=0)[wide] / real.std(dim=0)[wide]).mean() == pytest.approx(1, abs=0.02)
    assert (other - real).abs().mean() > 0.1 * real.std()


def test_controls_in_a_comparison(world, recipe):
    r = recipe.but(rounds=1)
    table = fl.compare(
        [r, r.but(method="none"), r.but(method="mlp")], [0, 1], world, [], False, controls=["shuffled", "noise", "none"]
    )
    assert list(table.index) == [
        "fcf + fedvlr", "fcf + fedvlr, shuffled", "fcf + fedvlr, noise", "fcf + none",
        "fcf + mlp", "fcf + mlp, shuffled", "fcf + mlp, noise",
    ]  # fmt: skip
    assert 0 < fl.paired(table, "fcf + fedvlr", "fcf + fedvlr, shuffled", "ndcg@5")["p"] <= 1
    alone = fl.compare([r], [0], world, [], False, controls=["none"])
    assert list(alone.index) == ["fcf + fedvlr", "fcf + fedvlr, none"]


def test_what_is_no_control(world, recipe, toy):
    with pytest.raises(fl.FedlabError, match="unknown control 'mixed': there are: noise, shuffled"):
        fl.compare([recipe], [0], world, [], False, controls=["mixed"])
    with pytest.raises(fl.FedlabError, match="stand beside methods that fuse, and none is among the recipes"):
        fl.compare([recipe.but(method="none")], [0], world, [], False, controls="shuffled")
    with pytest.raises(fl.FedlabError, match="has no features to put under one"):
        controlled(fl.load("toy-clicks"), "shuffled")

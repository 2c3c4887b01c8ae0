"""Items drawn towards their content: the map is a ridge regression, rows nobody touches end on it, and new items are
scored by it."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

import fedlab_mm as fl
from tests.conftest import engine_of


@pytest.fixture
def drawn(recipe):
    return recipe.but(method="prior", precision="float64", pull=0.2, ridge=0.05)


def test_the_map_is_a_ridge_regression(world, drawn):
    method = engine_of("stacked", drawn, world).method
    x_Id = torch.cat(list(method.inputs().values()), dim=1).numpy()
    table_IW = method.shared.item_table.detach().numpy()
    theirs = Ridge(alpha=0.05 * world.n_items).fit(x_Id, table_IW).predict(x_Id)
    np.testing.assert_allclose(method.expected().numpy(), theirs, atol=1e-9)


@pytest.mark.parametrize("solver", [{}, {"solver": "closed", "server_optimizer": "adam", "shared_lr": 0.01}])
def test_a_round_is_that_of_none_and_then_a_share_of_the_way(world, drawn, solver):
    settings = {**{"shared_lr": None, "lr": None}, **solver}
    plain = engine_of("stacked", drawn.but(method="none", **settings), world)
    informed = engine_of("stacked", drawn.but(**settings), world)
    informed.method.shared.item_table.data.copy_(plain.method.shared.item_table.data)
    plain.step(), informed.step()
    moved_IW = plain.method.shared.item_table.detach()
    informed_IW = informed.method.shared.item_table.detach().clone()
    informed.method.shared.item_table.data.copy_(moved_IW)
    torch.testing.assert_close(informed_IW, torch.lerp(moved_IW, informed.method.expected(), 0.2))


def test_new_items_are_scored_by_their_features_alone(world, drawn):
    run = fl.train(drawn, world, progress=False)
    again = {m: f[:3] for m, f in world.features.items()}
    expected = run.model.method.expected()[:3]
    theta_UW = run.model.private["backbone.predictor.weight"][:, 0]
    scores = theta_UW @ expected.T + run.model.private["backbone.predictor.bias"]
    torch.testing.assert_close(run.model.scores_of_new(again), scores)
    assert list(run.recommend(0, 2, new_items=again).columns) == ["item", "score", "rank"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pull": 1.0}, "pull=1.0: a share of the way lies below 1"),
        ({"pull": 0.0}, "pull=0.0: must be a positive number"),
        ({"ridge": -1.0}, "ridge=-1.0: must be a positive number"),
        ({"without": ("image", "text")}, "method 'prior' draws items towards their features, and without= leaves none"),
    ],
)
def test_what_makes_no_sense(world, drawn, changes, message):
    with pytest.raises(fl.FedlabError, match=message):
        fl.train(drawn.but(**changes), world, progress=False)


def test_ids_may_start_silent_beside_content(world, recipe):
    federation = engine_of("stacked", recipe.but(method="fedvlr", init_scale=0.0), world)
    assert not federation.method.fusion.bank.id_embedding.any()
    federation.step()
    assert federation.method.fusion.bank.id_embedding.any()
    for changes in ({"method": "none"}, {"method": "fedvlr", "without": ("image", "text")}, {"backbone": "fedncf"}):
        with pytest.raises(fl.FedlabError, match=r"init_scale=0: .* would begin with items that are all alike"):
            engine_of("stacked", recipe.but(init_scale=0.0, **changes), world)

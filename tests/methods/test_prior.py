"""Items drawn towards their content: the map is a ridge regression, rows nobody touches end on it, and new items are
scored by it."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

import fedlab_mm as fl
from fedlab_mm.registry import names
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


def test_topics_are_the_main_directions_of_the_features(world, drawn):
    method = engine_of("stacked", drawn.but(towards="topics", dim=3, feature_scale=0.1), world).method
    x_Id = torch.cat(list(method.inputs().values()), dim=1).numpy()
    theirs = PCA(3).fit_transform(x_Id)
    theirs *= 0.1 / np.sqrt((theirs**2).mean())
    ours = method.expected().numpy()
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-9)  # an axis has no sign
    wide = engine_of("stacked", drawn.but(towards="topics", dim=20), world).method.expected()
    assert wide.shape == (world.n_items, 20) and not wide[:, 12:].any()  # five and seven features have no more


def test_rows_near_their_views_minimise_what_they_are_said_to(world, drawn):
    method = engine_of("stacked", drawn.but(towards="views", pull=0.3), world).method
    x_Id, table_IW = torch.cat(list(method.inputs().values()), dim=1), method.shared.item_table.detach()
    read_dW, back_WW, rho = method.towards._maps(table_IW, x_Id)
    assert float(back_WW.diagonal().mean()) == pytest.approx(0.3 / 0.7)
    leaf = method.towards.pulled(table_IW, x_Id).requires_grad_()
    loss = (leaf - table_IW).square().sum() + rho * (x_Id - leaf @ read_dW.T).square().sum()
    assert torch.autograd.grad(loss, leaf)[0].abs().max() < 1e-9


@pytest.mark.parametrize("towards", names("towards"))
@pytest.mark.parametrize("solver", [{}, {"solver": "closed", "server_optimizer": "adam", "shared_lr": 0.01}])
def test_every_pull_shrinks_the_distance_and_is_the_same_in_both_backends(world, drawn, towards, solver):
    r = drawn.but(towards=towards, **{**{"shared_lr": None, "lr": None}, **solver})
    loop, stacked = (engine_of(engine, r, world) for engine in ("loop", "stacked"))
    for _ in range(3):
        loop.step(), stacked.step()
    torch.testing.assert_close(stacked.method.shared.item_table, loop.method.shared.item_table, rtol=1e-9, atol=1e-9)
    method = stacked.method
    x_Id, table_IW = torch.cat(list(method.inputs().values()), dim=1), method.shared.item_table.detach()
    target_IW = method.expected()
    pulled_IW = method.towards.pulled(table_IW, x_Id)
    assert (pulled_IW - target_IW).norm() < (table_IW - target_IW).norm()
    new = method.for_new_items({m: f[:2] for m, f in world.features.items()})["item_table"]
    torch.testing.assert_close(new, target_IW[:2])


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

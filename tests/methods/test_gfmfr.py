"""GFMFR: groups, what they prefer, what clients distil from it."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, roc_auc_score
from torch.distributions import Bernoulli, kl_divergence

import fedlab_mm as fl
from fedlab_mm.aggregation import Equal, Weighted, by_group
from fedlab_mm.data.negatives import sample
from fedlab_mm.grouping import aligned, split
from fedlab_mm.losses import Divergence
from fedlab_mm.methods.gfmfr import NONE
from fedlab_mm.registry import names
from fedlab_mm.tasks import federation_of
from tests.conftest import but


@pytest.fixture
def grouped(recipe):
    return but(recipe, method="gfmfr", precision="float64", weight_decay=0.0)


def engine_of(recipe, world, n_rounds):
    engine = federation_of(recipe, world)
    for _ in range(n_rounds):
        engine.step()
    return engine


def test_the_divergence_is_torchs_own():
    s, e = torch.randn(2, 50, dtype=torch.float64, requires_grad=True).unbind()
    expected = kl_divergence(Bernoulli(logits=s), Bernoulli(logits=e))
    torch.testing.assert_close(Divergence().of(s, e), expected)
    leaf = s.detach().requires_grad_()
    torch.testing.assert_close(
        Divergence().slope(leaf, e), torch.autograd.grad(Divergence().of(leaf, e).sum(), leaf)[0]
    )


@pytest.mark.parametrize("clustering", ["kmeans", "spectral"])
def test_groups_that_are_there_are_found_and_keep_their_names(clustering):
    rng = np.random.default_rng(0)
    planted = rng.permutation(np.repeat(np.arange(3), 20))
    vectors = 5 * rng.normal(size=(3, 6))[planted] + rng.normal(size=(60, 6))
    for n_groups in (3, None):
        found = split(vectors, n_groups, clustering, seed=0)
        assert adjusted_rand_score(planted, found) == 1
        assert np.array_equal(aligned(found, planted, 8), planted)
    assert len(np.unique(split(vectors[:2], 8, clustering, 0))) == 2
    assert set(split(np.ones((5, 3)), 4, clustering, 0)) == {0}


@pytest.mark.parametrize("rule", [Weighted(), Equal()])
def test_aggregation_by_group_is_block_structured(rule):
    n_samples, group = np.array([4, 1, 3, 9]), np.array([1, 1, -1, 0])
    matrix = by_group(rule, n_samples, group, 3)
    assert matrix.sum(axis=1).tolist() == [1, 1, 0]
    assert not matrix[:, 2].any() and not matrix[0, :3].any() and not matrix[1, 3]


@pytest.mark.parametrize("backbone", names("backbone"))
def test_without_distillation_it_is_none(world, grouped, backbone):
    r = grouped.but(backbone=backbone, distill=0.0)
    with_groups, plain = engine_of(r, world, 3), engine_of(r.but(method="none"), world, 3)
    torch.testing.assert_close(with_groups.scores(), plain.scores(), rtol=0, atol=0)
    distilled = engine_of(r.but(distill=1.0), world, 3)
    assert (distilled.scores() - plain.scores()).abs().max() > 1e-4


@pytest.mark.parametrize("scale", ["none", "ratio"])
def test_a_clients_step_is_along_the_gradient_of_both_losses(world, grouped, scale):
    """One epoch of one client, against autograd on L_rec + λ_t · c_u · L_dis written out here."""
    r = grouped.but(local_epochs=1, engine="loop", distill=0.7, distill_scale=scale)
    engine = engine_of(r, world, 2)
    sent = {n: p.detach() for n, p in engine.method.broadcast().items()}
    samples = sample(world.train, world.n_items, np.arange(world.n_users), r.negatives, r.seed, 3)
    items, labels = map(torch.from_numpy, samples.of(4))
    theta, bias = (engine.private[f"backbone.predictor.{p}"][4].clone().requires_grad_() for p in ("weight", "bias"))
    rows = sent["item_table"][items].clone()
    logits = rows @ theta[0] + bias
    soft = torch.sigmoid(sent["preferences"][items, engine.memory.group_U[4]])
    of_labels = -(labels * logits.sigmoid().log() + (1 - labels) * (1 - logits.sigmoid()).log()).mean()
    of_group = kl_divergence(Bernoulli(probs=logits.sigmoid()), Bernoulli(probs=soft)).mean()
    weight = 0.7 * (1 + np.cos(np.pi * 2 / r.rounds)) / 2
    if scale == "ratio":
        now = min(float((of_labels / of_group).detach()), 10.0)
        before = float(engine.private["distill_ratio"][4])
        weight *= min(now, 0.9 * before + 0.1 * now)
    (of_labels + weight * of_group).backward()
    done = engine.client_round(samples, 4, sent)
    moved, loss, upload = done.private, done.loss, done.upload
    torch.testing.assert_close(moved["backbone.predictor.weight"], theta.detach() - r.lr * theta.grad)
    torch.testing.assert_close(moved["backbone.predictor.bias"], bias.detach() - r.lr * bias.grad)
    assert loss == pytest.approx(float((of_labels + weight * of_group).detach()))
    assert torch.equal(upload.values["backbone.predictor.weight"], moved["backbone.predictor.weight"])


def test_what_a_group_prefers_is_its_mean_function_of_its_fused_items(world, grouped):
    engine = engine_of(grouped, world, 2)
    method, groups = engine.method, engine.memory
    assert set(groups.group_U) == {0, 1}
    for group in (0, 1):
        members = groups.group_U == group
        theta = engine.private["backbone.predictor.weight"][members, 0].mean(dim=0)
        bias = engine.private["backbone.predictor.bias"][members].mean()
        expected = method.fused(group).detach() @ theta + bias
        torch.testing.assert_close(method.shared.preferences[:, group], expected)


def test_who_was_never_there_has_no_group_and_distils_nothing(world, grouped):
    engine = engine_of(grouped.but(clients=0.3, distill_scale="ratio"), world, 2)
    there = engine.memory.group_U >= 0
    assert 3 <= there.sum() < world.n_users
    assert (engine.method.shared.preferences[:, -1] == NONE).all()
    assert not engine.private["distill_ratio"][~torch.from_numpy(there)].any()


def test_a_group_of_which_nobody_came_keeps_what_it_preferred(world, grouped):
    engine = engine_of(grouped.but(grouping="random", clients=0.4), world, 3)
    kept = 0
    for _ in range(6):
        before = engine.method.shared.preferences.clone()
        clients = engine.step().clients
        absent = sorted({0, 1} - set(engine.memory.group_U[clients]))
        kept += len(absent)
        assert torch.equal(engine.method.shared.preferences[:, absent], before[:, absent])
    first, again = engine.memory.group_U.copy(), engine_of(grouped.but(grouping="random"), world, 1).memory.group_U
    assert np.array_equal(first[first >= 0], again[first >= 0])  # a client keeps its lot


def test_behaviour_groups_who_took_the_same(world, grouped):
    engine = engine_of(grouped.but(grouping="behaviour"), world, 3)
    assert set(engine.memory.group_U) == {0, 1}
    sent = engine.memory.n_rows_U.numpy()
    assert (sent >= 3 * world.train.lengths).all()  # its own items in every round, and others


def test_what_crosses_the_wire(world, grouped):
    """Down: the global table and one number an item. Up: rows, and the prediction function."""
    record = next(fl.rounds(grouped, world))
    plain = next(fl.rounds(grouped.but(method="none"), world))
    assert record.download_bytes - plain.download_bytes == 4 * world.n_items * world.n_users
    assert record.upload_bytes - plain.upload_bytes == 4 * (grouped.dim + 1) * world.n_users


def test_what_a_client_holds(grouped):
    """No fusion: what an ID-based client holds, one preference an item, and the average of a ratio."""
    counts, plain = (fl.count_parameters(fl.Recipe(method=m), 204, 560) for m in ("gfmfr", "none"))
    assert counts["client"] == plain["client"] + 560 + 1
    assert counts["fedmr"] == counts["fedvlr"] == plain["fedmr"]
    assert counts["private"] == 1 and plain["private"] == 65


def test_sums_do_not_hide_what_is_shown(world, grouped):
    """What a server reads in a shown function is how that function ranks the client's own items."""
    sums = fl.attack("items", grouped, world, rounds=3, secure=True, progress=False)
    assert list(sums.index) == ["uploads", "prediction function shown", "popularity alone"]
    assert sums.loc["uploads", "auc"] == sums.loc["prediction function shown", "auc"]
    rows = fl.attack("items", grouped, world, rounds=3, progress=False)
    assert rows.loc["prediction function shown", "auc"] == sums.loc["uploads", "auc"]
    engine = federation_of(grouped.but(engine="loop"), world)
    seen = np.zeros((world.n_users, world.n_items))

    def look(upload, sent):
        own = {n.removeprefix("backbone."): upload.values[n] for n in engine.method.shown}
        layers = dict(engine.method.shared.backbone.named_parameters())
        with torch.no_grad():
            scores = torch.func.functional_call(engine.method.client.backbone, layers | own, (sent["item_table"],))
        seen[upload.client] = scores.numpy()

    engine.channel.watch(look)
    for _ in range(3):
        engine.step()
    own = [np.isin(np.arange(world.n_items), world.train[u]) for u in range(world.n_users)]
    expected = np.mean([roc_auc_score(o, s) for o, s in zip(own, seen, strict=True)])
    assert rows.loc["prediction function shown", "auc"] == pytest.approx(expected)


@pytest.mark.parametrize("how", ["prediction", "behaviour", "random"])
def test_it_goes_on_where_it_stopped(world, grouped, how, tmp_path):
    r = grouped.but(grouping=how, clients=0.4, distill_schedule="constant")  # the other schedule looks at the end
    whole = fl.train(r, world, progress=False)
    fl.train(r.but(rounds=2), world, progress=False).save(tmp_path / "run")
    resumed = fl.train(r, world, progress=False, resume=fl.load_run(tmp_path / "run", world))
    for name, value in whole.last_state.items():
        assert torch.equal(resumed.last_state[name], value), name
    assert resumed.groups().equals(whole.groups())
    with pytest.raises(fl.FedlabError, match="method 'none' groups nobody; gfmfr and mrff do"):
        fl.train(r.but(method="none"), world, progress=False).groups()


def test_noise_is_added_to_what_is_shown(world, grouped):
    loop, stacked = (engine_of(grouped.but(noise=0.01, engine=e), world, 2) for e in ("loop", "stacked"))
    torch.testing.assert_close(loop.memory.shown_UK, stacked.memory.shown_UK)
    shown = torch.cat([loop.private[n].flatten(1) for n in loop.method.shown], dim=1)
    assert 0.03 < float((loop.memory.shown_UK - shown).std()) < 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 4, "clients": 0.3}, "groups=4: a round has 3 clients; lower groups, or raise clients"),
        ({"without": ("image", "text")}, "method 'gfmfr' distils modalities, and without= leaves none"),
        ({"clip": 1.0}, "which clip and rows do not cover: use noise, or another method"),
        ({"rows": "all"}, "which clip and rows do not cover"),
        ({"without": ("id",)}, "method 'gfmfr' has no other signal"),
    ],
)
def test_what_cannot_be(world, grouped, changes, message):
    with pytest.raises(fl.FedlabError, match=message):
        next(fl.rounds(grouped.but(**changes), world))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": -1.0}, "distill=-1.0: must not be negative"),
        ({"groups": 0}, "groups=0: must be at least 1"),
        ({"grouping": "taste"}, "unknown grouping 'taste': there are: behaviour, prediction, random"),
        ({"clustering": "dbscan"}, "unknown clustering 'dbscan': there are: kmeans, spectral"),
    ],
)
def test_settings_that_mean_nothing(grouped, changes, message):
    with pytest.raises(fl.FedlabError, match=message):
        grouped.but(**changes)

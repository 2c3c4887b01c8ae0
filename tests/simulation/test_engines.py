"""Every backbone × method: the engines agree, company and order do not matter, and nothing private leaves a client."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.data.negatives import sample
from fedlab_mm.records import upload_bytes
from fedlab_mm.registry import lookup, names
from tests.conftest import tiny

PAIRS = [(b, m) for b in names("backbone") for m in names("method")]


def run(recipe, data, n_rounds=4):
    engine = lookup("engine", recipe.engine)(recipe, data)
    records = [engine.step() for _ in range(n_rounds)]
    return engine, records


def assert_same(a, b, tolerance):
    for name, value in a.state().items():
        torch.testing.assert_close(b.state()[name], value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize(("backbone", "method"), PAIRS)
@pytest.mark.parametrize("clients", [1.0, 0.4])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_stacked_is_loop(world, recipe, backbone, method, clients, optimizer):
    """In double precision to 1e-9: no approximation, whatever the chunk."""
    lr = {"sgd": 0.5, "adam": 0.01}[optimizer]
    r = recipe.but(
        backbone=backbone, method=method, clients=clients, optimizer=optimizer, server_optimizer=optimizer, lr=lr,
        shared_lr=lr, precision="float64", chunk=4,
    )  # fmt: skip
    plain, records = run(r.but(engine="loop"), world)
    fast, fast_records = run(r.but(engine="stacked"), world)
    assert_same(plain, fast, 1e-9)
    torch.testing.assert_close(fast.scores(), plain.scores(), rtol=1e-9, atol=1e-9)
    for a, b in zip(records, fast_records, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=1e-9)
        assert (a.upload_bytes, a.download_bytes) == (b.upload_bytes, b.download_bytes)
        assert np.array_equal(a.clients, b.clients)
    if method == "fedvlr":
        torch.testing.assert_close(fast.router_weights(), plain.router_weights(), rtol=1e-9, atol=1e-9)
    assert (plain.scores() - lookup("engine", "loop")(r, world).scores()).abs().max() > 1e-3  # it did train


@pytest.mark.parametrize(("backbone", "method"), PAIRS)
def test_stacked_is_loop_on_the_toy_set_in_single_precision(toy, backbone, method):
    r = fl.Recipe(backbone=backbone, method=method, lr=0.2, shared_lr=0.2)  # gentle, whatever a newcomer's loss
    plain, _ = run(r.but(engine="loop"), toy, 3)
    fast, _ = run(r, toy, 3)
    torch.testing.assert_close(fast.scores(), plain.scores(), rtol=1e-5, atol=1e-5)
    assert_same(plain, fast, 1e-5)


@pytest.mark.parametrize(("backbone", "method"), PAIRS)
def test_the_size_of_a_chunk_changes_nothing(world, recipe, backbone, method):
    r = recipe.but(backbone=backbone, method=method, precision="float64")
    reference, _ = run(r.but(chunk=100), world)
    for chunk in (1, 2, 5):
        assert_same(reference, run(r.but(chunk=chunk), world)[0], 1e-12)


@pytest.mark.parametrize("name", names("engine"))
@pytest.mark.parametrize("method", names("method"))
def test_the_order_of_clients_changes_nothing(world, recipe, name, method):
    r = recipe.but(method=method, engine=name, precision="float64", chunk=4)
    engine = lookup("engine", name)(r, world)
    views = engine.method.broadcast().detach()
    order = np.random.default_rng(0).permutation(world.n_users)

    def work(clients):
        samples = sample(world.train, world.n_items, clients, 4, 0, 1)
        return engine.train_clients(samples, engine.aggregation.matrix(samples.lengths)[0], views)

    straight, mixed_up = work(np.arange(world.n_users)), work(order)
    torch.testing.assert_close(mixed_up.mixed_EID, straight.mixed_EID, rtol=1e-12, atol=1e-12)
    for key, value in straight.private.items():
        torch.testing.assert_close(mixed_up.private[key], value[order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("backbone", "method"), PAIRS)
def test_what_leaves_a_client(world, recipe, backbone, method):
    """The upload is one named tensor for the touched rows, and its bytes are those that the round reports."""
    engine = lookup("engine", "loop")(recipe.but(engine="loop", backbone=backbone, method=method), world)
    views = engine.method.broadcast().detach()
    samples = sample(world.train, world.n_items, np.arange(world.n_users), 4, 0, 1)
    total = 0
    for c in range(world.n_users):
        private, _, upload = engine.client_round(samples, c, views)
        touched = np.unique(samples.of(c)[0])
        assert upload.rows.tolist() == touched.tolist()
        assert list(upload.values) == [{"none": "item_table", "fedvlr": "view_gradients"}[method]]
        values = upload.values[engine.method.upload]
        assert values.shape == (len(views), len(touched), recipe.dim)
        assert upload.nbytes == upload_bytes(len(touched), len(views) * len(touched) * recipe.dim)
        assert engine.method.client.backbone.private == {
            n for n, _ in engine.method.client.backbone.named_parameters()
        }  # so the upload may hold none of them
        for name, p in private.items():
            assert p.shape == engine.private[name][c].shape
        total += upload.nbytes
    assert engine.step().upload_bytes == total


@pytest.mark.parametrize("name", names("engine"))
@pytest.mark.parametrize("method", names("method"))
def test_only_the_rounds_clients_move_and_their_state_lives_on(world, recipe, name, method):
    engine = lookup("engine", name)(recipe.but(method=method, engine=name, clients=0.3), world)
    initial = {k: v.clone() for k, v in engine.private.items()}
    assert all((v == v[:1]).all() for v in initial.values())  # all begin alike
    first = engine.step().clients
    rest = np.setdiff1d(np.arange(world.n_users), first)
    moved = {k: v.clone() for k, v in engine.private.items()}
    for key in moved:
        assert torch.equal(moved[key][rest], initial[key][rest])
    assert not torch.equal(moved["backbone.predictor.weight"][first], initial["backbone.predictor.weight"][first])
    second = engine.step().clients
    assert not set(first) & set(second)
    for key in moved:
        assert torch.equal(engine.private[key][first], moved[key][first])


def test_clients_rest_a_round_where_there_are_enough():
    data = tiny(n_users=10)
    for share, rests in ((0.5, True), (0.2, True), (0.6, False), (1.0, False)):
        engine = lookup("engine", "stacked")(fl.Recipe(dim=2, id_dim=2, k=5, clients=share), data)
        chosen = [engine.step().clients for _ in range(6)]
        assert {len(c) for c in chosen} == {round(share * 10)}
        if rests:
            assert not any(set(a) & set(b) for a, b in pairwise(chosen))


@pytest.mark.parametrize("name", names("engine"))
@pytest.mark.parametrize("method", names("method"))
def test_divergence_names_round_and_client_and_leaves_the_state_alone(world, recipe, name, method):
    engine = lookup("engine", name)(recipe.but(method=method, engine=name, shared_lr=1e9, lr=1e9), world)
    with pytest.raises(fl.DivergedError, match="training diverged in round") as caught:
        for _ in range(50):
            before = engine.state()
            engine.step()
    assert caught.value.round == engine.round + 1
    for key, value in engine.state().items():
        assert torch.equal(value, before[key]), key
        assert torch.isfinite(value.double()).all()


def test_a_server_step_that_overflows_is_undone(world, recipe):
    engine = lookup("engine", "stacked")(recipe.but(server_optimizer="adam"), world)
    engine.step()
    before = engine.state()
    views = engine.method.broadcast()
    mixed = torch.full_like(views, 1e38)
    with pytest.raises(fl.DivergedError, match="round 2 at the server's update"):
        engine._update_server(views, mixed, 2)
    for key, value in engine.state().items():
        assert torch.equal(value, before[key]), key


def test_stacked_says_what_it_cannot_run(world, recipe):
    from fedlab_mm.backbones import Backbone
    from fedlab_mm.registry import _FAMILIES, register

    @register("backbone", "test cubic")
    class Cubic(Backbone):
        def __init__(self, dim):
            super().__init__()
            self.predictor = torch.nn.Linear(dim, 1)

        def forward(self, items_ND):
            return self.predictor(items_ND).squeeze(-1) ** 3

    try:
        r = recipe.but(backbone="test cubic")
        with pytest.raises(fl.FedlabError, match="'stacked' cannot run test cubic \\+ fedvlr yet: use engine='loop'"):
            lookup("engine", "stacked")(r, world)
        assert lookup("engine", "loop")(r.but(engine="loop"), world).step().round == 1
    finally:
        del _FAMILIES["backbone"]["test cubic"]


def test_a_loss_of_ones_own_needs_no_slope(world, recipe):
    """A newcomer's backbone gives only its loss; the engines still agree."""
    from fedlab_mm.backbones import LinearBackbone
    from fedlab_mm.registry import _FAMILIES, register

    @register("backbone", "test squares")
    class Squares(LinearBackbone):
        @staticmethod
        def loss(logits, labels):
            return (logits - labels) ** 2 * (1 + 2 * labels)

    try:
        r = recipe.but(backbone="test squares", precision="float64", lr=0.05, shared_lr=0.05, id_lr_scale=1.0)
        for method in names("method"):
            assert_same(run(r.but(engine="loop", method=method), world)[0], run(r.but(method=method), world)[0], 1e-9)
    finally:
        del _FAMILIES["backbone"]["test squares"]

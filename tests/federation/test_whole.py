"""The loss over the whole catalogue: its gradients are autograd's on the objective written out over all items, a solved
client is at its minimum, both backends agree, and what leaves is rows and one matrix."""

import numpy as np
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.methods.whole import solved
from fedlab_mm.registry import lookup
from tests.conftest import engine_of, private_of, train_clients

METHODS = ("none", "mlp", "vbpr", "fedvlr")
BOTH = pytest.mark.parametrize("solver", ["steps", "closed"])


@pytest.fixture
def whole(recipe):
    return recipe.but(loss="implicit", precision="float64", unobserved=0.2, reg=0.05, weight_decay=0.0, backbone="fcf")


def written_out(federation, u, theta_D, router, sent):
    """L_u by the items themselves, one after the other."""
    r, data, method = federation.recipe, federation.data, federation.method
    own = torch.zeros(data.n_items, dtype=torch.float64)
    own[data.train[u]] = 1.0
    n_u = own.sum()
    rows_IK = sent["views"].flatten(1) if "views" in sent else sent["item_table"]
    q_K = theta_D
    if method.routes:
        weights_E = method.weights(sent["views"].transpose(0, 1), router, own / n_u)
        q_K = (weights_E[:, None] * theta_D).flatten()
    s_I = rows_IK @ q_K
    fit = (own * (1 - s_I) ** 2).sum() + r.unobserved * (s_I**2).sum()
    size = (own * rows_IK.square().sum(dim=1)).sum() + r.unobserved * rows_IK.square().sum()
    return fit + r.reg * ((n_u + r.unobserved * data.n_items) * theta_D.square().sum() + size)


def parts_of(federation, u):
    private = {n: p[u].clone() for n, p in federation.private.items()}
    router = {n: p for n, p in private.items() if n.startswith("router.")}
    return private["backbone.predictor.weight"][0], router


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("engine", ["loop", "stacked"])
def test_a_server_step_is_along_the_gradient_of_the_objective(world, whole, method, engine):
    """Closed clients: the gradient at the solved θ is the whole derivative, for θ is where it does not count."""
    r = whole.but(method=method, solver="closed", local_epochs=1, server_optimizer="sgd", shared_lr=1e-3)
    federation = engine_of(engine, r, world)
    before = {n: p.detach().clone() for n, p in federation.method.shared.named_parameters()}
    routers = [parts_of(federation, u)[1] for u in range(world.n_users)]
    federation.step()
    after = {n: p.detach().clone() for n, p in federation.method.shared.named_parameters()}
    solved_at = [parts_of(federation, u) for u in range(world.n_users)]
    federation.method.shared.load_state_dict(federation.method.shared.state_dict() | before)
    sent = federation.method.broadcast()
    total = sum(written_out(federation, u, solved_at[u][0], solved_at[u][1], sent) for u in range(world.n_users))
    parameters = dict(federation.method.shared.named_parameters())
    gradients = torch.autograd.grad(total / world.n_users, list(parameters.values()), allow_unused=True)
    for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
        rate = federation.method.rate(name.rpartition(".")[2], "sgd")
        expected = before[name] - rate * (torch.zeros_like(p) if gradient is None else gradient)
        torch.testing.assert_close(after[name], expected, rtol=1e-9, atol=1e-11, msg=name)
    assert len(routers) == world.n_users


@pytest.mark.parametrize("method", METHODS)
def test_a_solved_client_is_at_its_minimum(world, whole, method):
    federation = engine_of("stacked", whole.but(method=method, solver="closed", local_epochs=2), world)
    sent = {n: p.detach().clone() for n, p in federation.method.broadcast().items()}
    federation.step()
    for u in (0, 4):
        theta_D, router = parts_of(federation, u)
        leaf = theta_D.clone().requires_grad_()
        gradient = torch.autograd.grad(written_out(federation, u, leaf, router, sent), leaf)[0]
        assert gradient.abs().max() < 1e-10


@BOTH
@pytest.mark.parametrize("clients", [1.0, 0.4])
@pytest.mark.parametrize("method", METHODS)
def test_both_backends_agree(world, whole, method, solver, clients):
    r = whole.but(method=method, solver=solver, clients=clients, chunk=4, shared_lr=1e-3, lr=1e-3)
    loop, stacked = (engine_of(engine, r, world) for engine in ("loop", "stacked"))
    for _ in range(3):
        a, b = loop.step(), stacked.step()
        assert a.loss == pytest.approx(b.loss, rel=1e-9)
        assert (a.upload_bytes, a.download_bytes) == (b.upload_bytes, b.download_bytes)
    for name, value in loop.state().items():
        torch.testing.assert_close(stacked.state()[name], value, rtol=1e-9, atol=1e-9, msg=name)
    torch.testing.assert_close(stacked.scores(), loop.scores(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("method", ["none", "fedvlr"])
def test_what_each_client_uploads_is_the_same_in_both(world, whole, method, optimizer):
    r = whole.but(method=method, solver="closed", optimizer=optimizer, lr=0.05, shared_lr=1e-3, local_epochs=3, chunk=4)
    r = r.but(weight_decay=0.01)
    seen: dict[str, dict] = {}
    for engine in ("loop", "stacked"):
        federation = engine_of(engine, r, world)
        federation.step()
        uploads = seen[engine] = {}
        federation.channel.watch(lambda upload, _, uploads=uploads: uploads.update({upload.client: upload}))
        federation.step()
        seen[engine + " private"] = private_of(federation)
    assert len(seen["loop"]) == world.n_users
    for u, upload in seen["loop"].items():
        for name, value in upload.values.items():
            torch.testing.assert_close(seen["stacked"][u].values[name], value, rtol=1e-9, atol=1e-9, msg=name)
    for name, value in seen["loop private"].items():
        torch.testing.assert_close(seen["stacked private"][name], value, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_steps_go_down_the_objective_and_the_closed_client_is_below(world, whole, method):
    losses = {}
    for solver in ("steps", "closed"):
        r = whole.but(method=method, solver=solver, lr=1e-3, shared_lr=1e-4, local_epochs=5)
        federation = engine_of("stacked", r, world)
        losses[solver] = [federation.step().loss for _ in range(6)]
    assert losses["steps"][-1] < losses["steps"][0] and losses["closed"][-1] < losses["closed"][0] < losses["steps"][0]


@pytest.mark.parametrize("method", METHODS)
def test_what_leaves_is_rows_and_a_matrix(world, whole, method):
    federation = engine_of("stacked", whole.but(method=method, solver="closed"), world)
    sent = federation.broadcast()
    uploads = {}
    federation.channel.watch(lambda upload, _: uploads.update({upload.client: upload}))
    record = federation.step()
    part = "views" if "views" in sent else "item_table"
    width = sent[part][0].numel()
    for u, upload in uploads.items():
        assert upload.values.keys() == {f"∇{part}", "∇gram"}
        assert upload.rows.tolist() == world.train[u].tolist()  # no negatives
        assert upload.values["∇gram"].shape == (width, width)
        theta_D, _ = parts_of(federation, u)
        if not federation.method.routes:
            r = federation.recipe
            ridge = r.reg * r.unobserved * torch.eye(width, dtype=torch.float64)
            torch.testing.assert_close(upload.values["∇gram"], r.unobserved * torch.outer(theta_D, theta_D) + ridge)
    assert record.upload_bytes == sum(upload.nbytes for upload in uploads.values())
    assert set(private_of(federation)) & set(sent) == set()


def test_a_federation_of_solved_clients_reaches_what_ials_minimises(world, whole):
    """Server and clients go down one objective; with both sides solved in turns iALS is at its fixed point."""
    r = whole.but(method="none", solver="closed", server_optimizer="adam", shared_lr=0.02, rounds=400)
    federation = engine_of("stacked", r, world)
    losses = [federation.step().loss for _ in range(400)]

    ials = lookup("baseline", "ials")(regularisation=0.05, unobserved=0.2, dim=4, sweeps=200)
    scores_UI = ials.scores(world)
    best = ials.objective(world) / world.n_users
    assert losses[-1] == pytest.approx(best, rel=2e-2) and scores_UI.shape == (world.n_users, world.n_items)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "fedncf"}, "needs a score that is linear in the item, and that of 'fedncf' is not"),
        ({"backbone": "fedrap"}, "needs items that are the same to all clients, and 'fedrap' keeps its own"),
        ({"backbone": "pfedrec"}, "needs items that are the same to all clients, and 'pfedrec' keeps its own"),
        ({"method": "fedmr"}, "needs items that stand still while a client trains: method 'fedmr' trains them there"),
        ({"method": "gfmfr"}, "method 'gfmfr' trains them there, or has a loss that is no square"),
    ],
)
def test_what_cannot_be_solved(world, whole, changes, message):
    with pytest.raises(fl.FedlabError, match=message):
        fl.train(whole.but(solver="closed", **changes), world, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unobserved": 0.0}, "unobserved=0.0: must be a positive number"),
        ({"unobserved": 1.5}, r"unobserved=1.5: lies in \(0, 1\]"),
        ({"solver": "newton"}, "unknown solver 'newton': there are: steps, closed"),
        ({"solver": "closed", "loss": "bce"}, "solver='closed' solves loss='implicit', and loss is 'bce'"),
    ],
)
def test_settings_that_mean_nothing(changes, message):
    with pytest.raises(fl.FedlabError, match=message):
        fl.Recipe(**changes)


def test_a_system_that_cannot_be_solved_says_so():
    rows, labels = torch.zeros(3, 2), torch.ones(3)
    with pytest.raises(fl.FedlabError, match="a client's system cannot be solved: raise reg"):
        solved(rows, labels, torch.zeros(2, 2), 0.1, torch.tensor(0.0))


def test_clipping_covers_the_matrix_too(world, whole):
    federation = engine_of("stacked", whole.but(method="none", solver="closed", clip=0.01), world)
    lengths = []
    federation.channel.watch(
        lambda upload, _: lengths.append(float(torch.cat([v.flatten() for v in upload.values.values()]).norm()))
    )
    federation.step()
    assert np.max(lengths) <= 0.01 * (1 + 1e-9) and len(lengths) == world.n_users
    samples = federation.samples_of(np.arange(3), 2)
    sent = {n: p.detach() for n, p in federation.broadcast().items()}
    work = train_clients(federation, samples, np.full(3, 1 / 3), sent)
    assert set(work.mixed) == {"item_table", "gram"}


@pytest.mark.parametrize("method", METHODS)
def test_more_server_steps_from_the_same_sums_are_the_same_in_both(world, whole, method):
    r = whole.but(method=method, solver="closed", server_steps=4, chunk=4, server_optimizer="adam", shared_lr=0.01)
    loop, stacked = (engine_of(engine, r, world) for engine in ("loop", "stacked"))
    for _ in range(3):
        a, b = loop.step(), stacked.step()
        assert (a.upload_bytes, a.download_bytes) == (b.upload_bytes, b.download_bytes)
    for name, value in loop.state().items():
        torch.testing.assert_close(stacked.state()[name], value, rtol=1e-8, atol=1e-8, msg=name)


def test_the_further_steps_are_along_the_objective_where_the_server_can_know_it(world, whole):
    """Of one client the mean client's curvature is its own, so the model is the objective itself."""
    r = whole.but(method="none", solver="closed", server_steps=3, clients=1 / world.n_users, shared_lr=1e-3)
    r = r.but(server_optimizer="sgd", id_lr_scale=1.0)
    federation = engine_of("stacked", r, world)
    table = federation.method.shared.item_table.detach().clone()
    federation.step()
    (u,) = federation.last_clients
    theta_D, router = parts_of(federation, int(u))
    for _ in range(3):
        leaf = table.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(written_out(federation, int(u), theta_D, router, {"item_table": leaf}), leaf)
        table = table - 1e-3 * gradient
    torch.testing.assert_close(federation.method.shared.item_table.detach(), table, rtol=1e-9, atol=1e-11)


def test_clients_then_tell_which_rows_they_hold_and_nothing_more_is_sent(world, whole):
    federations = [
        engine_of("stacked", whole.but(method="none", solver="closed", server_steps=n), world) for n in (1, 4)
    ]
    uploads: dict[int, fl.Upload] = {}
    federations[1].channel.watch(lambda upload, _: uploads.update({upload.client: upload}))
    one, four = (federation.step() for federation in federations)
    assert one.download_bytes == four.download_bytes
    assert four.upload_bytes - one.upload_bytes == 4 * len(world.train.items)
    for u, upload in uploads.items():
        assert upload.values["∇met"].tolist() == [1.0] * len(world.train[u])


def test_more_server_steps_need_fewer_rounds(world, whole):
    """To what iALS reaches."""
    best = {}
    for steps in (1, 10):
        r = whole.but(method="none", solver="closed", server_steps=steps, server_optimizer="adam", shared_lr=0.02)
        federation = engine_of("stacked", r, world)
        best[steps] = [federation.step().loss for _ in range(40)][-1]
    assert best[10] < best[1]


def test_more_server_steps_are_for_clients_that_solve(recipe):
    with pytest.raises(fl.FedlabError, match="server_steps=3: only of clients that solve"):
        recipe.but(server_steps=3)

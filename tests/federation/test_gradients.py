"""Every method around every backbone, in both engines, against autograd on the whole federated objective, written out
here without any of their code.

Eq. 7 of FedMR, Eq. 6 of FedVLR: J(D, γ, {θ_u, φ_u}) = Σ_u α_u L_u with L_u = (1/N_u) Σ_n loss(r̂_ui(n), y_n). With one
local epoch and SGD, a round moves every shared parameter by −η times its gradient of J, wherever it is trained (on the
clients' copies, which are averaged, or on the server, along gradients pulled back), and every private one by −η times
that of its own L_u. PFedRec, which alternates, takes the shared gradients at the private parameters' new values.
"""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import fedlab_mm as fl
from fedlab_mm.data.negatives import sample
from fedlab_mm.registry import lookup, names
from tests.conftest import but, engine_of, private_of, train_clients

BACKBONES = ["fedavg", "fcf", "fedncf", "pfedrec", "fedrap"]
METHODS = ["none", "mlp", "vbpr", "fedmr", "fedvlr"]


def linear(x, p, name):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def view_of(operator, z, p, name):
    if operator == "sum":
        return sum(z.values())
    if operator == "mlp":
        return linear(torch.relu(linear(torch.cat(list(z.values()), 1), p, f"{name}.hidden")), p, f"{name}.output")
    if operator == "gate":
        opened = [torch.sigmoid(linear(x, p, f"{name}.gates.{m}")) * x for m, x in enumerate(z.values())]
        return linear(torch.cat(opened, 1), p, f"{name}.output")
    if operator == "attention":
        scores = [torch.tanh(linear(x, p, f"{name}.hidden")) @ p[f"{name}.query.weight"].T for x in z.values()]
        weights = torch.softmax(torch.cat(scores, 1), 1)
        return sum(weights[:, m : m + 1] * x for m, x in enumerate(z.values()))
    return z[operator.removeprefix("solo:")]


def client_loss(backbone, method, p, q, features, operators, items, labels, own, t, r):
    """L_u from the shared parameters p and the client's own q."""
    personal, table = q.get("personal_table"), p.get("item_table")
    common = None
    if method == "none":
        rows = common = table
    elif method == "vbpr":
        rows = common = torch.cat(
            [p["fusion.item_table"], linear(torch.cat(list(features.values()), 1), p, "fusion.embed")], 1
        )
    else:
        ids = p["fusion.bank.id_embedding"]
        if personal is not None and method == "fedmr":
            common, ids = ids, ids + personal
        z = {m: linear(x, p, f"fusion.bank.maps.{m}") for m, x in {"id": ids, **features}.items()}
        views = [view_of(o, z, p, f"fusion.bank.operators.{j}") for j, o in enumerate(operators)]
        rows = views[0]
        if method != "mlp":
            summary = torch.cat([view[own].mean(0) for view in views])
            hidden = torch.relu(q["router.hidden.weight"] @ summary + q["router.hidden.bias"])
            w = torch.softmax(q["router.output.weight"] @ hidden + q["router.output.bias"], 0)
            rows = sum(w[j] * views[j] for j in range(len(views)))
        common = rows if common is None else common
    if personal is not None and method != "fedmr":
        rows = rows + personal
    if backbone == "fedncf":
        rows = table if method == "none" else table + torch.cat([rows, rows], 1)
        gmf, x = rows[items].chunk(2, 1)
        x = torch.cat([q["backbone.user_mlp"].expand_as(x), x], 1)
        for layer in range(3):
            x = torch.relu(linear(x, p, f"backbone.hidden.{layer}"))
        logits = linear(torch.cat([q["backbone.user_gmf"] * gmf, x], 1), p, "backbone.output")[:, 0]
    else:
        logits = rows[items] @ q["backbone.predictor.weight"][0] + q["backbone.predictor.bias"]
    y = torch.tensor(labels, dtype=logits.dtype)
    if backbone == "fcf":
        return ((1 + 3 * y) * (y - logits) ** 2 / 2).mean()
    loss = F.binary_cross_entropy_with_logits(logits, y)
    if backbone == "fedrap":
        ramp = math.tanh(t / 10)
        loss = loss - r.alpha * ramp * F.mse_loss(personal[items], common[items])
        loss = loss + r.beta * ramp * common[items].abs().mean()
    return loss


def grow(name, r, n_items, method, backbone):
    """What η is multiplied by: for tables with a row for each item."""
    leaf = name.rpartition(".")[2]
    if leaf == "id_embedding" or (leaf == "personal_table" and method == "fedmr"):
        return 30.0
    return float(n_items) if leaf in ("item_table", "personal_table") else 1.0


@pytest.mark.parametrize("name", names("engine"))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_round_is_a_gradient_step_on_the_federated_objective(world, recipe, name, backbone, method):
    operators = ["mlp"] if method == "mlp" else ["sum", "mlp", "gate", "attention", "solo:image"]
    r = but(
        recipe, method=method, backbone=backbone, engine=name, local_epochs=1, weight_decay=0.0,
        precision="float64", chunk=4, operators=tuple(operators), alpha=0.3, beta=0.2, lr=0.05, shared_lr=0.02, dim=8,
        seed=1, loss="squares" if backbone == "fcf" else None,
    )  # fmt: skip
    engine = engine_of(name, r, world)
    engine.step()  # away from the initial values, where all clients are alike
    samples = sample(world.train, world.n_items, np.arange(world.n_users), r.negatives, r.seed, 2)
    alpha = engine.aggregation.matrix(samples.lengths)[0]
    by_samples = world.train.lengths / world.train.lengths.sum()
    assert alpha == pytest.approx(by_samples if backbone in ("fedavg", "fedncf") else [1 / world.n_users] * 9)

    shared = {n: v.detach().clone().requires_grad_() for n, v in engine.method.shared.named_parameters()}
    private = {n: v.requires_grad_() for n, v in private_of(engine).items()}
    features = {m: x.double() for m, x in world.features.items()}
    features = {m: r.feature_scale * (x - x.mean(0)) / x.std(0, correction=0) for m, x in features.items()}
    eta_of = 0.97 if backbone == "fedrap" else 1.0  # the second round

    def losses(private):
        return [
            client_loss(
                backbone, method, shared, {n: leaf[u] for n, leaf in private.items()}, features, operators,
                *samples.of(u), world.train[u], 2, r,
            )
            for u in range(world.n_users)
        ]  # fmt: skip

    first = losses(private)
    of_private = torch.autograd.grad(sum(first), list(private.values()), retain_graph=True)
    new_private = {
        n: leaf.detach()
        - eta_of * (r.shared_lr if n == "personal_table" else r.lr) * grow(n, r, 14, method, backbone) * g
        for (n, leaf), g in zip(private.items(), of_private, strict=True)
    }
    objective = sum(
        a * loss for a, loss in zip(alpha, losses(new_private) if backbone == "pfedrec" else first, strict=True)
    )
    of_shared = torch.autograd.grad(objective, list(shared.values()), allow_unused=True)

    record = engine.step()
    assert record.loss == pytest.approx(sum(a * loss.item() for a, loss in zip(alpha, first, strict=True)))
    now = dict(engine.method.shared.named_parameters())
    stepped = {id(p) for group in (engine.optimizer.param_groups if engine.optimizer else []) for p in group["params"]}
    for (n, leaf), gradient in zip(shared.items(), of_shared, strict=True):
        assert gradient is not None and gradient.abs().max() > 0, f"{n} has no part in the objective"
        eta = r.shared_lr * grow(n, r, world.n_items, method, backbone)
        eta *= 1.0 if id(now[n]) in stepped else eta_of  # FedRAP's decay is the clients'
        torch.testing.assert_close(now[n].detach(), leaf.detach() - eta * gradient, rtol=1e-9, atol=1e-11, msg=n)
    after = private_of(engine)
    for n, expected in new_private.items():
        torch.testing.assert_close(after[n], expected, rtol=1e-9, atol=1e-11, msg=n)


def test_the_pulled_back_gradient_is_the_weighted_sum_of_the_clients_own(world, recipe):
    """Σ_u α_u ∇γ^(u) = VJP(Σ_u α_u ∂L_u/∂F), over several local epochs."""
    engine = engine_of("loop", recipe.but(engine="loop", precision="float64", backbone="fedavg"), world)
    samples = sample(world.train, world.n_items, np.arange(world.n_users), 4, 0, 1)
    alpha = engine.aggregation.matrix(samples.lengths)[0]
    parameters = list(engine.method.shared.parameters())
    by_client = [torch.zeros_like(p) for p in parameters]
    for c in range(world.n_users):
        sent = engine.method.broadcast()
        upload = engine.client_round(samples, c, {n: p.detach() for n, p in sent.items()}).upload
        own = torch.zeros_like(sent["views"])
        own[upload.rows] = upload.values["∇views"]
        for total, g in zip(by_client, torch.autograd.grad(sent["views"], parameters, own), strict=True):
            total += alpha[c] * g
    sent = engine.method.broadcast()
    mixed = train_clients(engine, samples, alpha, {n: p.detach() for n, p in sent.items()}).mixed
    for once, summed in zip(torch.autograd.grad(sent["views"], parameters, mixed["views"]), by_client, strict=True):
        torch.testing.assert_close(once, summed, rtol=1e-10, atol=1e-13)
        assert summed.abs().max() > 0


def test_fedmr_is_fedvlr_for_one_local_epoch_and_not_for_two(world, recipe):
    """Where γ and D are trained does not matter as long as clients take one step: Algorithms 1 of both papers meet."""
    r = recipe.but(precision="float64", weight_decay=0.0, view_scale=0.3)
    for epochs, same in ((1, True), (2, False)):
        states = []
        for method in ("fedmr", "fedvlr"):
            engine = engine_of("stacked", r.but(method=method, local_epochs=epochs), world)
            for _ in range(3):
                engine.step()
            states.append(engine.scores())
        assert torch.allclose(*states, rtol=1e-9, atol=1e-11) is same


def test_pfedrec_scores_with_the_items_that_a_client_kept(world, recipe):
    """Dual personalisation: a client's score of its own table, not of the server's mean, which comes after."""
    r = recipe.but(backbone="pfedrec", method="none", engine="loop", precision="float64", clients=0.4)
    engine = engine_of("loop", r, world)
    engine.step()
    sent = {n: p.detach().clone() for n, p in engine.method.broadcast().items()}
    before, t = engine.scores().clone(), engine.round + 1
    clients = engine.sample_clients(t)
    samples = sample(world.train, world.n_items, clients, r.negatives, r.seed, t)
    uploads = [engine.client_round(samples, c, sent).upload for c in range(len(clients))]
    engine.step()
    for upload in uploads:
        u = upload.client
        kept = upload.values["item_table"]
        assert kept.shape == sent["item_table"].shape and not upload.by_row  # the table whole
        theta, bias = engine.private["backbone.predictor.weight"][u, 0], engine.private["backbone.predictor.bias"][u]
        torch.testing.assert_close(engine.scores()[u], kept @ theta + bias)
        assert not torch.allclose(engine.scores()[u], engine.method.broadcast()["item_table"] @ theta + bias)
    rest = np.setdiff1d(np.arange(world.n_users), clients)
    assert torch.equal(engine.scores()[rest], before[rest])


def test_recipes_that_leave_the_rates_open():
    r = fl.Recipe(dataset="tiny", dim=4, id_dim=6)
    for backbone in BACKBONES:
        method = lookup("method", "fedvlr")(r.but(backbone=backbone), 14, {"image": torch.randn(14, 3)})
        assert method.rate("router.hidden.weight", "sgd") == lookup("backbone", backbone).lr
        assert method.rate("weight", "sgd") == 1.0
        assert method.rate("id_embedding", "sgd") == 30.0
        assert method.rate("id_embedding", "adam") == method.rate("weight", "adam") == 3e-3

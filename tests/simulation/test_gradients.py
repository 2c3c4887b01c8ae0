"""Both engines against autograd on the whole federated objective, written out without any of their code.

Eq. 6 of FedVLR: J(D, γ, {θ_u, φ_u}) = Σ_u α_u (1/N_u) Σ_n BCE(θ_u·F̄^(u)_i(n) + b_u, y_n).
With one local epoch and SGD, a round moves every parameter by -η times its gradient of J (private ones by the gradient
of their own L_u, which J scales by α_u).
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedlab_mm.data.negatives import sample
from fedlab_mm.registry import lookup, names


def objective(p, private, features, operators, samples, alpha_C, train):
    """J from named leaves, one client at a time; also L_u of each."""
    z = [p["id_embedding"] @ p["maps.id.weight"].T + p["maps.id.bias"]]
    z += [x @ p[f"maps.{m}.weight"].T + p[f"maps.{m}.bias"] for m, x in features.items()]
    views = []
    for j, operator in enumerate(operators):
        if operator == "sum":
            views.append(z[0] + z[1] + z[2])
        elif operator == "mlp":
            o = f"operators.{j}"
            hidden = torch.relu(torch.cat(z, 1) @ p[f"{o}.hidden.weight"].T + p[f"{o}.hidden.bias"])
            views.append(hidden @ p[f"{o}.output.weight"].T + p[f"{o}.output.bias"])
        else:
            o = f"operators.{j}"
            gates = [torch.sigmoid(z[m] @ p[f"{o}.gates.{m}.weight"].T + p[f"{o}.gates.{m}.bias"]) for m in range(3)]
            opened = torch.cat([g * x for g, x in zip(gates, z, strict=True)], 1)
            views.append(opened @ p[f"{o}.output.weight"].T + p[f"{o}.output.bias"])
    total, losses = 0.0, []
    for c, u in enumerate(samples.clients):
        q = {name: leaf[u] for name, leaf in private.items()}
        items, labels = samples.of(c)
        own = torch.cat([view[train[u]].mean(0) for view in views])
        hidden = torch.relu(q["router.hidden.weight"] @ own + q["router.hidden.bias"])
        w = torch.softmax(q["router.output.weight"] @ hidden + q["router.output.bias"], 0)
        fused = sum(w[j] * views[j] for j in range(len(views)))
        logits = fused[items] @ q["backbone.predictor.weight"][0] + q["backbone.predictor.bias"]
        losses.append(F.binary_cross_entropy_with_logits(logits, torch.tensor(labels, dtype=logits.dtype)))
        total = total + alpha_C[c] * losses[-1]
    return total, losses


@pytest.mark.parametrize("name", names("engine"))
@pytest.mark.parametrize("backbone", ["fedavg", "fcf"])
def test_a_fedvlr_round_is_a_gradient_step_on_the_federated_objective(world, recipe, name, backbone):
    r = recipe.but(
        method="fedvlr", backbone=backbone, engine=name, local_epochs=1, weight_decay=0.0, precision="float64", chunk=4
    )
    engine = lookup("engine", name)(r, world)
    engine.step()  # away from the initial values, where all clients are alike
    samples = sample(world.train, world.n_items, np.arange(world.n_users), r.negatives, r.seed, 2)
    alpha = engine.aggregation.matrix(samples.lengths)[0]
    if backbone == "fcf":
        assert alpha == pytest.approx(1 / world.n_users)
    else:
        assert alpha == pytest.approx(world.train.lengths / world.train.lengths.sum())

    shared = {n: v.detach().clone().requires_grad_() for n, v in engine.method.shared.named_parameters()}
    private = {n: v.clone().requires_grad_() for n, v in engine.private.items()}
    features = {m: engine.method.shared.get_buffer(f"feature_{m}") for m in ("image", "text")}
    total, losses = objective(shared, private, features, r.operators, samples, alpha, world.train)
    of_shared = dict(zip(shared, torch.autograd.grad(total, list(shared.values()), retain_graph=True), strict=True))
    of_private = dict(zip(private, torch.autograd.grad(sum(losses), list(private.values())), strict=True))

    record = engine.step()
    assert record.loss == pytest.approx(float(total.detach()))
    for n, now in engine.method.shared.named_parameters():
        eta = r.shared_lr * (30.0 if n == "id_embedding" else 1.0)
        torch.testing.assert_close(now.detach(), shared[n].detach() - eta * of_shared[n], rtol=1e-10, atol=1e-12, msg=n)
    for n, now in engine.private.items():
        torch.testing.assert_close(now, private[n].detach() - r.lr * of_private[n], rtol=1e-10, atol=1e-12, msg=n)


def test_the_pulled_back_gradient_is_the_weighted_sum_of_the_clients_own(world, recipe):
    """Σ_u α_u ∇γ^(u) = VJP(Σ_u α_u ∂L_u/∂F), over several local epochs."""
    engine = lookup("engine", "loop")(recipe.but(engine="loop", precision="float64", backbone="fedavg"), world)
    samples = sample(world.train, world.n_items, np.arange(world.n_users), 4, 0, 1)
    alpha = engine.aggregation.matrix(samples.lengths)[0]
    parameters = list(engine.method.shared.parameters())
    by_client = [torch.zeros_like(p) for p in parameters]
    for c in range(world.n_users):
        views = engine.method.broadcast()
        _, _, upload = engine.client_round(samples, c, views.detach())
        own = torch.zeros_like(views)
        own[:, upload.rows] = upload.values["view_gradients"]
        for total, g in zip(by_client, torch.autograd.grad(views, parameters, own), strict=True):
            total += alpha[c] * g
    views = engine.method.broadcast()
    mixed = engine.train_clients(samples, alpha, views.detach()).mixed_EID
    for once, summed in zip(torch.autograd.grad(views, parameters, mixed), by_client, strict=True):
        torch.testing.assert_close(once, summed, rtol=1e-10, atol=1e-13)
        assert summed.abs().max() > 0

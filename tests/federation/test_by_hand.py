"""One round of a world of two clients and three items, against numbers worked out on paper.

Client 0 holds item 0 and draws item 2 as its negative; client 1 holds item 1 and draws item 0. One dimension, one local
epoch, η = 1, equal weights α = 1/2, N = 2 samples each.
"""

import numpy as np
import pandas as pd
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.data import build
from fedlab_mm.data.negatives import Samples
from fedlab_mm.federation.state import RankOne
from fedlab_mm.registry import names
from tests.conftest import engine_of, train_clients

SAMPLES = Samples(
    clients=np.array([0, 1]),
    indptr=np.array([0, 2, 4]),
    items=np.array([0, 2, 1, 0]),
    labels=np.array([1, 0, 1, 0]),
    n_positives=np.array([1, 1]),
)


def hand_world(name, **changes):
    log = pd.DataFrame({"user": [0, 0, 0, 1, 1, 1], "item": [0, 1, 2, 1, 0, 2], "timestamp": [0, 1, 2] * 2})
    data = build("hand", log, pd.DataFrame({"title": list("abc")}), {"image": np.eye(3)})
    recipe = fl.Recipe(dataset="hand", engine=name, rounds=1, local_epochs=1, lr=1.0, id_lr_scale=1.0, dim=1, k=2).but(
        **changes
    )
    return engine_of(name, recipe, data)


def numbers(tensor):
    return tensor.detach().flatten().tolist()


@pytest.mark.parametrize("name", names("engine"))
def test_without_fusion(name):
    engine = hand_world(name, method="none")
    engine.private["backbone.predictor.weight"][:] = 2.0
    engine.private["backbone.predictor.bias"][:] = 0.0
    sent = {"item_table": torch.zeros(3, 1)}
    work = train_clients(engine, SAMPLES, np.array([0.5, 0.5]), sent)
    # All scores are 0, all predictions 1/2: residuals (1/2 - y)/N = -1/4 for the positive, +1/4 for the negative.
    # ∂L/∂D_i = residual · θ = ∓1/2, so client 0 moves D_0 to 1/2 and D_2 to -1/2; client 1 moves D_1 and D_0 alike.
    # α (D^(u) - D), summed: D_0: (1/2)(1/2) + (1/2)(-1/2) = 0; D_1: 1/4; D_2: -1/4.
    assert numbers(work.mixed["item_table"]) == pytest.approx([0, 0.25, -0.25])
    # ∂L/∂θ = Σ residual · D_i = 0, for D is 0; ∂L/∂b = -1/4 + 1/4 = 0.
    assert numbers(work.private["backbone.predictor.weight"]) == pytest.approx([2, 2])
    assert numbers(work.private["backbone.predictor.bias"]) == pytest.approx([0, 0])
    assert numbers(work.loss_C) == pytest.approx([np.log(2)] * 2)


@pytest.mark.parametrize("name", names("engine"))
def test_without_fusion_a_second_epoch_sees_the_first(name):
    engine = hand_world(name, method="none", local_epochs=2)
    engine.private["backbone.predictor.weight"][:] = 2.0
    engine.private["backbone.predictor.bias"][:] = 0.0
    work = train_clients(engine, SAMPLES, np.array([1.0, 0.0]), {"item_table": torch.zeros(3, 1)})
    # Client 0 alone counts. After one epoch D_0 = 1/2, D_2 = -1/2, θ = 2: scores 1 and -1, σ(1) = 0.731059.
    # Residuals (σ(1) - 1)/2 = -0.134471 and σ(-1)/2 = 0.134471; D_0 moves by 0.268941 to 0.768941, D_2 to -0.768941.
    # ∂L/∂θ = -0.134471 · 1/2 + 0.134471 · (-1/2) = -0.134471.
    assert numbers(work.mixed["item_table"]) == pytest.approx([0.768941, 0, -0.768941], abs=1e-6)
    assert numbers(work.private["backbone.predictor.weight"])[0] == pytest.approx(2.134471, abs=1e-6)
    assert float(work.loss_C[0]) == pytest.approx((np.log(2) + np.log(1 + np.exp(-1))) / 2)


@pytest.mark.parametrize("name", names("engine"))
def test_fedvlr(name):
    engine = hand_world(name, method="fedvlr", operators=("sum", "mlp"))
    for parameter in engine.private.values():
        parameter[:] = 0.0
    engine.private["backbone.predictor.weight"][:] = 1.0
    views = torch.tensor([[[1.0], [-1.0], [2.0]], [[-1.0], [1.0], [-2.0]]])
    work = train_clients(engine, SAMPLES, np.array([0.5, 0.5]), {"views": views.transpose(0, 1).contiguous()})
    # A router of zeros weighs both views 1/2, so they cancel: all scores 0, residuals ∓1/4 as above.
    # ∂L/∂F_ji = w_j θ residual = ∓1/8 in both views: client 0 puts -1/8 on item 0 and 1/8 on item 2, client 1 puts -1/8
    # on item 1 and 1/8 on item 0. Half of each: item 0: 0, item 1: -1/16, item 2: 1/16.
    assert numbers(work.mixed["views"].transpose(0, 1)) == pytest.approx([0, -1 / 16, 1 / 16] * 2)
    # ∂L/∂w_j = Σ residual θ F_ji. Client 0: -1/4 · 1 + 1/4 · 2 = 1/4 and -1/4. Client 1: 1/4 + 1/4 = 1/2 and -1/2.
    # Through the softmax, w_j (g_j - Σ w g) = g_j / 2, as Σ w g = 0: the output bias falls by it.
    assert numbers(work.private["router.output.bias"]) == pytest.approx([-1 / 8, 1 / 8, -1 / 4, 1 / 4])
    # The rest of the router gets nothing: its hidden layer and output weights are zero.
    for part in ("router.hidden.weight", "router.hidden.bias", "router.output.weight"):
        new = work.private[part]
        assert not (new.apply(engine.private[part].clone()) if isinstance(new, RankOne) else new).any()
    assert numbers(work.private["backbone.predictor.weight"]) == pytest.approx([1, 1])

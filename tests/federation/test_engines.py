"""Every backbone × method: the engines agree, company and order do not matter, and nothing private leaves a client."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.backbones import LinearBackbone
from fedlab_mm.data.negatives import sample
from fedlab_mm.federation.backends.gram import Gram
from fedlab_mm.federation.backends.kernels import Vmapped
from fedlab_mm.federation.backends.linear import LinearScores
from fedlab_mm.federation.backends.stacked import kernels_of
from fedlab_mm.federation.client import Work
from fedlab_mm.federation.state import RankOne
from fedlab_mm.losses import Loss
from fedlab_mm.registry import _FAMILIES, lookup, names, register
from tests.conftest import but, engine_of, private_of, tiny, train_clients

PAIRS = [(b, m) for b in names("backbone") for m in names("method")]
BOTH = pytest.mark.parametrize(("backbone", "method"), PAIRS)
ENGINES = pytest.mark.parametrize("name", names("engine"))


def run(recipe, data, n_rounds=4):
    engine = engine_of(recipe.engine, recipe, data)
    records = [engine.step() for _ in range(n_rounds)]
    return engine, records


def assert_same(a, b, tolerance):
    other = b.state()
    for name, value in a.state().items():
        torch.testing.assert_close(other[name], value, rtol=tolerance, atol=tolerance, msg=name)


@BOTH
@pytest.mark.parametrize("clients", [1.0, 0.4])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_stacked_is_loop(world, recipe, backbone, method, clients, optimizer):
    """In double precision to 1e-9: no approximation, whatever the chunk."""
    lr = {"sgd": 0.2, "adam": 0.01}[optimizer]
    r = but(
        recipe, backbone=backbone, method=method, clients=clients, optimizer=optimizer, lr=lr, shared_lr=None,
        precision="float64", chunk=4,
    )  # fmt: skip
    plain, records = run(r.but(engine="loop"), world)
    fast, fast_records = run(r.but(engine="stacked"), world)
    assert_same(plain, fast, 1e-9)
    torch.testing.assert_close(fast.scores(), plain.scores(), rtol=1e-9, atol=1e-9)
    for a, b in zip(records, fast_records, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=1e-9)
        assert (a.upload_bytes, a.download_bytes) == (b.upload_bytes, b.download_bytes)
        assert np.array_equal(a.clients, b.clients)
    if fast.method.routes:
        torch.testing.assert_close(fast.router_weights(), plain.router_weights(), rtol=1e-9, atol=1e-9)
    assert (plain.scores() - engine_of("loop", r, world).scores()).abs().max() > 1e-3  # it did train


@BOTH
def test_the_kernels_by_hand_are_the_general_one(world, recipe, backbone, method, monkeypatch):
    """`stacked` has one kernel for any model, and faster ones; where both can train, they do the same."""
    loss = "squares" if backbone == "fcf" else None
    r = recipe.but(backbone=backbone, method=method, loss=loss, precision="float64", chunk=4)
    fast, _ = run(r, world, 2)
    by_hand = kernels_of(fast.method)[:-1]
    if method == "fedmr":
        assert by_hand == ([] if backbone in ("fedrap", "pfedrec") else [Gram])
    elif method in UPLOADS:  # a newcomer's may fit or not
        assert by_hand == ([] if backbone == "fedncf" else [LinearScores])
    monkeypatch.setattr("fedlab_mm.federation.backends.stacked.kernels_of", lambda method: [Vmapped])
    general, _ = run(r, world, 2)
    assert_same(general, fast, 1e-11)
    torch.testing.assert_close(general.scores(), fast.scores(), rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@BOTH
def test_stacked_is_loop_on_the_toy_set_in_single_precision(small_toy, backbone, method):
    settings = {"lr": 0.01, "id_dim": 32, "clients": 0.5, "fit_epochs": 10, "groups": 4}
    r = but(fl.Recipe(backbone=backbone, method=method), **settings)
    plain, _ = run(r.but(engine="loop"), small_toy, 2)
    fast, _ = run(r, small_toy, 2)
    torch.testing.assert_close(fast.scores(), plain.scores(), rtol=1e-5, atol=1e-5)
    if method != "gfmfr":  # who is in which group may hang on a last digit, and steps of Adam enlarge it
        assert_same(plain, fast, 1e-5)


@BOTH
def test_the_size_of_a_chunk_changes_nothing(world, recipe, backbone, method):
    r = recipe.but(backbone=backbone, method=method, precision="float64")
    reference, _ = run(r.but(chunk=100), world, 2)
    for chunk in (1, 2, 5):
        assert_same(reference, run(r.but(chunk=chunk), world, 2)[0], 1e-11)


@ENGINES
@BOTH
def test_the_order_of_clients_changes_nothing(world, recipe, name, backbone, method):
    r = recipe.but(backbone=backbone, method=method, engine=name, precision="float64", chunk=4)
    engine = engine_of(name, r, world)
    sent = {n: p.detach() for n, p in engine.method.broadcast().items()}
    order = np.random.default_rng(0).permutation(world.n_users)

    def work(clients):
        samples = sample(world.train, world.n_items, clients, 4, 0, 1)
        return train_clients(engine, samples, engine.aggregation.matrix(samples.lengths)[0], sent)

    straight, mixed_up = work(np.arange(world.n_users)), work(order)
    for key, value in straight.mixed.items():
        torch.testing.assert_close(mixed_up.mixed[key], value, rtol=1e-11, atol=1e-11)
    for key, value in straight.private.items():
        other = mixed_up.private[key]
        if isinstance(value, RankOne):  # nobody has trained yet, so all have the same matrix to begin with
            value, other = (change.apply(engine.private[key].clone()) for change in (value, other))
        torch.testing.assert_close(other, value[order], rtol=1e-11, atol=1e-11)


# What may leave a client, by method and then by backbone; all else is private.
UPLOADS = {
    "none": {"item_table"},
    "gfmfr": {"item_table"},  # and the prediction function, which it shows
    "prior": {"item_table"},
    "mlp": {"∇views"},
    "vbpr": {"∇views"},
    "fedvlr": {"∇views"},
    "fedmr": {"id_embedding", *(f"∇maps.{s}.{p}" for s in ("id", "image", "text") for p in ("weight", "bias"))},
}
OF_FEDNCF = {
    f"backbone.{layer}.{p}" for layer in ("hidden.0", "hidden.1", "hidden.2", "output") for p in ("weight", "bias")
}
PRIVATE = {
    "fedncf": {"backbone.user_gmf", "backbone.user_mlp"},
    "fedrap": {"backbone.predictor.weight", "backbone.predictor.bias", "personal_table"},
}
ROUTER = {f"router.{layer}.{p}" for layer in ("hidden", "output") for p in ("weight", "bias")}


@BOTH
def test_what_leaves_a_client(world, recipe, backbone, method):
    """The upload holds what the paper says and no more, and its bytes are those that the round reports."""
    engine = engine_of("loop", recipe.but(engine="loop", backbone=backbone, method=method), world)
    declared = {f"∇{n}" if part.upload == "gradient" else n for n, part in engine.method.parts.items() if part.upload}
    own = {n for n in declared if "backbone." not in n and not n.startswith("∇operators.")}
    expected = UPLOADS.get(method, own) | (OF_FEDNCF | {"item_table"} if backbone == "fedncf" else set())
    private = PRIVATE.get(backbone, {"backbone.predictor.weight", "backbone.predictor.bias"})
    if method == "gfmfr":
        expected = expected | (private - {"personal_table"})
        private = private | {"distill_ratio"}
    private = private | (ROUTER if method in ("fedmr", "fedvlr") else set())
    assert set(private_of(engine)) == private
    sent = {n: p.detach() for n, p in engine.method.broadcast().items()}
    assert not private & set(sent)
    samples = sample(world.train, world.n_items, np.arange(world.n_users), 4, 0, 1)
    total = 0
    for c in range(world.n_users):
        done = engine.client_round(samples, c, sent)
        moved, upload = done.private, done.upload
        leaves = {n for n in upload.values if not n.startswith("∇operators.")}
        assert leaves == expected
        assert upload.rows.tolist() == np.unique(samples.of(c)[0]).tolist()
        for part in upload.by_row:
            value = upload.values.get(part, upload.values.get(f"∇{part}"))
            assert value.shape == (len(upload.rows), *sent[part].shape[1:])
        for name, p in moved.items():
            rows = len(upload.rows) if name == "personal_table" else None
            assert p.shape == private_of(engine)[name][c][:rows].shape
        total += upload.nbytes
    assert engine.step().upload_bytes == total
    assert [n for n in sent if engine.method.sends_rows(n)] == [n for n in sent if n in upload.by_row]


@ENGINES
@BOTH
def test_only_the_rounds_clients_move_and_their_state_lives_on(world, recipe, name, backbone, method):
    engine = engine_of(name, but(recipe, backbone=backbone, method=method, engine=name, clients=0.3), world)
    initial = private_of(engine)
    shared = {k: v.clone() for k, v in engine.method.shared.state_dict().items()}
    assert all((v == v[:1]).all() for v in initial.values())  # all begin alike
    first = engine.step().clients
    rest = np.setdiff1d(np.arange(world.n_users), first)
    moved = private_of(engine)
    for key in moved.keys() - {"distill_ratio"}:  # there is nothing to distil from in the first round
        assert torch.equal(moved[key][rest], initial[key][rest])
        assert not torch.equal(moved[key][first], initial[key][first]), key
    for key, value in engine.method.shared.state_dict().items():
        assert not torch.equal(value, shared[key]), f"{key} never moves"
    second = engine.step().clients
    assert not set(first) & set(second)
    for key in moved:
        assert torch.equal(private_of(engine)[key][first], moved[key][first])


@BOTH
def test_rows_that_no_client_touches_stay(world, recipe, backbone, method):
    r = but(recipe, backbone=backbone, method=method, clients=0.1, negatives=1, weight_decay=0.0, groups=1)
    engine = engine_of("stacked", r, world)
    before = engine.state()
    clients = engine.step().clients
    touched = np.unique(sample(world.train, world.n_items, clients, 1, r.seed, 1).items)
    rest = np.setdiff1d(np.arange(world.n_items), touched)
    assert len(rest)
    after = engine.state()
    for key in before:
        if key.endswith(("item_table", "id_embedding")):
            assert method == "prior" or torch.equal(after[key][rest], before[key][rest])  # which the server draws
            assert (after[key][touched] != before[key][touched]).any()
        elif key == "personal_table.pairs":
            assert not set((after[key] % world.n_items).tolist()) & set(rest)


def test_clients_rest_a_round_where_there_are_enough():
    data = tiny(n_users=10)
    for share, rests in ((0.5, True), (0.2, True), (0.1, True), (0.6, False), (1.0, False)):
        engine = engine_of("stacked", fl.Recipe(dim=2, id_dim=2, k=5, clients=share), data)
        chosen = [engine.step().clients for _ in range(6)]
        assert {len(c) for c in chosen} == {round(share * 10)}
        if rests:
            assert not any(set(a) & set(b) for a, b in pairwise(chosen))


@ENGINES
@BOTH
def test_divergence_names_round_and_client_and_leaves_the_state_alone(world, recipe, name, backbone, method):
    r = but(recipe, backbone=backbone, method=method, engine=name, shared_lr=1e12, lr=1e12, alpha=1.0)
    engine = engine_of(name, r, world)
    with pytest.raises(fl.DivergedError, match="training diverged in round") as caught:
        for _ in range(50):
            before = engine.state()
            engine.step()
    assert caught.value.round == engine.round + 1
    for key, value in engine.state().items():
        assert torch.equal(value, before[key]), key
        assert torch.isfinite(value.double()).all() or "kept" in key


def test_a_server_step_that_overflows_is_undone(world, recipe):
    engine = engine_of("stacked", recipe.but(server_optimizer="adam"), world)
    engine.step()
    before = engine.state()
    sent = engine.method.broadcast()
    with pytest.raises(fl.DivergedError, match="round 2 at the server's update"):
        engine.update_server(
            sent, {n: torch.full_like(p, 1e38) for n, p in sent.items()}, Work.of_nobody(), np.zeros(0), 2
        )
    for key, value in engine.state().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.slow
def test_a_backbone_that_is_not_linear_and_a_loss_of_ones_own(world, recipe):
    """A newcomer's class in one file: the general kernel trains it, no engine has to know of it."""

    @register("loss", "test huber")
    class Huber(Loss):
        def of(self, logits, labels):
            return torch.nn.functional.huber_loss(logits, labels, reduction="none")

    @register("backbone", "test cubic")
    class Cubic(LinearBackbone):
        loss = "test huber"

        def forward(self, items_NW):
            return self.predictor(items_NW).squeeze(-1) ** 3

    @register("backbone", "test linear")
    class LinearScores(LinearBackbone):
        loss = "test huber"

    try:
        for backbone in ("test cubic", "test linear"):
            r = recipe.but(backbone=backbone, precision="float64", lr=0.05, shared_lr=0.05, id_lr_scale=1.0)
            for method in names("method"):
                pair = run(r.but(engine="loop", method=method), world)[0], run(r.but(method=method), world)[0]
                assert_same(*pair, 1e-9)
    finally:
        del _FAMILIES["backbone"]["test cubic"], _FAMILIES["backbone"]["test linear"], _FAMILIES["loss"]["test huber"]


class Lifted(LinearBackbone):
    def lift(self, fused_ND):
        return 2 * fused_ND


class SharedPredictor(LinearBackbone):
    private = frozenset()


class SharedBias(LinearBackbone):
    private = frozenset({"predictor.weight"})


class TableBeside(LinearBackbone):
    own_table = True


class KeptPersonal(lookup("backbone", "fedrap")):
    keeps_items = True


class Attracted(lookup("backbone", "fedrap")):
    def penalty(self, common_NW, personal_NW, share_N, recipe, round):
        return (share_N * (common_NW + personal_NW).square().mean(dim=-1)).sum(dim=-1)


class Unpunished(lookup("backbone", "fedrap")):
    def penalty(self, common_NW, personal_NW, share_N, recipe, round):
        return share_N.new_zeros(share_N.shape[:-1])


class Scaled(LinearBackbone):
    """A parameter of shape (), private here and shared below."""

    private = LinearBackbone.private | {"scale"}

    def __init__(self, dim):
        super().__init__(dim)
        self.scale = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, items_NW):
        return self.scale * super().forward(items_NW)


class ScaledAlike(Scaled):
    private = LinearBackbone.private


class Smoothed(lookup("loss", "bce")):
    def of(self, logits, labels):
        return super().of(logits, 0.9 * labels + 0.05)


@pytest.mark.parametrize("method", names("method"))
@pytest.mark.parametrize(
    "newcomer",
    [
        Lifted, SharedPredictor, SharedBias, TableBeside, KeptPersonal, Attracted, Unpunished, Smoothed, Scaled,
        ScaledAlike,
    ],
)  # fmt: skip
def test_gradients_by_hand_are_taken_only_where_they_are_right(world, recipe, method, newcomer):
    """A subclass that differs in one thing trains and scores as it does in the loop."""
    family = "loss" if newcomer is Smoothed else "backbone"
    register(family, "test newcomer")(newcomer)
    try:
        r = recipe.but(method=method, precision="float64", lr=0.05, shared_lr=0.05, id_lr_scale=1.0)
        r = r.but(**{family: "test newcomer"})
        plain, fast = (run(r.but(engine=e), world, 3)[0] for e in ("loop", "stacked"))
        assert_same(plain, fast, 1e-9)
        torch.testing.assert_close(fast.scores(), plain.scores(), rtol=1e-9, atol=1e-9)
    finally:
        del _FAMILIES[family]["test newcomer"]


@pytest.mark.parametrize("newcomer", [Scaled, ScaledAlike])
@pytest.mark.parametrize("method", ["none", "fedmr", "gfmfr"])
def test_a_number_alone_is_guarded_grouped_saved_and_loaded_too(small_toy, recipe, tmp_path, method, newcomer):
    """A parameter without an axis; and an operator's, which under FedMR each client uploads a gradient of."""

    @register("operator", "test scaled")
    class ScaledSum(lookup("operator", "sum")):
        def __init__(self, n_signals, dim):
            super().__init__(n_signals, dim)
            self.scale = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, signals_MID):
            return self.scale * super().forward(signals_MID)

    register("backbone", "test newcomer")(newcomer)
    try:
        r = recipe.but(
            dataset="toy", method=method, backbone="test newcomer", operators=("test scaled",), rounds=2, lr=0.05,
            shared_lr=0.05, id_lr_scale=1.0, noise=1e-4, clip=None if method == "gfmfr" else 0.5, precision="float64",
        )  # fmt: skip
        plain, fast = (fl.train(r.but(engine=e), small_toy, progress=False) for e in ("loop", "stacked"))
        assert_same(plain.model, fast.model, 1e-9)
        scale = "private.backbone.scale" if newcomer is Scaled else "shared.backbone.scale"
        assert fast.last_state[scale].shape == ((small_toy.n_users,) if newcomer is Scaled else ())
        assert (fast.last_state[scale] != 1.5).all()
        fast.save(tmp_path / "run")
        again = fl.load_run(tmp_path / "run", small_toy)
        assert torch.equal(again.last_state[scale], fast.last_state[scale])
    finally:
        del _FAMILIES["backbone"]["test newcomer"], _FAMILIES["operator"]["test scaled"]

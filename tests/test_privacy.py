"""What leaves a client under each mechanism, and that ε is what two other accountants say."""

import math

import numpy as np
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm import privacy
from fedlab_mm.draws import keys, normals, uniforms
from fedlab_mm.federation.mechanisms import HideRows, Noise, ServerNoise
from fedlab_mm.registry import names
from tests.conftest import engine_of, private_of, tiny

SETTINGS = [(1.0, 0.1, 100), (2.0, 1.0, 50), (0.7, 0.05, 400), (4.0, 0.3, 1000)]
GUARDS = [
    {"noise": 0.01},
    {"clip": 0.05},
    {"clip": 0.05, "noise": 0.01, "rows": "all"},
    {"noise": 0.01, "rows": "flipped", "row_epsilon": 1.0},
    {"clip": 0.05, "noise_multiplier": 1.0, "aggregation": "equal"},
    {"clip": 0.05, "noise_multiplier": 0.5, "aggregation": "equal", "sampling": "poisson", "clients": 0.4},
    {"clip": 0.05, "noise_multiplier": 0.5, "aggregation": "equal", "sampling": "fixed", "clients": 0.4, "noise": 1e-3},
]


@pytest.fixture
def recipe():
    return fl.Recipe(
        dataset="tiny", rounds=3, local_epochs=2, dim=4, id_dim=6, k=5, lr=0.1, shared_lr=0.1, precision="float64"
    )


# ε


@pytest.mark.slow
@pytest.mark.parametrize(("z", "q", "rounds"), SETTINGS)
def test_epsilon_is_dp_accountings_own_answer(z, q, rounds):
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    gaussian = dp_event.GaussianDpEvent(z)
    event = dp_event.SelfComposedDpEvent(gaussian if q == 1 else dp_event.PoissonSampledDpEvent(q, gaussian), rounds)
    for name, accountant in (("pld", PLDAccountant()), ("rdp", RdpAccountant())):
        accountant.compose(event)
        assert fl.epsilon(z, q, rounds, 1e-5, accountant=name) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("z", "q", "rounds"), SETTINGS)
def test_epsilon_is_within_two_per_cent_of_opacus(z, q, rounds):
    from opacus.accountants.analysis import rdp

    orders = [1 + x / 10 for x in range(1, 100)] + list(range(11, 200))
    spent = rdp.compute_rdp(q=q, noise_multiplier=z, steps=rounds, orders=orders)
    theirs, _ = rdp.get_privacy_spent(orders=orders, rdp=spent, delta=1e-5)
    assert fl.epsilon(z, q, rounds, 1e-5, accountant="rdp") == pytest.approx(theirs, rel=0.02)
    assert (
        fl.epsilon(z, q, rounds, 1e-5, accountant="pld") <= theirs
    )  # privacy loss distributions are the tighter account


@pytest.mark.parametrize("target", [0.5, 3.0, 40.0, 1000.0])
def test_the_inverse_reaches_epsilon_and_not_much_less(target):
    z = fl.noise_multiplier(target, sampling_rate=0.2, rounds=60, delta=1e-4)
    assert 0.97 * target <= fl.epsilon(z, 0.2, 60, 1e-4) <= target


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize(
    ("target", "q", "rounds"), [(0.02, 0.001, 60), (0.1, 0.01, 60), (0.3, 0.1, 60), (3.0, 1.0, 20)]
)
def test_the_inverse_by_either_account_at_small_and_large_rates(target, q, rounds, accountant):
    z = fl.noise_multiplier(target, q, rounds, 1e-5, accountant)
    close = 0.97 if accountant == "pld" else 0.8  # between two of Rényi's orders its bound falls in steps
    assert close * target <= fl.epsilon(z, q, rounds, 1e-5, accountant) <= target
    assert fl.epsilon(0.99 * z, q, rounds, 1e-5, accountant) > target  # the least that is enough


def test_the_inverse_asks_no_account_but_the_one_asked_for():
    """Rényi's orders are finite: its bound stays above 0.001 whatever the noise; the tight one does not."""
    assert fl.epsilon(2000, 0.1, 60, 1e-5, "pld") < 0.001
    z = fl.noise_multiplier(0.001, 0.1, 60, 1e-5, "pld")
    assert 1000 < z < 2000 and 0.97e-3 <= fl.epsilon(z, 0.1, 60, 1e-5, "pld") <= 1e-3
    with pytest.raises(fl.FedlabError, match=r"leaks more by accountant='rdp'.* or accountant='pld', whose bound is "):
        fl.noise_multiplier(0.001, 0.1, 60, 1e-5)


def test_the_rate_of_a_fixed_sample_is_not_rounded_down():
    rates = [1e-9, 1.4e-6, 1.6e-6]
    spent = [fl.epsilon(0.5, q, 10**6, 1e-5, sampling="fixed") for q in rates]
    assert spent == sorted(set(spent))


@pytest.mark.slow
def test_the_tight_account_needs_less_noise():
    loose, tight = (fl.noise_multiplier(5.0, 0.2, 60, 1e-4, accountant=a) for a in ("rdp", "pld"))
    assert 0.85 * loose < tight < loose


def test_swapping_a_client_costs_more_than_adding_one():
    fixed = fl.epsilon(2.0, 0.1, 100, 1e-5, accountant="rdp", sampling="fixed")
    assert fixed > fl.epsilon(2.0, 0.1, 100, 1e-5, accountant="rdp")


def test_what_a_recipe_proves(recipe):
    proof = privacy.of_recipe(recipe.but(noise=0.1), n_users=204)
    assert proof["epsilon"] == proof["local epsilon"] == math.inf and proof["delta"] < 1 / 204
    private = recipe.but(clip=1.0, noise_multiplier=1.0, aggregation="equal", clients=0.5, sampling="poisson")
    assert privacy.of_recipe(private, 200)["epsilon"] == fl.epsilon(1.0, 0.5, 3, 200**-1.1)
    local = recipe.but(clip=1.0, noise=4.0, rows="all")
    assert privacy.of_recipe(local, 200)["local epsilon"] == fl.epsilon(1.0, 1.0, 3, 200**-1.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fl.epsilon(-1.0, 0.1, 10, 1e-5), "noise_multiplier=-1.0: must be a finite number, not negative"),
        (lambda: fl.epsilon(1.0, 0.0, 10, 1e-5), r"sampling_rate=0.0: must be in \(0, 1\]"),
        (lambda: fl.epsilon(1.0, 1.5, 10, 1e-5), "sampling_rate=1.5"),
        (lambda: fl.epsilon(1.0, 0.1, 10, 1.0), r"delta=1.0: must be in \(0, 1\)"),
        (lambda: fl.epsilon(1.0, 0.1, 10, 0.0), "delta=0.0"),
        (lambda: fl.epsilon(1.0, 0.1, 0, 1e-5), "rounds=0: must be a whole number, at least 1"),
        (lambda: fl.epsilon(1.0, 0.1, 1.5, 1e-5), "rounds=1.5: must be a whole number, at least 1"),
        (lambda: fl.epsilon(1.0, 0.1, math.nan, 1e-5), "rounds=nan: must be a whole number"),
        (lambda: fl.epsilon(1.0, 0.1, math.inf, 1e-5), "rounds=inf: must be a whole number"),
        (lambda: fl.epsilon(1.0, 0.1, True, 1e-5), "rounds=True: must be a whole number"),
        (lambda: fl.epsilon(1.0, 0.1, "10", 1e-5), "rounds='10': must be a whole number"),
        (lambda: fl.noise_multiplier(1.0, 0.1, math.nan, 1e-5), "rounds=nan: must be a whole number"),
        (lambda: fl.epsilon(math.inf, 0.1, 10, 1e-5), "noise_multiplier=inf: must be a finite number"),
        (lambda: fl.epsilon(math.nan, 0.1, 10, 1e-5), "noise_multiplier=nan: must be a finite number"),
        (lambda: fl.epsilon(1e-160, 0.1, 10, 1e-5), "noise_multiplier=1e-160: must be 0, or lie between 1e-50"),
        (lambda: fl.epsilon(1e300, 0.1, 10, 1e-5), r"noise_multiplier=1e\+300: must be 0, or lie between"),
        (lambda: fl.epsilon(1.0, math.nan, 10, 1e-5), r"sampling_rate=nan: must be in \(0, 1\]"),
        (lambda: fl.epsilon(1.0, 0.1, 10, math.nan), r"delta=nan: must be in \(0, 1\)"),
        (lambda: fl.epsilon(1.0, 0.1, 10, "1e-5"), "delta=1e-5: must be in"),
        (lambda: fl.epsilon(True, 0.1, 10, 1e-5), "noise_multiplier=True: must be a finite number"),
        (lambda: fl.noise_multiplier(math.inf, 0.1, 10, 1e-5), "epsilon=inf: must be positive and finite"),
        (lambda: fl.noise_multiplier(math.nan, 0.1, 10, 1e-5), "epsilon=nan: must be positive and finite"),
        (lambda: privacy.of_recipe(fl.Recipe(), 204, rounds=1.5), "rounds=1.5: must be a whole number"),
        (lambda: privacy.of_recipe(fl.Recipe(), 1), "n_users=1: must be a whole number, at least 2"),
        (lambda: fl.epsilon(1.0, 0.1, 10, 1e-5, accountant="moments"), "unknown accountant 'moments'"),
        (lambda: fl.epsilon(1.0, 0.1, 10, 1e-5, sampling="shuffle"), "unknown sampling 'shuffle'"),
        (lambda: fl.epsilon(1.0, 0.1, 10, 1e-5, "pld", sampling="fixed"), "accounted for by accountant='rdp' only"),
        (lambda: fl.noise_multiplier(0.0, 0.1, 10, 1e-5), "epsilon=0.0: must be positive and finite"),
        (lambda: fl.noise_multiplier(1e-7, 1.0, 10_000, 1e-12), "cannot be reached in 10000 rounds at delta=1e-12"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(fl.FedlabError, match=message):
        call()


# Recipes that would claim what is not proven


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise": -0.1}, "noise=-0.1: must not be negative"),
        ({"clip": 0.0}, "clip=0.0: must be a positive number"),
        ({"noise_multiplier": -1.0}, "noise_multiplier=-1.0: must not be negative"),
        ({"rows": "some"}, "rows: unknown row rule 'some': there are: all, flipped, touched"),
        ({"rows": "flipped"}, "'flipped' needs one"),
        ({"row_epsilon": 1.0}, "'flipped' needs one, others none"),
        ({"sampling": "with memory"}, "unknown sampling 'with memory'"),
        ({"noise_multiplier": 1.0}, "needs clip, a bound on each client's upload"),
        ({"noise_multiplier": 1.0, "clip": 1.0, "aggregation": "weighted"}, "weighs a client by how much data it has"),
        ({"noise_multiplier": 1.0, "clip": 1.0, "clients": 0.5}, "under 'rested' a round depends on the last"),
        ({"noise_multiplier": 1.0, "clip": 1.0, "negatives_by": "popularity"}, "popularity is counted on all clients"),
    ],
)
def test_a_claim_without_a_proof_is_refused(recipe, world, changes, message):
    with pytest.raises(fl.FedlabError, match=message):
        fl.train(recipe.but(**changes), world, progress=False)


# The mechanisms


@pytest.mark.parametrize("guard", GUARDS, ids=lambda g: " ".join(f"{k}={v}" for k, v in g.items()))
@pytest.mark.parametrize("method", ["none", "fedvlr", "fedmr"])
@pytest.mark.parametrize("backbone", names("backbone"))
def test_engines_agree_under_every_mechanism(recipe, world, backbone, method, guard):
    runs = [
        fl.train(recipe.but(engine=e, backbone=backbone, method=method, **guard), world, progress=False)
        for e in ("loop", "stacked")
    ]
    assert runs[0].scores_UI.numpy() == pytest.approx(runs[1].scores_UI.numpy(), abs=1e-8)
    bytes_of = [r.history[r.history["metric"] == "upload_bytes"]["value"].tolist() for r in runs]
    assert bytes_of[0] == bytes_of[1]
    for name, value in private_of(runs[0].model).items():
        assert value.numpy() == pytest.approx(private_of(runs[1].model)[name].numpy(), abs=1e-8)


def test_the_chunk_and_the_company_do_not_change_the_noise(recipe, world):
    noisy = recipe.but(engine="stacked", method="fedvlr", noise=0.1, rows="all", clip=1.0)
    whole, one = (fl.train(noisy.but(chunk=c), world, progress=False) for c in (None, 1))
    assert whole.scores_UI.numpy() == pytest.approx(one.scores_UI.numpy(), abs=1e-9)


def uploads_of(recipe, data):
    seen = []
    engine = engine_of("loop", recipe, data)
    engine.channel.watch(lambda upload, sent: seen.append((upload, {n: v.clone() for n, v in sent.items()})))
    engine.step()
    return seen, engine


def change(upload, sent, label):
    name, value = label.removeprefix("∇"), upload.values[label]
    if label.startswith("∇"):
        return value
    return value - (sent[name][upload.rows] if name in upload.by_row else sent[name])


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("method", ["none", "fedvlr", "fedmr"])
@pytest.mark.parametrize("backbone", names("backbone"))
def test_a_clipped_upload_is_never_longer_than_the_bound(recipe, world, backbone, method, precision):
    loose, _ = uploads_of(recipe.but(backbone=backbone, method=method, precision=precision), world)
    clipped, _ = uploads_of(recipe.but(backbone=backbone, method=method, precision=precision, clip=0.05), world)
    for (upload, sent), (tight, _) in zip(loose, clipped, strict=True):
        free = torch.cat([change(upload, sent, n).double().flatten() for n in upload.values])
        cut = torch.cat([change(tight, sent, n).double().flatten() for n in tight.values])
        assert cut.norm() <= 0.05 + 1e-6 * (precision == "float32")  # sent + change − sent rounds
        assert cut.numpy() == pytest.approx((free * min(1, 0.05 / free.norm())).numpy(), abs=1e-5)


def test_the_papers_noise_has_its_variance_in_each_upload_and_after_aggregation(recipe):
    data = tiny(n_users=60, n_items=40)
    noisy = recipe.but(method="none", dim=50, noise=0.25, rows="all", aggregation="equal", lr=1e-9, shared_lr=1e-9)
    seen, engine = uploads_of(noisy, data)
    drawn = torch.stack([change(upload, sent, "item_table") for upload, sent in seen])
    assert drawn.var() == pytest.approx(0.25, rel=0.02) and abs(drawn.mean()) < 0.01
    assert engine.last_mixed["item_table"].var() == pytest.approx(0.25 / 60, rel=0.1)
    flat = drawn.flatten(1).numpy()
    assert np.abs(np.corrcoef(flat) - np.eye(60)).max() < 0.12  # clients' noises are unrelated


def test_layers_do_not_share_their_noise():
    """Else one layer of an upload, taken from another, would be without noise."""
    noise = Noise(fl.Recipe(noise=1.0))
    like, who = torch.zeros(1, 2000, dtype=torch.float64), np.array([3])
    names = ["hidden.0.weight", "hidden.1.weight", "hidden.0.bias", "blocks.0.query.weight", "item_table"]
    drawn = torch.cat([noise.draw(name, like, who, 1, None) for name in names]).numpy()
    assert np.abs(np.corrcoef(drawn) - np.eye(len(names))).max() < 0.1


@pytest.mark.parametrize(
    ("sampling", "clients", "swapped"), [("rested", 1.0, 1), ("poisson", 0.5, 1), ("fixed", 0.5, 2)]
)
def test_the_servers_noise_is_scaled_to_the_sensitivity_of_the_mean(recipe, sampling, clients, swapped):
    data = tiny(n_users=40, n_items=60)
    private = recipe.but(
        method="none", dim=80, clip=0.5, noise_multiplier=3.0, aggregation="equal", sampling=sampling, clients=clients
    )
    plain = recipe.but(method="none", dim=80, clip=0.5, aggregation="equal", sampling=sampling, clients=clients)
    mixed = [uploads_of(r, data)[1].last_mixed["item_table"] for r in (private, plain)]
    expected = 3.0 * 0.5 * swapped / (40 * clients)
    assert (mixed[0] - mixed[1]).std() == pytest.approx(expected, rel=0.05)


def test_a_fixed_divisor_under_poisson_sampling_and_rounds_that_nobody_comes_to(recipe, world):
    sparse = recipe.but(method="none", clients=0.12, sampling="poisson", aggregation="equal", rounds=30)
    engine = engine_of("loop", sparse, world)
    sizes = []
    for _ in range(30):
        sizes.append(len(engine.sample_clients(engine.round + 1)))
        engine.step()
    assert 0 in sizes and max(sizes) > 1
    for clients in ([], [1], [1, 4, 5]):
        from fedlab_mm.data.negatives import sample

        drawn = sample(world.train, world.n_items, np.array(clients, dtype=np.int64), 4, 0, 1)
        assert engine.weights_of(drawn).tolist() == [1 / engine.n_wanted] * len(clients)


def test_sampling_without_memory_takes_a_client_twice_in_a_row_as_often_as_chance(recipe):
    data = tiny(n_users=40)
    for sampling, expected in (("fixed", 10), ("poisson", 10), ("rested", 0)):
        engine = engine_of("loop", recipe.but(clients=0.5 if sampling != "rested" else 0.4, sampling=sampling), data)
        both, before = [], np.zeros(0)
        for t in range(1, 200):
            now = engine.sample_clients(t)
            both.append(len(np.intersect1d(before, now)))
            before = engine.last_clients = now
        assert np.mean(both) == pytest.approx(expected, abs=1)


def test_flipped_rows_are_flipped_with_the_promised_chance():
    stage = HideRows(fl.Recipe(rows="flipped", row_epsilon=1.5))
    truth = torch.rand(300, 500, generator=torch.Generator().manual_seed(0)) < 0.2
    told = stage.told_CI(truth, np.arange(300), 1)
    lie = 1 / (1 + math.exp(1.5))
    assert (told != truth).double().mean() == pytest.approx(lie, abs=0.005)
    assert (told & truth).sum() / truth.sum() == pytest.approx(1 - lie, abs=0.01)


def test_generators_are_normal_uniform_and_unrelated_across_purposes():
    from scipy.stats import kstest

    key = keys(3, 2, np.array([7]))
    assert kstest(normals(key, np.arange(20_000)), "norm").pvalue > 0.001
    assert kstest(uniforms(key, np.arange(20_000)), "uniform").pvalue > 0.001
    other = keys(3, 2, np.array([7]), salt=1)
    assert abs(np.corrcoef(normals(key, np.arange(9999)), normals(other, np.arange(9999)))[0, 1]) < 0.04


@pytest.mark.slow
def test_an_auditor_with_a_canary_stays_below_epsilon():
    """A client whose upload always has the same direction and full length is in or out of a round; the best threshold
    on what the server publishes along that direction gives a lower bound on ε (Jagielski et al. 2020), with the
    confidence of Clopper and Pearson. Without noise to scale, the same audit breaks the claim."""
    from scipy.stats import beta

    z, clip, n, trials, delta = 1.0, 0.5, 10, 3000, 1e-3
    claimed = fl.epsilon(z, 1.0, 1, delta, accountant="pld")
    canary = torch.zeros(6, 4, dtype=torch.float64)
    canary[2, 1] = clip

    def seen(present: bool, z: float, seed: int) -> float:
        mixed = {"item_table": canary * present / n}
        ServerNoise(fl.Recipe(clip=clip, noise_multiplier=z, seed=seed)).at_server(mixed, 1 / n, t=1)
        return float((mixed["item_table"] * canary).sum() / clip)

    def bound(z: float) -> float:
        inside = np.array([seen(True, z, s) for s in range(trials)])
        outside = np.array([seen(False, z, s) for s in range(trials, 2 * trials)])
        best = 0.0
        for threshold in np.quantile(outside, np.linspace(0.5, 0.995, 40)):
            hits, false = (inside > threshold).sum(), (outside > threshold).sum()
            low = beta.ppf(0.005, hits, trials - hits + 1)
            high = beta.ppf(0.995, false + 1, trials - false)
            if low > delta:
                best = max(best, math.log((low - delta) / high))
        return best

    assert 0.5 * claimed < bound(z) < claimed
    assert bound(z / 4) > claimed

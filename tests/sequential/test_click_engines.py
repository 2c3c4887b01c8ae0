"""loop = stacked for every click backbone; padding and later showings change nothing; a run is kept and resumed."""

import dataclasses

import numpy as np
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm import registry
from fedlab_mm.aggregation import Aggregation
from fedlab_mm.federation.clicker import block_of
from fedlab_mm.registry import names
from fedlab_mm.sequential.layers import Linear
from fedlab_mm.sequential.sasrec import FedSASRec
from tests.conftest import but, engine_of
from tests.sequential.conftest import small_log

TRANSFORMERS = ("fedsasrec", "fedhstu", "fedllama")
EVERY = [(b, "none") for b in names("click backbone")] + [(b, "mrff") for b in TRANSFORMERS]
SETTINGS = {
    "one step": {},
    "several": {"local_epochs": 3},
    "adam": {"optimizer": "adam", "lr": 0.01, "local_epochs": 2, "weight_decay": 0.01},
    "noise": {"noise": 0.01, "server_optimizer": "adam", "lr": 0.01},
    "sampled": {"clients": 0.5, "dropout": 0.3, "gate": "weighted", "weight_decay": 0.1},
    "heads": {"heads": 2, "aggregation": "weighted", "dropout": 0.5, "local_epochs": 2, "noise": 0.01},
    "items": {"history": "items", "balance": 1.0},
    "random": {"gate": "random", "clients": 0.5},
}


def trained(recipe, log, n_rounds=3):
    engine = engine_of(recipe.engine, recipe, log)
    losses = [engine.step().loss for _ in range(n_rounds)]
    return engine, losses


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("backbone", "method"), EVERY)
def test_both_engines_do_the_same(recipe, log, backbone, method, setting):
    recipe = but(recipe, backbone=backbone, method=method, **SETTINGS[setting])
    (loop, losses), (stacked, same) = (trained(recipe.but(engine=e), log) for e in ("loop", "stacked"))
    assert losses == pytest.approx(same, abs=1e-9)
    for (name, a), b in zip(loop.state().items(), stacked.state().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9, msg=name)
    np.testing.assert_allclose(loop.predict("test")["logit"], stacked.predict("test")["logit"], atol=1e-9)


@pytest.mark.parametrize(("backbone", "method"), EVERY)
def test_padding_changes_nothing(recipe, log, backbone, method):
    engine, _ = trained(recipe.but(backbone=backbone, method=method, history="items"), log, 1)
    apart = engine.sequences.windows("test", np.arange(log.n_users))
    together = engine.backend.logits([apart])[0]
    for u in range(log.n_users):
        alone = engine.backend.logits([engine.sequences.windows("test", np.array([u]))])[0][0]
        torch.testing.assert_close(together[u, : len(alone)], alone, atol=1e-12, rtol=0)


@pytest.mark.parametrize("gate", ["plain", "weighted"])
def test_a_gate_does_not_read_what_is_held_out(recipe, gate):
    """Of two test showings, the click on the first is not told before both are predicted… but to the second."""
    log = small_log(last=2)
    engine, _ = trained(recipe.but(gate=gate, max_length=6), log, 2)
    windows = engine.sequences.windows("test", np.arange(log.n_users))
    end = windows.lengths.long()
    assert (windows.known.sum(dim=1) == end - 1).all()
    before, rows = engine.backend.logits([windows])[0], torch.arange(log.n_users)
    windows.click[rows, end - 1] = 1 - windows.click[rows, end - 1]
    after = engine.backend.logits([windows])[0]
    torch.testing.assert_close(before[rows, end - 2], after[rows, end - 2])
    assert not torch.allclose(before[rows, end - 1], after[rows, end - 1])


@pytest.mark.parametrize("backbone", TRANSFORMERS)
def test_what_comes_later_is_not_seen(recipe, log, backbone):
    """Without MRFF, whose gate reads a training sequence as a whole: its group is the user's, not a showing's."""
    engine, _ = trained(recipe.but(backbone=backbone, method="none"), log, 1)
    windows = engine.sequences.windows("test", np.array([5]))
    before = engine.backend.logits([windows])[0]
    windows.item_codes[:, -1] = windows.item_codes[:, 0]
    windows.click[:, -1] = 1 - windows.click[:, -1]
    after = engine.backend.logits([windows])[0]
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.equal(before[:, -1], after[:, -1])


def test_a_click_is_not_told_before_it_is_predicted(recipe, log):
    engine, _ = trained(recipe.but(method="none"), log, 2)
    windows = engine.sequences.windows("test", np.arange(log.n_users))
    before = engine.backend.logits([windows])[0]
    last = windows.lengths.long()
    windows.click[torch.arange(log.n_users), last] = 1 - windows.click[torch.arange(log.n_users), last]
    real = windows.real > 0
    torch.testing.assert_close(engine.backend.logits([windows])[0][real], before[real])


def test_item_zero_is_an_item(recipe, log):
    """An ID of 0 is not padding: another item in its place gives another prediction."""
    engine, _ = trained(recipe.but(method="none", history="items"), log, 1)
    windows = engine.sequences.windows("test", np.array([6]))
    windows.item_codes[:, 1] = torch.from_numpy(engine.sequences.item_codes[0])
    first = engine.backend.logits([windows])[0]
    other = int((engine.sequences.item_codes != engine.sequences.item_codes[0]).any(axis=1).argmax())
    windows.item_codes[:, 1] = torch.from_numpy(engine.sequences.item_codes[other])
    assert not torch.allclose(engine.backend.logits([windows])[0][:, 1:], first[:, 1:])


def test_windows_by_hand(log):
    from fedlab_mm.sequential import Sequences

    table = log.interactions
    sequences = Sequences(log, max_length=4, dtype=torch.float64)
    own = table[table["user"] == 4]  # seven showings, five to train
    windows = sequences.windows("train", np.array([4])).of(0)
    assert len(windows.real) == 4 and windows.position.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(windows.click.numpy(), own["click"].to_numpy()[:5])
    assert windows.started.tolist() == [1, 1, 1, 1]
    np.testing.assert_array_equal(windows.item_codes.numpy(), sequences.item_codes[own["item"].to_numpy()[:5]])
    first = sequences.windows("train", np.array([0])).of(0)  # three showings, one to train: nothing before it
    assert first.started.tolist() == [0] and first.real.tolist() == [1] and first.position.tolist() == [3]
    test = sequences.windows("test", np.array([0])).of(0)
    assert test.started.tolist() == [0, 1, 1] and len(test.click) == 4


def test_groups_layers_are_averaged_within_the_group(recipe, log):
    """After one round, group g's layer is the mean of what its own clients made of it; a group without any stays."""
    loop = engine_of("loop", recipe.but(engine="loop"), log)
    before = {n: p.clone() for n, p in loop.shared.items()}
    expected = {n: [[] for _ in range(3)] for n in loop.model.by_group}
    for u in range(log.n_users):
        windows = loop.sequences.windows("train", np.array([u])).of(0)
        own = {n: p[u] for n, p in loop.private.items()}
        done = loop.clicker(1).train(np.array([u]), own, loop.shared, windows, stacked=False)
        for name in loop.model.by_group:
            g = int(done.group_L[block_of(name)])
            expected[name][g].append(before[name][g] + done.change[name])
    loop.step()
    for name, groups in expected.items():
        for g, members in enumerate(groups):
            mean = torch.stack(members).mean(dim=0) if members else before[name][g]
            torch.testing.assert_close(loop.shared[name][g], mean)
    assert loop.groups_of_users().shape == (log.n_users, 2)


def test_the_balance_loss_by_hand(recipe, log):
    """α N Σ_l Σ_i f_i p_i, with f counted over the round before (Eq. 7); none in the first round."""
    engine, _ = trained(recipe.but(engine="loop"), log, 1)
    counted = np.stack([np.bincount(engine.group_UL[:, b], minlength=3) / log.n_users for b in range(2)])
    np.testing.assert_allclose(engine.share_LG.numpy(), counted)
    windows = engine.sequences.windows("train", np.array([5])).of(0)
    parameters = {**engine.frozen, **engine.shared, **{n: p[5] for n, p in engine.private.items()}}
    output = torch.func.functional_call(engine.model, parameters, (windows,))
    of_clicks = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, windows.label)
    balance = 3 * sum(float(counted[b] @ output.routing.probability_LG[b].detach().numpy()) for b in range(2))
    total = engine.model.loss(output, windows, engine.share_LG)
    assert float(total.detach()) == pytest.approx(float(of_clicks.detach()) + 0.1 * balance)
    assert float(engine.model.loss(output, windows, None).detach()) == pytest.approx(float(of_clicks.detach()))


@pytest.mark.parametrize("gate", ["plain", "weighted"])
def test_what_teaches_the_gate(recipe, log, gate):
    """The plain gate has no gradient from clicks, the weighted one has."""
    engine, _ = trained(recipe.but(gate=gate, engine="loop"), log, 1)
    windows = engine.sequences.windows("train", np.array([6])).of(0)
    parameters = {n: p.clone().requires_grad_() for n, p in engine.shared.items()}
    own = {n: p[6] for n, p in engine.private.items()}
    output = torch.func.functional_call(engine.model, {**engine.frozen, **parameters, **own}, (windows,))
    loss = engine.model.loss(output, windows, None)
    gradient = torch.autograd.grad(loss, parameters["blocks.1.ffn.switch.weight"], allow_unused=True)[0]
    assert (gradient is None) == (gate == "plain")


def test_a_random_gate_draws_each_users_group_once(recipe, log):
    engine, _ = trained(recipe.but(gate="random", balance=0.0, rounds=3), log, 1)
    first = engine.groups_of_users()
    engine.step()
    assert np.array_equal(first, engine.groups_of_users()) and np.array_equal(first[:, 0], first[:, 1])
    assert set(first[:, 0]) == {0, 1, 2}
    other, _ = trained(recipe.but(gate="random", seed=1), log, 1)
    assert not np.array_equal(first, other.groups_of_users())


def test_group_layers_are_separate(recipe, log):
    engine, _ = trained(recipe, log, 0)
    weights = engine.shared["blocks.0.ffn.group.hidden.weight"]
    assert weights.shape[0] == 3 and not torch.equal(weights[0], weights[1])


def test_what_stays_and_what_leaves(recipe, log):
    engine, _ = trained(recipe, log, 1)
    assert set(engine.private) == {"user"} | {n for n in engine.private if ".ffn.own." in n}
    assert not any(".ffn.own." in n or n.startswith("user") for n in engine.shared)
    up, down = engine.numbers()
    by_group = sum(engine.shared[n].numel() for n in engine.model.by_group)
    assert down == sum(p.numel() for p in engine.shared.values()) and up == down - by_group * 2 // 3
    changed = [u for u in range(log.n_users) if not torch.equal(engine.private["user"][u], engine.private["user"][0])]
    assert changed


def test_a_run_is_kept_and_goes_on(recipe, log, tmp_path):
    recipe = recipe.but(server_optimizer="adam", clients=0.6, rounds=4)
    whole = fl.train(recipe, log, progress=False)
    fl.train(recipe.but(rounds=2), log, progress=False).save(tmp_path / "run")
    resumed = fl.train(recipe, log, progress=False, resume=fl.load_run(tmp_path / "run", log))
    assert whole.test == pytest.approx(resumed.test, nan_ok=True)
    for name, value in whole.last_state.items():
        assert torch.equal(value, resumed.last_state[name]), name
    assert set(whole.test) == {"auc", "logloss", "gauc"}
    assert list(whole.groups().columns) == [0, 1]
    assert list(whole.predictions().columns) == ["user", "click", "logit"] and len(whole.predictions()) == log.n_users


def test_a_state_of_another_recipe_is_refused(recipe, log):
    engine, _ = trained(recipe, log, 1)
    other, _ = trained(recipe.but(groups=2), log, 0)
    with pytest.raises(fl.FedlabError, match="saved state does not fit this recipe and data: shared"):
        other.load_state(engine.state())


@pytest.mark.slow
def test_compare_and_pair(recipe, log):
    table = fl.compare([recipe, recipe.but(method="none")], range(2), log, progress=False)
    assert list(table.index) == ["rate", "user rate", "logistic", "trees", "fedsasrec + mrff", "fedsasrec + none"]
    assert {"auc", "logloss", "gauc"} == set(table.columns.get_level_values(0))
    for metric in ("auc", "logloss"):
        result = fl.paired(table, "fedsasrec + mrff", "fedsasrec + none", metric)
        assert result["users"] == log.n_users and 0 < result["p"] <= 1
    assert fl.paired(table, "trees", "trees", "auc")["difference"] == 0
    best = fl.tune(recipe, {"lr": [0.01, 0.1]}, log, progress=False)
    assert best.lr in (0.01, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "fcf"}, "holds showings and clicks, which backbone 'fcf' is not for; there are: fedhstu"),
        ({"method": "fedvlr"}, "which method 'fedvlr' is not for; there are: mrff, none"),
        ({"backbone": "fedpa"}, "'fedpa' has none: take fedsasrec, fedhstu or fedllama"),
        ({"heads": 3}, "heads=3: must divide the width of a showing, 4"),
        ({"groups": None}, "method 'mrff' needs a number of groups"),
        ({"clip": 1.0}, "clip=1.0: 'fedsasrec \\+ mrff' does not read it; it is a setting of methods that rank items"),
    ],
)
def test_what_cannot_be(recipe, log, changes, message):
    with pytest.raises(fl.FedlabError, match=message):
        fl.train(recipe.but(**changes), log, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"balance": -0.1}, "balance=-0.1"),
        ({"gate": "soft"}, "unknown gate 'soft': there are: plain, random, through, weighted"),
        ({"history": "all"}, "unknown history 'all'"),
        ({"max_length": 0}, "max_length=0: must be at least 1"),
        ({"backbone": "fedsasrek"}, "unknown backbone 'fedsasrek'"),
    ],
)
def test_settings_that_mean_nothing(recipe, changes, message):
    with pytest.raises(fl.FedlabError, match=message):
        recipe.but(**changes)


def test_a_click_model_ranks_nothing(recipe, log, world):
    run = fl.train(recipe.but(rounds=1), log, progress=False)
    with pytest.raises(fl.FedlabError, match="predicts clicks and ranks nothing"):
        run.recommend(0)
    with pytest.raises(fl.FedlabError, match="holds items to rank, which backbone 'fedsasrec' is not for"):
        fl.train(fl.Recipe(dataset="tiny", backbone="fedsasrec", method="none"), world, progress=False)


def test_showings_out_of_order_are_named(recipe, log):
    shuffled = log.interactions.copy()
    shuffled.loc[[20, 21], "timestamp"] = shuffled.loc[[21, 20], "timestamp"].to_numpy()
    with pytest.raises(fl.FedlabError, match=r"showing 21 of user \d comes before the one above it"):
        fl.train(recipe, dataclasses.replace(log, interactions=shuffled), progress=False)


@pytest.mark.parametrize("engine", ["loop", "stacked"])
def test_a_group_that_nobody_came_to_stays(recipe, log, engine):
    """Under the server's Adam too, whose moments would carry it on."""
    recipe = recipe.but(engine=engine, server_optimizer="adam", clients=0.3, lr=0.05, groups=4)
    federation = engine_of(engine, recipe, log)
    stayed = 0
    for _ in range(8):
        before = {n: federation.shared[n].clone() for n in federation.model.by_group}
        clients = federation.step().clients
        for name, value in before.items():
            absent = np.setdiff1d(np.arange(4), federation.group_UL[clients, block_of(name)])
            stayed += len(absent)
            assert torch.equal(federation.shared[name][absent], value[absent]), name
    assert stayed


@pytest.mark.parametrize("server_optimizer", [None, "adam"])
def test_a_round_that_nobody_comes_to(recipe, log, server_optimizer):
    recipe = recipe.but(sampling="poisson", clients=0.15, rounds=12, server_optimizer=server_optimizer)
    federations = [engine_of(e, recipe.but(engine=e), log) for e in ("loop", "stacked")]
    sizes = [[len(f.step().clients) for _ in range(12)] for f in federations]
    assert sizes[0] == sizes[1] and 0 in sizes[0]
    for a, b in zip(federations[0].state().values(), federations[1].state().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_gates_move_by_sgd_under_a_clients_adam(recipe, log):
    engine, _ = trained(recipe.but(optimizer="adam", lr=0.01, gate_lr=0.1), log, 0)
    before = engine.shared["blocks.0.ffn.switch.weight"].clone()
    engine.step()
    engine.step()
    assert 0 < (engine.shared["blocks.0.ffn.switch.weight"] - before).abs().max() < 0.05


def test_a_head_of_odd_width_cannot_be_rotated(recipe, log):
    with pytest.raises(fl.FedlabError, match="heads=4: rotary positions turn pairs"):
        trained(recipe.but(backbone="fedllama", heads=4), log, 0)


def test_logs_that_cannot_be_learnt_from(recipe, log):
    table = log.interactions
    early = table["split"].where(~((table["user"] == 5) & (table["timestamp"] == 10)), "test")
    with pytest.raises(fl.FedlabError, match="of user 5 is held out, and the one after it is not"):
        fl.train(recipe, dataclasses.replace(log, interactions=table.assign(split=early)), progress=False)
    none = table["split"].where(table["user"] != 2, "test")
    with pytest.raises(fl.FedlabError, match="user 2 has no training showing"):
        fl.train(recipe, dataclasses.replace(log, interactions=table.assign(split=none)), progress=False)
    always = table["click"].where(table["split"] != "valid", 1)
    with pytest.raises(fl.FedlabError, match="validation showings do not hold both"):
        fl.train(recipe, dataclasses.replace(log, interactions=table.assign(click=always)), progress=False)
    many = table["split"].where((table["user"] != 6) | (table["timestamp"] < 20), "test")
    with pytest.raises(fl.FedlabError, match="max_length=4: a user of small has 7 test showings"):
        fl.train(recipe, dataclasses.replace(log, interactions=table.assign(split=many)), progress=False)


def test_what_is_not_for_clicks_says_so(recipe, log):
    run = fl.train(recipe.but(rounds=1), log, progress=False)
    with pytest.raises(fl.FedlabError, match="ranks nothing"):
        _ = run.scores_UI
    with pytest.raises(fl.FedlabError, match="ranks nothing"):
        run.signals()
    with pytest.raises(fl.FedlabError, match="unknown split 'foo': there are: train, valid, test"):
        run.predictions("foo")
    with pytest.raises(fl.FedlabError, match="attacks ask which items"):
        fl.attack("items", recipe, log, progress=False)
    with pytest.raises(fl.FedlabError, match="count_click_parameters"):
        fl.count_parameters(recipe, 3, 3)
    with pytest.raises(fl.FedlabError, match="unknown backbone 'fedsasrek': did you mean 'fedsasrec'"):
        recipe.but(backbone="fedsasrek")


def test_adapters_stay_with_their_client(recipe, log):
    engine, _ = trained(recipe.but(backbone="fedpa", method="none"), log, 1)
    adapters = {f"{layer}.{way}.weight" for layer in ("hidden", "second", "output") for way in ("down", "up")}
    assert set(engine.private) == {"user"} | adapters and not adapters & set(engine.shared)


def test_a_client_of_weight_zero_keeps_learning_its_own(recipe, log):
    class Some(Aggregation):
        def matrix(self, n_samples_C):
            weight_C = (n_samples_C > 2).astype(float)
            return (weight_C / weight_C.sum())[None]

    states = []
    for name in ("loop", "stacked"):
        engine = engine_of(name, recipe.but(engine=name), log)
        engine.aggregation = Some()
        for _ in range(2):
            engine.step()
        states.append(engine.state())
    for (name, a), b in zip(states[0].items(), states[1].values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9, msg=name)


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("split", 4, "", "split of showing 4 is ''; there are 'train', 'valid', 'test'"),
        ("click", 5, 2, "click of showing 5 is 2; there are 0, 1"),
        ("split", None, "train", "no showing has the split 'valid'"),
    ],
)
def test_showings_that_cannot_be(recipe, log, column, row, value, message):
    table = log.interactions.copy()
    table.loc[slice(None) if row is None else row, column] = value
    with pytest.raises(fl.FedlabError, match=message):
        fl.train(recipe, dataclasses.replace(log, interactions=table), progress=False)


def test_a_code_that_there_is_not(recipe, log):
    items = log.items.copy()
    items.loc[2, "kind"] = 9
    with pytest.raises(fl.FedlabError, match="kind of item 2 is 9; its codes are 0 to 3"):
        fl.train(recipe, dataclasses.replace(log, items=items), progress=False)


def test_a_log_without_attributes_of_users(recipe, log):
    bare = dataclasses.replace(log, attributes={**log.attributes, "user": {}})
    states = [trained(recipe.but(engine=e), bare, 1)[0].state() for e in ("loop", "stacked")]
    for a, b in zip(states[0].values(), states[1].values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


def test_fields_that_mean_nothing_here(recipe, log):
    with pytest.raises(
        fl.FedlabError,
        match=r"without=\('image',\): 'fedsasrec \+ mrff' does not read it; it is a setting of methods that rank",
    ):
        fl.train(recipe.but(without=("image",)), log, progress=False)


class _Own(FedSASRec):
    """What one who adds a backbone may do wrong."""

    wrong = "late"

    def __init__(self, *args):
        super().__init__(*args)
        if self.wrong == "late":
            self.extra = Linear(2, 2)

    def build(self):
        super().build()
        if self.wrong == "torch's":
            self.extra = torch.nn.Linear(2, 2)
        elif self.wrong == "dropout":
            self.extra = torch.nn.Dropout(0.5)
        elif self.wrong == "buffer":
            self.register_buffer("extra", torch.zeros(2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("late", "extra.weight would not be trained: make it in `build`"),
        ("torch's", "extra is torch's Linear; take the layers of fedlab_mm.sequential.layers"),
        ("dropout", "extra is torch's Dropout; .* the recipe's dropout"),
        ("buffer", "it has a buffer"),
    ],
)
def test_a_backbone_of_ones_own_is_told_what_it_did(recipe, log, monkeypatch, wrong, message):
    monkeypatch.setattr(_Own, "wrong", wrong)
    monkeypatch.setitem(registry._FAMILIES["click backbone"], "own", _Own)
    with pytest.raises(fl.FedlabError, match=message):
        fl.train(recipe.but(backbone="own", method="none"), log, progress=False)

"""One new file each, outside of the package: recipe, command line, `compare`, both backends know it, and nothing else
had to be touched. The files are in `newcomers/`, to be read as examples."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm import cli, privacy
from fedlab_mm.registry import _FAMILIES, names
from tests.conftest import engine_of

FILES = Path(__file__).parent / "newcomers"
FAST = ["--rounds", "1", "--dim", "4", "--negatives", "1", "--local-epochs", "1"]


@pytest.fixture
def brought(tmp_path):
    """Copies a newcomer's file elsewhere, runs it, and forgets what it registered."""
    before = {family: dict(members) for family, members in _FAMILIES.items()}

    def bring(name):
        path = Path(shutil.copy(FILES / f"{name}.py", tmp_path))
        cli.use(path)
        return path

    names("method")  # the package's own first
    yield bring
    for family, members in _FAMILIES.items():
        members.clear()
        members.update(before.get(family, {}))


def in_both(recipe, world, rounds=3):
    """Under both backends; to the same numbers."""
    federations = [engine_of(engine, recipe.but(precision="float64"), world) for engine in ("loop", "stacked")]
    for _ in range(rounds):
        loop, stacked = (federation.step() for federation in federations)
        assert loop.loss == pytest.approx(stacked.loss, rel=1e-9)
        assert (loop.upload_bytes, loop.download_bytes) == (stacked.upload_bytes, stacked.download_bytes)
    for name, value in federations[0].state().items():
        torch.testing.assert_close(federations[1].state()[name], value, rtol=1e-9, atol=1e-9, msg=name)
    return federations[0]


def on_the_command_line(path, *options):
    assert cli.main(["--use", str(path), "train", "--dataset", "toy", *FAST, *options]) == 0


@pytest.mark.parametrize("backbone", ["fcf", "fedncf", "fedrap", "pfedrec"])
def test_a_method_with_a_setting_and_a_memory(brought, world, recipe, backbone, tmp_path):
    brought("method")
    assert len((FILES / "method.py").read_text(encoding="utf-8").splitlines()) <= 100
    r = recipe.but(method="clustered", backbone=backbone, clusters=3, clients=0.7)
    federation = in_both(r, world)
    assert set(federation.groups_of_users()) <= {-1, 0, 1, 2}
    torch.testing.assert_close(federation.scores(), engine_with(federation, r, world).scores(), rtol=1e-9, atol=1e-9)
    whole = fl.train(r, world, progress=False)
    fl.train(r.but(rounds=2), world, progress=False).save(tmp_path / "run")
    resumed = fl.train(r, world, progress=False, resume=fl.load_run(tmp_path / "run", world))
    for name, value in whole.last_state.items():
        assert torch.equal(resumed.last_state[name], value), name
    table = fl.compare([r, r.but(method="none")], [0], world, progress=False)
    assert f"{backbone} + clustered" in table.index
    with pytest.raises(fl.FedlabError, match=r"clusters=3: 'fcf \+ none' does not read it; it is a setting of method"):
        fl.Recipe(method="none", clusters=3)
    counted = fl.count_parameters(r, world.n_users, world.n_items, {"image": 5, "text": 7})
    assert counted["client"] == fl.count_parameters(r.but(method="none"), world.n_users, world.n_items)["client"] + 14


def engine_with(federation, recipe, world):
    """The same state under the other backend."""
    other = engine_of("stacked", recipe.but(precision="float64"), world)
    other.load_state(federation.state())
    return other


def test_a_method_on_the_command_line(brought, capsys):
    path = brought("method")
    with pytest.raises(SystemExit):
        cli.main(["--use", str(path), "train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "what a cluster's pull on an item is multiplied by [1.0]" in shown and "clustered" in shown
    on_the_command_line(path, "--method", "clustered", "--strength", "0.5")


@pytest.mark.parametrize("method", ["none", "fedvlr", "fedmr"])
def test_a_stage_of_the_channel(brought, world, recipe, method):
    path = brought("stage")
    r = recipe.but(method=method)
    plain, rounded = in_both(r, world), in_both(r.but(bits=3), world)
    assert (plain.scores() - rounded.scores()).abs().max() > 1e-6
    fine = in_both(r.but(bits=30), world)
    torch.testing.assert_close(fine.scores(), plain.scores(), rtol=1e-3, atol=1e-4)
    on_the_command_line(path, "--bits", "4")


def test_a_stage_serves_clicks_too(brought):
    from tests.sequential.conftest import small_log

    brought("stage")
    log = small_log()
    r = fl.Recipe(dataset=log.name, backbone="fedsasrec", method="mrff", groups=2, attribute_dim=2, max_length=4)
    in_both(r.but(bits=4), log, rounds=2)


def test_a_metric_of_rankings(brought, world, recipe):
    brought("metric")
    run = fl.train(recipe.but(rounds=1), world, progress=False)
    users = fl.evaluate_users(run.scores_UI, world.target_U("test"), world.train, k=5)
    inside = users["above"] < 5
    assert run.test["mrr@5"] == pytest.approx(users["mrr@5"].mean())
    alone = users[inside & (users["tied"] == 1)]
    assert alone["mrr@5"].to_numpy() == pytest.approx(1 / (1 + alone["above"].to_numpy()))
    table = fl.compare([recipe.but(rounds=1), recipe.but(rounds=1, method="none")], [0], world, progress=False)
    assert "mrr@5" in table.columns.get_level_values(0)
    assert 0 <= fl.paired(table, "fcf + fedvlr", "fcf + none", "mrr@5")["p"] <= 1


def test_a_metric_of_clicks(brought):
    brought("click_metric")
    run = fl.train(fl.Recipe(dataset="toy-clicks", backbone="fedncf", method="none", rounds=1), progress=False)
    predicted = run.predictions()
    assert run.test["accuracy"] == pytest.approx(((predicted["logit"] > 0) == (predicted["click"] > 0)).mean())


@pytest.mark.parametrize("method", names("method"))
def test_a_backbone_with_a_setting(brought, world, recipe, method):
    brought("backbone")
    more = {"groups": 2, "fit_epochs": 2} if method == "gfmfr" else {}
    federation = in_both(recipe.but(backbone="squeezed", method=method).but(height=0.5, **more), world)
    assert federation.scores().abs().max() <= 0.5


def test_a_click_backbone(brought):
    from tests.sequential.conftest import small_log

    brought("click_backbone")
    log = small_log()
    in_both(fl.Recipe(dataset=log.name, backbone="shallow", method="none", attribute_dim=2, max_length=4), log)


def test_an_aggregation(brought, world, recipe):
    brought("aggregation")
    federation = in_both(recipe.but(aggregation="root"), world)
    alpha_C = federation.weights_of(federation.samples_of(np.arange(world.n_users), 1))
    root = np.sqrt(world.train.lengths)
    assert alpha_C == pytest.approx(root / root.sum())
    with pytest.raises(fl.FedlabError, match="'root' weighs a client by how much data it has"):
        fl.train(recipe.but(aggregation="root", clip=1.0, noise_multiplier=1.0), world, progress=False)


def test_an_encoder(brought, tmp_path):
    from fedlab_mm.encoding import encode_items

    brought("encoder")
    encoded, encoder = encode_items(None, ["a", "abc"], "plain:6", cache=tmp_path, progress=False)
    assert encoder.width == 6 and encoded["text"].vectors[:, -1].tolist() == [2.0, 4.0]
    with pytest.raises(fl.FedlabError, match="there are: auto, offline, openclip, plain, openclip:MODEL/WEIGHTS"):
        encode_items(None, ["a"], "plane")


def test_a_dataset(brought, tmp_path):
    brought("dataset")
    loans = [f"u{u},b{(u * 3 + n) % 7},{n}" for u in range(6) for n in range(4)]
    (tmp_path / "loans.csv").write_text("\n".join(["user,item,timestamp", *loans]), encoding="utf-8")
    books = [f"b{n},book {n}" for n in range(7)]
    (tmp_path / "books.csv").write_text("\n".join(["item,title", *books]), encoding="utf-8")
    data = fl.load("shelf", root=tmp_path)
    assert (data.n_users, data.n_items) == (6, 7)
    assert cli.main(["data", "describe", "shelf", "--root", str(tmp_path), "--k", "3"]) == 0


def test_who_is_sampled(brought, world, recipe):
    brought("sampling")
    federation = in_both(recipe.but(sampling="in turns", clients=0.3), world)
    assert set(federation.last_clients % 2) == {0}


@pytest.mark.parametrize("method", ["none", "fedvlr", "fedmr"])
def test_an_optimizer(brought, world, recipe, method):
    brought("optimizer")
    r = recipe.but(method=method, optimizer="adagrad", lr=None, shared_lr=None)
    federation = in_both(r, world)
    assert federation.method.rate("item_table", "adagrad") == 0.05


def test_another_package_brings_members(tmp_path, brought, monkeypatch):
    """By an entry point, without being imported by anybody."""
    from fedlab_mm import registry

    shutil.copy(FILES / "aggregation.py", tmp_path / "guest_rules.py")
    info = tmp_path / "guest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n", encoding="utf-8")
    points = "[fedlab_mm]\nrules = guest_rules\nbroken = guest_that_is_not_there\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_imported", registry._imported - {registry.GUESTS})
    with pytest.warns(UserWarning, match="guest_that_is_not_there would bring are not there"):
        assert "root" in names("aggregation")


def test_a_memory_and_noise_on_the_sum_are_refused(brought, world, recipe):
    """The server reads single uploads, so no noise on their sum protects them."""
    brought("method")
    private = recipe.but(method="clustered", clip=0.1, noise_multiplier=1.0, aggregation="equal")
    with pytest.raises(fl.FedlabError, match="method 'clustered' reads single uploads, which ServerNoise on their sum"):
        fl.train(private, world, progress=False)
    with pytest.raises(fl.FedlabError, match="secure=True: method 'clustered' reads single uploads"):
        fl.attack("items", recipe.but(method="clustered"), world, rounds=1, secure=True, progress=False)


def test_a_method_that_trains_its_clients_otherwise_is_trained_otherwise(brought, world, recipe):
    """No kernel with gradients by hand takes the place of what a subclass overrides."""
    from fedlab_mm.federation.backends.kernels import Vmapped
    from fedlab_mm.federation.backends.stacked import kernels_of
    from fedlab_mm.methods.none import NoFusion
    from fedlab_mm.registry import register

    brought("aggregation")

    @register("method", "half hearted")
    class HalfHearted(NoFusion):
        def client_update(self, private, sent, batch, round, stacked=False):
            loss, values = super().client_update(private, sent, batch, round, stacked)
            return loss, {n: (v + sent[n]) / 2 if n in sent else v for n, v in values.items()}

    federation = in_both(recipe.but(method="half hearted"), world)
    assert kernels_of(federation.method) == [Vmapped]


def test_privacy_is_not_claimed_for_what_nobody_accounts_for(brought, world, recipe):
    """A stage behind the clip that may lengthen uploads; a sampling whose amplification is not known."""
    brought("stage")
    brought("sampling")
    private = recipe.but(method="none", clip=0.1, noise_multiplier=1.0, aggregation="equal")
    with pytest.raises(fl.FedlabError, match="Quantise may carry its upload over the bound"):
        fl.train(private.but(bits=2), world, progress=False)
    with pytest.raises(fl.FedlabError, match="noise of the clients' own may carry its upload over the bound"):
        fl.train(private.but(noise=0.1), world, progress=False)
    in_turns = private.but(sampling="in turns", clients=0.3)
    with pytest.raises(fl.FedlabError, match="under 'in turns' a round depends on the last"):
        fl.train(in_turns, world, progress=False)
    with pytest.raises(fl.FedlabError, match="sampling='in turns' has no account of privacy"):
        privacy.of_recipe(in_turns, world.n_users)


def test_a_stage_that_comes_later_or_has_gone_again(brought, world, recipe, tmp_path):
    """A recipe that is older than a stage runs; a run that never used it is read where it is not there."""
    old = recipe.but(method="none", rounds=1)
    brought("stage")
    new = recipe.but(method="none", rounds=1)
    assert fl.train(old, world, progress=False).test == fl.train(new, world, progress=False).test
    fl.train(new, world, progress=False).save(tmp_path / "run")
    assert "bits" not in (tmp_path / "run" / "recipe.json").read_text(encoding="utf-8")
    assert new.code == old.code != new.but(bits=4).code
    kept = _FAMILIES["stage"].pop("quantise")
    try:
        assert fl.load_run(tmp_path / "run", world).rounds_done == 1
    finally:
        _FAMILIES["stage"]["quantise"] = kept


def test_what_is_seen_of_a_groups_layer_is_that_layer():
    from tests.sequential.conftest import small_log

    log = small_log()
    r = fl.Recipe(dataset=log.name, backbone="fedsasrec", method="mrff", groups=3, attribute_dim=2, max_length=4)
    for engine in ("loop", "stacked"):
        federation, seen = engine_of(engine, r, log), []
        federation.channel.watch(lambda upload, sent, into=seen: into.append(upload))
        before = {n: p.clone() for n, p in federation.shared.items()}
        federation.step()
        name = "blocks.0.ffn.group.hidden.weight"
        for upload in seen:
            layer = upload.values[name]
            assert layer.shape == before[name].shape[1:]
            nearest = (before[name] - layer).flatten(1).norm(dim=1).argmin()
            assert int(nearest) == federation.group_UL[upload.client, 0]

"""The surface: train, open the rounds, save, resume, compare."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.evaluation import evaluate_split
from fedlab_mm.experiments import train
from tests.conftest import tiny


@pytest.fixture(scope="module")
def trained(world):
    r = fl.Recipe(dataset="tiny", rounds=6, dim=4, id_dim=6, k=5, clients=0.5, server_optimizer="adam", lr=0.05)
    return fl.train(r, world, progress=False)


def test_history_is_tidy_and_the_best_validation_round_is_reported(trained, world):
    h = trained.history
    assert list(h.columns) == ["round", "split", "metric", "value"]
    assert not h.duplicated(["round", "split", "metric"]).any()
    curve = h[h["metric"] == "ndcg@5"].set_index("round")["value"]
    assert curve.index.tolist() == [1, 2, 3, 4, 5, 6]
    assert trained.best_round == curve.idxmax()
    assert trained.test == evaluate_split(trained.scores_UI, world, "test", 5)


def test_rounds_open_the_loop_and_give_what_train_gives(trained, world):
    best, chosen = -1.0, None
    for record in fl.rounds(trained.recipe, world):
        assert record.upload_bytes > 0 and record.download_bytes > 0 and len(record.clients) == 4
        if record.metrics["ndcg@5"] > best:
            best, chosen = record.metrics["ndcg@5"], record.model.scores()
    assert torch.equal(chosen, trained.scores_UI)


def test_validation_may_be_rarer(world, recipe):
    evaluated = [r.round for r in fl.rounds(recipe.but(rounds=5, evaluate_every=2), world) if r.metrics]
    assert evaluated == [2, 4, 5]


def test_recommendations_leave_out_what_the_user_has(trained, world):
    top = trained.recommend(user=3, k=4)
    assert list(top.columns) == ["item", "title", "score"]
    assert not np.isin(top["item"], world.train[3]).any()
    assert top["score"].is_monotonic_decreasing
    for wrong in ({"user": 99}, {"user": -1}, {"user": 3, "k": 0}, {"user": 3, "k": 15}):
        with pytest.raises(fl.FedlabError):
            trained.recommend(**wrong)


def test_router_weights(trained, world, recipe):
    weights = trained.router_weights()
    assert weights.shape == (world.n_users, 3)
    assert list(weights.columns) == ["sum", "mlp", "gate"]
    assert weights.sum(axis=1).to_numpy() == pytest.approx(1)
    plain = fl.train(recipe.but(method="none", rounds=1), world, progress=False)
    with pytest.raises(fl.FedlabError, match="method 'none' has no router"):
        plain.router_weights()


@pytest.mark.parametrize(
    ("backbone", "server_optimizer"),
    [("fcf", "sgd"), ("fcf", "adam"), ("fedrap", "sgd"), ("pfedrec", "sgd"), ("fedncf", "adam")],
)
def test_a_saved_run_resumes_bit_for_bit(world, tmp_path, backbone, server_optimizer):
    r = fl.Recipe(dataset="tiny", backbone=backbone, rounds=7, dim=4, id_dim=6, k=5, clients=0.4)
    r = r.but(lr=0.05, server_optimizer=server_optimizer)
    whole = fl.train(r, world, progress=False)
    part = fl.train(r.but(rounds=3), world, progress=False)
    loaded = fl.load_run(part.save(tmp_path / "a"), world)
    assert loaded.recipe == part.recipe and dict(loaded.test) == dict(part.test)
    assert torch.equal(loaded.scores_UI, part.scores_UI)
    resumed = fl.train(r, world, progress=False, resume=loaded)
    for key, value in whole.last_state.items():
        assert torch.equal(resumed.last_state[key], value), key
    assert torch.equal(resumed.scores_UI, whole.scores_UI)
    assert (resumed.best_round, dict(resumed.test)) == (whole.best_round, dict(whole.test))
    pd.testing.assert_frame_equal(resumed.history, whole.history)


def test_a_finished_run_may_be_resumed_for_nothing(trained, world):
    again = fl.train(trained.recipe, world, progress=False, resume=trained)
    assert dict(again.test) == dict(trained.test)


def test_resuming_needs_the_same_recipe_and_data(trained, world):
    with pytest.raises(fl.FedlabError, match="only by its own recipe"):
        fl.train(trained.recipe.but(rounds=9, lr=0.3), world, progress=False, resume=trained)
    with pytest.raises(fl.FedlabError, match="only on its own data"):
        fl.train(trained.recipe, tiny(seed=1), progress=False, resume=trained)
    with pytest.raises(fl.FedlabError, match="rounds=2: the run to resume has 6 already"):
        fl.train(trained.recipe.but(rounds=2), world, progress=False, resume=trained)


def test_a_run_says_what_it_was_made_with(trained, world, tmp_path):
    folder = trained.save(tmp_path / "run")
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert about["data"]["sha256"] == world.fingerprint
    assert about["versions"]["torch"] == torch.__version__
    assert fl.Recipe.from_json((folder / "recipe.json").read_text(encoding="utf-8")) == trained.recipe


def test_saving_replaces_a_run_but_nothing_else(trained, world, tmp_path):
    folder = trained.save(tmp_path / "run")
    trained.save(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.tex").touch()
    with pytest.raises(fl.FedlabError, match="is not empty and holds no saved run"):
        trained.save(other)


def test_damaged_runs_are_refused(trained, world, tmp_path):
    folder = trained.save(tmp_path / "run")
    with pytest.raises(fl.FedlabError, match="was trained on other data"):
        fl.load_run(folder, tiny(seed=1))
    about = (folder / "run.json").read_text(encoding="utf-8")
    for text, message in (("{}", "run.json lacks 'data'"), ("", "damaged")):
        (folder / "run.json").write_text(text, encoding="utf-8", newline="\n")
        with pytest.raises(fl.FedlabError, match=message):
            fl.load_run(folder, world)
    (folder / "run.json").write_text(about, encoding="utf-8", newline="\n")
    content = (folder / "last.safetensors").read_bytes()
    (folder / "last.safetensors").write_bytes(content[:100])
    with pytest.raises(fl.FedlabError, match="damaged"):
        fl.load_run(folder, world)
    (folder / "last.safetensors").unlink()
    with pytest.raises(fl.FedlabError, match=r"last\.safetensors is missing"):
        fl.load_run(folder, world)
    with pytest.raises(fl.FedlabError, match=r"recipe\.json is missing"):
        fl.load_run(tmp_path / "nowhere", world)


def test_divergence_keeps_the_last_good_run(world, recipe, tmp_path):
    with pytest.raises(fl.DivergedError, match=r"diverged in round \d+ at .*: lower the learning rates") as caught:
        fl.train(recipe.but(rounds=50, lr=1e8, shared_lr=1e8), world, progress=False)
    run = caught.value.run
    assert int(run.last_state["round"]) == caught.value.round - 1
    assert torch.isfinite(run.scores_UI).all()
    assert fl.load_run(run.save(tmp_path / "kept"), world).best_round == run.best_round


def test_a_run_that_diverged_before_it_was_validated(world, recipe, tmp_path):
    r = recipe.but(rounds=9, evaluate_every=9, patience=2, lr=2e4, shared_lr=2e4)
    with pytest.raises(fl.DivergedError) as caught:
        fl.train(r, world, progress=False)
    assert caught.value.round > 1
    run = fl.load_run(caught.value.run.save(tmp_path / "a"), world)
    assert (run.best_round, len(run.history)) == (0, 3 * (caught.value.round - 1)) and np.isnan(run.best_valid)
    with pytest.raises(fl.DivergedError) as again:
        fl.train(r, world, progress=False, resume=run)
    assert again.value.round == caught.value.round


def test_k_must_fit_the_catalogue(world, recipe):
    with pytest.raises(fl.FedlabError, match="k=15: tiny has only 14 items"):
        fl.train(recipe.but(k=15), world, progress=False)


def test_compare_puts_recipes_beside_baselines(world, recipe):
    table = fl.compare([recipe, recipe.but(method="none")], seeds=range(2), data=world, progress=False)
    assert list(table.index) == ["popularity", "itemknn", "ease", "ials", "fcf + fedvlr", "fcf + none"]
    runs = [fl.train(recipe.but(seed=s), world, progress=False).test["hr@5"] for s in range(2)]
    assert table.loc["fcf + fedvlr", ("hr@5", "mean")] == pytest.approx(np.mean(runs))
    assert table.loc["fcf + fedvlr", ("hr@5", "sd")] == pytest.approx(np.std(runs, ddof=1))
    assert np.isnan(table.loc["ease", ("hr@5", "sd")])
    assert " ± " in fl.show(table).loc["fcf + none", "ndcg@5"]


def test_compare_names_what_differs(world, recipe):
    table = fl.compare([recipe.but(lr=x, rounds=1) for x in (0.1, 0.2)], [0], world, baselines=(), progress=False)
    assert list(table.index) == ["fcf + fedvlr, lr=0.1", "fcf + fedvlr, lr=0.2"]
    some = [recipe.but(method="none"), recipe, recipe.but(operators=("sum",))]
    table = fl.compare([r.but(rounds=1) for r in some], [0], world, baselines=(), progress=False)
    names = ["fcf + none", "fcf + fedvlr, operators=sum mlp gate", "fcf + fedvlr, operators=sum"]
    assert list(table.index) == names
    with pytest.raises(fl.FedlabError, match="one recipe twice"):
        fl.compare([recipe, recipe], [0], world)
    with pytest.raises(fl.FedlabError, match="at least one recipe and one seed"):
        fl.compare([], [0], world)
    with pytest.raises(fl.FedlabError, match="of one dataset"):
        fl.compare([recipe, recipe.but(dataset="toy")], [0], world)


def test_compare_refuses_two_rows_of_one_name(world, recipe):
    for label in (lambda r: "mine", lambda r: "ease"):
        with pytest.raises(fl.FedlabError, match=r"two rows would be named '(mine|ease)'"):
            fl.compare([recipe, recipe.but(method="none")], [0], world, progress=False, label=label)


def test_seeds_differ_and_a_seed_repeats(world, recipe):
    first, again, other = (fl.train(recipe.but(seed=s), world, progress=False).scores_UI for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_bar_shows_round_loss_and_metric(world, recipe, capsys):
    fl.train(recipe, world)
    shown = capsys.readouterr().err
    assert "fcf + fedvlr, seed 0" in shown and "loss=" in shown and "valid ndcg@5=" in shown


def test_a_cached_run_is_read_back_not_trained_again(world, recipe, tmp_path, monkeypatch):
    first = fl.train(recipe, world, progress=False, cache=tmp_path)
    monkeypatch.setattr(train, "_engine_of", None)  # training again would call it
    again = fl.train(recipe, world, progress=False, cache=tmp_path)
    assert again.test == first.test and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(TypeError):
        fl.train(recipe.but(seed=recipe.seed + 1), world, progress=False, cache=tmp_path)


@pytest.mark.parametrize("engine", ["stacked", "loop"])
def test_signals_of_a_user_differ_by_its_personal_table(world, recipe, engine):
    recipe = recipe.but(backbone="fedrap", engine=engine, rounds=2)
    common = fl.untrained(recipe.but(method="fedmr"), world).signals()
    assert {name: tuple(z.shape) for name, z in common.items()} == dict.fromkeys(
        ("id", "image", "text"), (world.n_items, recipe.dim)
    )
    on_client = fl.train(recipe.but(method="fedmr"), world, progress=False)
    moved = {n for n in common if not np.allclose(on_client.signals()[n], on_client.signals(user=1)[n])}
    assert moved == {"id"}  # D + P goes through the map of the ID
    on_server = fl.train(recipe.but(method="fedvlr"), world, progress=False)
    assert set(on_server.signals(user=1)) - set(on_server.signals()) == {"personal"}
    with pytest.raises(fl.FedlabError, match="user=99"):
        on_server.signals(user=99)
    with pytest.raises(fl.FedlabError, match="no personal item table; fedrap has"):
        fl.train(recipe.but(backbone="fcf", method="fedvlr"), world, progress=False).signals(user=1)
    with pytest.raises(fl.FedlabError, match="maps no signals"):
        fl.train(recipe.but(method="none"), world, progress=False).signals()


def test_a_comparison_outlives_a_run_that_diverges(world, recipe):
    wild = recipe.but(method="none", lr=1e30)
    with pytest.warns(UserWarning, match="lr=1e.30', seed 1: training diverged"):
        table = fl.compare([recipe.but(method="none"), wild], range(2), world, progress=False)
    assert table.iloc[-2].notna().all() and table.iloc[-1].isna().all()
    assert fl.show(table).iloc[-1].eq("–").all()
    with pytest.warns(UserWarning), pytest.raises(fl.FedlabError, match="every run diverged"):
        fl.compare([wild], range(1), world, baselines=(), progress=False)
    with pytest.raises(fl.FedlabError, match="compare takes lists"):
        fl.compare(wild, range(1), world)


def test_a_function_keeps_its_name_where_a_module_has_the_same():
    import fedlab_mm.audit  # noqa: F401

    assert callable(fl.audit) and fl.plotting.__name__ == "fedlab_mm.plotting"
    assert {"load", "Recipe", "__version__"} <= set(dir(fl))
    with pytest.raises(AttributeError, match="module 'fedlab_mm' has no attribute 'trian'"):
        fl.trian  # noqa: B018


def test_records_show_themselves_in_a_few_lines(trained, world, small_toy):
    """`fl.train(…)` as a cell's last line once printed 869 of them."""
    text = repr(trained)
    assert text.count("\n") <= 5 and max(map(len, text.splitlines())) <= 400
    assert "rounds   6, the best" in text and f"hr@5 {trained.test['hr@5']:.4f}" in text and "lr=0.05" in text
    record = next(fl.rounds(trained.recipe, world))
    uploads = []
    engine = record.model
    loop = next(fl.rounds(trained.recipe.but(engine="loop"), world)).model
    loop.channel.watch(lambda upload, sent: uploads.append(upload))
    loop.step()
    log = fl.load("toy-clicks")
    for thing in (record, uploads[0], world, world.train, log, trained.recipe, engine):
        assert "\n" not in repr(thing) and len(repr(thing)) < 300, thing
    for thing in (trained, trained.recipe, world, log):
        assert "<table" in thing._repr_html_()
    assert eval(repr(trained.recipe), {"Recipe": fl.Recipe}) == trained.recipe

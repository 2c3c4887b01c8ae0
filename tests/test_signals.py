"""Any number of modalities, any of them left out, solo views."""

import pandas as pd
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.data import build
from fedlab_mm.registry import lookup, names
from tests.conftest import but, engine_of

FUSING = [m for m in names("method") if lookup("method", m).fuses]


@pytest.fixture(scope="module")
def with_audio(world):
    items = world.items.drop(columns="item")
    log = world.interactions[["user", "item", "timestamp"]]
    features = {**{m: f.numpy() for m, f in world.features.items()}, "audio": torch.randn(14, 3).numpy()}
    return build("tiny", log, items, features)


@pytest.mark.slow
@pytest.mark.parametrize("method", FUSING)
@pytest.mark.parametrize("without", [(), ("id",), ("image",), ("text", "audio")])
def test_any_modalities_and_any_left_out(with_audio, recipe, method, without):
    if method == "prior" and "id" in without:
        pytest.skip("what prior draws towards features are the IDs")
    operators = ("sum", "mlp", "gate", "attention", "solo")
    r = but(recipe, method=method, without=without, operators=operators, precision="float64", chunk=4, dataset="tiny")
    engines = [engine_of(e, r.but(engine=e), with_audio) for e in ("loop", "stacked")]
    for engine in engines:
        engine.step()
        engine.step()
    torch.testing.assert_close(engines[1].scores(), engines[0].scores(), rtol=1e-9, atol=1e-9)
    left = [s for s in ("id", "image", "text", "audio") if s not in without]
    if engines[0].method.routes:
        assert engines[0].views == ["sum", "mlp", "gate", "attention", *(f"solo:{s}" for s in left)]
        run = fl.train(r.but(rounds=1), with_audio, progress=False)
        assert list(run.router_weights().columns) == engines[0].views
    shared = " ".join(engines[0].method.shared.state_dict())
    assert ("id_embedding" in shared or "item_table" in shared) == ("id" in left)


@pytest.mark.parametrize("method", names("method"))
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"without": ("audio",)}, "there is no signal 'audio' to leave out; there are: id, image, text"),
        ({"without": ("id", "image", "text")}, "leaves out every signal: keep at least one"),
    ],
)
def test_signals_that_cannot_be_left_out(world, recipe, method, changes, message):
    with pytest.raises(fl.FedlabError, match=message):
        next(fl.rounds(recipe.but(method=method, **changes), world))


def test_a_view_or_a_method_without_its_signal(world, recipe):
    for changes, message in (
        ({"operators": ("sum", "solo:audio")}, "operator 'solo:audio': there is no such signal here"),
        ({"operators": ("sum", "solo:image"), "without": ("image",)}, "there are: id, text"),
        ({"method": "none", "without": ("id",)}, "method 'none' has no other signal"),
        ({"method": "vbpr", "without": ("image", "text")}, "method 'vbpr' without a modality is method 'none'"),
    ):
        with pytest.raises(fl.FedlabError, match=message):
            next(fl.rounds(recipe.but(**changes), world))


def test_modalities_of_unequal_rows(world):
    log = world.interactions[["user", "item", "timestamp"]]
    features = {"image": torch.randn(14, 3).numpy(), "text": torch.randn(13, 3).numpy()}
    with pytest.raises(fl.FedlabError, match=r"text.*13"):
        build("tiny", log, pd.DataFrame({"title": ["x"] * 14}), features)
    with pytest.raises(fl.FedlabError, match="unequal numbers of rows"):
        lookup("method", "mlp")(fl.Recipe(), 14, {m: torch.from_numpy(f) for m, f in features.items()})


@pytest.mark.parametrize("method", ["fedvlr", "fedmr", "mlp"])
def test_views_of_one_size(world, recipe, method):
    """view_scale sets every view's root mean square, in both engines, for new items by the catalogue's factors."""
    r = but(recipe, method=method, view_scale=0.3, operators=("sum", "gate", "solo"), precision="float64", chunk=4)
    engines = [engine_of(e, r.but(engine=e), world) for e in ("loop", "stacked")]
    for engine in engines:
        engine.step()
        engine.step()
    torch.testing.assert_close(engines[1].scores(), engines[0].scores(), rtol=1e-9, atol=1e-9)
    method = engines[0].method
    sent = method.broadcast()
    size_E = method.views(sent).detach().square().mean(dim=(1, 2)).sqrt()
    torch.testing.assert_close(size_E, torch.full_like(size_E, 0.3))
    with torch.no_grad():
        method.shared.get_parameter("fusion.bank.id_embedding")[4] = 0
    twin = engines[0].scores_of_new({m: f[4:5] for m, f in world.features.items()})
    torch.testing.assert_close(twin[:, 0], engines[0].scores()[:, 4], rtol=1e-9, atol=1e-9)


def test_a_user_who_leans_on_one_signal_can_choose_it_outright(world, recipe):
    """A router that puts all its weight on a solo view scores by that signal alone."""
    r = recipe.but(operators=("sum", "solo:image"), engine="loop", precision="float64")
    engine = engine_of("loop", r, world)
    engine.private["router.output.bias"][0] = torch.tensor([-100.0, 100.0])
    image = engine.method.broadcast()["views"][:, 1]
    theta, bias = engine.private["backbone.predictor.weight"][0, 0], engine.private["backbone.predictor.bias"][0]
    torch.testing.assert_close(engine.scores()[0], image @ theta + bias)

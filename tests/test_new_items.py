"""Items that nobody has interacted with, scored from their features alone."""

import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.registry import lookup, names
from tests.conftest import engine_of

# Under `prior` an item's features move its row and do not stand beside it; `test_prior.py` asks what a new one gets.
FUSING = [m for m in names("method") if lookup("method", m).fuses and m != "prior"]


@pytest.fixture(scope="module")
def features(world):
    generator = torch.Generator().manual_seed(0)
    return {m: torch.randn(4, f.shape[1], generator=generator) for m, f in world.features.items()}


@pytest.mark.parametrize("name", names("engine"))
@pytest.mark.parametrize("method", FUSING)
@pytest.mark.parametrize("backbone", names("backbone"))
def test_a_new_item_scores_as_a_known_one_that_has_only_its_features(world, recipe, features, name, backbone, method):
    """A catalogue item with every row of its own set to zero is what a new item with its features is."""
    r = recipe.but(backbone=backbone, method=method, engine=name, precision="float64")
    engine = engine_of(name, r, world)
    engine.step()
    new = engine.scores_of_new(features)
    assert new.shape == (world.n_users, 4)
    torch.testing.assert_close(engine.scores_of_new({m: f[2:3] for m, f in features.items()}), new[:, 2:3])
    item = 5
    with torch.no_grad():
        for key, p in engine.method.shared.named_parameters():
            if key.endswith(("id_embedding", "item_table")):
                p[item] = 0
    if engine.personal is not None:
        everyone = torch.arange(world.n_users)
        zero = torch.zeros(world.n_users, engine.personal.initial_IW.shape[1], dtype=torch.float64)
        engine.personal.write(everyone, torch.full_like(everyone, item), zero)
    twin = engine.scores_of_new({m: f[item : item + 1] for m, f in world.features.items()})
    torch.testing.assert_close(twin[:, 0], engine.global_scores()[:, item], rtol=1e-9, atol=1e-9)


def test_recommending_new_items(world, recipe, features):
    run = fl.train(recipe.but(rounds=3), world, progress=False)
    top = run.recommend(user=2, k=3, new_items=features)
    assert list(top.columns) == ["item", "score", "rank"] and len(top) == 3
    assert top["score"].is_monotonic_decreasing and top["rank"].is_monotonic_increasing
    scores = run.scores_UI[2].clone()
    scores[torch.from_numpy(world.train[2])] = -torch.inf
    assert top["rank"].tolist() == [1 + int((scores > s).sum()) for s in top["score"]]
    with pytest.raises(fl.FedlabError, match="k=5: user 2 can be recommended 1 to 4 items"):
        run.recommend(user=2, k=5, new_items=features)


def test_new_items_are_ranked_by_the_model_that_scores_them(world, recipe):
    """Under PFedRec a user keeps items of its own; new ones are of the global model, and so is their company."""
    run = fl.train(recipe.but(backbone="pfedrec", rounds=3), world, progress=False)
    assert not torch.equal(run.model.global_scores(), run.scores_UI)
    by_global = run.model.global_scores()[2]
    by_global[torch.from_numpy(world.train[2])] = -torch.inf
    twins = run.recommend(user=2, k=world.n_items, new_items=world.features)
    assert twins["rank"].tolist() == [1 + int((by_global > s).sum()) for s in twins["score"]]


def test_new_items_that_do_not_fit(world, recipe, features):
    run = fl.train(recipe.but(rounds=1), world, progress=False)
    for wrong, message in (
        ({"image": features["image"]}, "modality 'text' is missing; needed: image, text"),
        ({**features, "image": torch.randn(4, 2)}, r"'image' has shape \(4, 2\), not \[J, 5\]"),
        ({**features, "image": features["image"][:3]}, r"unequal numbers of rows: \{'image': 3, 'text': 4\}"),
        ({**features, "text": features["text"] / 0}, r"'text', row 0, column 0 is infinite"),
        ({**features, "text": features["text"].double() * 1e300}, r"'text', row 0, column 0 is .*e\+.*, too large for"),
        ({**features, "text": features["text"][:0]}, "'text' holds no item"),
    ):
        with pytest.raises(fl.FedlabError, match=message):
            run.recommend(user=0, k=1, new_items=wrong)
    by_id = fl.train(recipe.but(rounds=1, method="none"), world, progress=False)
    with pytest.raises(fl.FedlabError, match="method 'none' knows items by their ID alone"):
        by_id.recommend(user=0, k=1, new_items=features)
    blind = fl.train(recipe.but(rounds=1, without=("image",)), world, progress=False)
    assert len(blind.recommend(user=0, k=1, new_items={"text": features["text"], "image": "none"})) == 1

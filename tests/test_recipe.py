"""A recipe takes what its backbone and method read, and refuses the rest by name."""

import json

import pytest

import fedlab_mm as fl
from fedlab_mm.recipe import defaults, owners_of_settings
from fedlab_mm.registry import names
from fedlab_mm.settings import told_of
from tests.conftest import but
from tests.test_provenance import families  # noqa: F401


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"heads": 7},
            "heads=7: 'fcf \\+ fedvlr' does not read it; it is a setting of methods that pre",
        ),
        ({"gate": "random"}, "gate='random': .* it is a setting of click method 'mrff'"),
        ({"max_length": 9}, "max_length=9: .* it is a setting of methods that predict clicks"),
        ({"alpha": 5}, "alpha=5: 'fcf \\+ fedvlr' does not read it; it is a setting of backbone 'fedrap'"),
        (
            {"method": "none", "distill": 1.0},
            "distill=1.0: 'fcf \\+ none' does not read it; it is .* 'gfmfr'",
        ),
        ({"groups": 3}, "groups=3: .* of method 'gfmfr', click method 'mrff'"),
        ({"backbone": "fedsasrec", "method": "mrff", "view_scale": 3.0}, "view_scale=3.0: 'fedsasrec \\+ mrff'"),
        ({"backbone": "fedsasrec", "method": "mrff", "negatives": 2}, "negatives=2: .* of methods that rank items"),
        ({"backbone": "fedsasrec", "method": "none", "gate": "weighted"}, "gate='weighted': 'fedsasrec \\+ none'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(fields, message):
    with pytest.raises(fl.FedlabError, match=message):
        fl.Recipe(**fields)
    names = {n: fields[n] for n in ("backbone", "method") if n in fields}
    with pytest.raises(fl.FedlabError, match=message):
        fl.Recipe(**names).but(**{n: v for n, v in fields.items() if n not in names})


def test_a_name_of_both_kinds_is_settled_by_the_data(world):
    """FedNCF ranks items, and predicts clicks."""
    either = fl.Recipe(backbone="fedncf", method="none", k=5)
    with pytest.raises(fl.FedlabError, match=r"k=5: 'fedncf \+ none' does not read it; it is .* rank items"):
        fl.train(either, fl.load("toy-clicks"), progress=False)
    with pytest.raises(fl.FedlabError, match=r"attribute_dim=4: .* predict clicks"):
        fl.train(either.but(attribute_dim=4), world, progress=False)


def test_what_the_former_method_read_goes_back_to_its_default():
    fused = fl.Recipe(backbone="fedrap", view_scale=1.0, operators=("sum",), alpha=0.3, lr=0.5)
    assert fused.but(backbone="fcf").changed == {"view_scale": 1.0, "operators": ("sum",), "lr": 0.5}
    assert fused.but(method="none").but(method="fedvlr") == fused  # what several methods of fusion read is passed on
    grouped = fl.Recipe(method="gfmfr", distill=0.5, groups=2)
    assert grouped.but(method="none") == fl.Recipe(method="none")
    with pytest.raises(fl.FedlabError, match="distill=0"):
        grouped.but(method="none", distill=0.5)


@pytest.mark.parametrize("method", names("method"))
@pytest.mark.parametrize("backbone", names("backbone"))
def test_nothing_is_read_that_is_not_declared(world, backbone, method):
    """What neither declares the recipe does not have, so training would say so."""
    recipe = fl.Recipe(backbone=backbone, method=method, dim=4, k=5, rounds=1)
    fl.train(recipe, world, progress=False)
    for foreign in {"alpha", "groups", "distill", "heads", "gate"} - recipe.settings:
        with pytest.raises(AttributeError, match=f"{foreign}: .* does not read it; it is a setting of"):
            getattr(recipe, foreign)


def test_a_member_of_yours_brings_settings_of_its_own(families, tmp_path):  # noqa: F811
    from dataclasses import dataclass

    from fedlab_mm.backbones import LinearBackbone
    from fedlab_mm.registry import register
    from fedlab_mm.settings import POSITIVE, Settings, setting

    @register("backbone", "mine")
    class Mine(LinearBackbone):
        @dataclass(frozen=True)
        class Params(Settings):
            """
            Attributes:
                warmth: how warm.
            """

            warmth: float = setting(2.0, POSITIVE)

    recipe = fl.Recipe(backbone="mine", warmth=3)
    assert recipe.warmth == 3.0 and recipe.changed == {"backbone": "mine", "warmth": 3.0}
    assert fl.Recipe.from_json(recipe.to_json()) == recipe and recipe.but(warmth=2.0) == fl.Recipe(backbone="mine")
    assert "warmth" in dir(recipe) and recipe.but(backbone="fcf") == fl.Recipe()
    with pytest.raises(fl.FedlabError, match=r"warmth=-1\.0: must be a positive number"):
        recipe.but(warmth=-1)
    with pytest.raises(
        fl.FedlabError, match=r"warmth=3: 'fcf \+ fedvlr' does not read it; it is a setting of backbone 'mine'"
    ):
        fl.Recipe(warmth=3)
    with pytest.raises(fl.FedlabError, match=r"alpha=1: 'mine \+ fedvlr' does not read it"):
        recipe.but(alpha=1)


def test_every_setting_says_what_it_is():
    for name, owners in owners_of_settings().items():
        for owner, _ in owners:
            assert told_of(owner).get(name), f"{owner.__qualname__} says nothing of {name}"


def test_a_recipe_of_before_is_read():
    """It held the settings of all parts, those that meant nothing to it at the defaults of then."""
    kept = {**defaults(), "method": "none", "distill": 0.3, "heads": 1, "lr": 0.5}
    assert fl.Recipe.from_json(json.dumps(kept)) == fl.Recipe(method="none", lr=0.5)
    with pytest.raises(fl.FedlabError, match="a Recipe has no colour"):
        fl.Recipe.from_json(json.dumps({**kept, "colour": 1}))


@pytest.mark.parametrize("seed", [2**64, 2**70])
def test_a_seed_fits_its_generator(seed):
    with pytest.raises(fl.FedlabError, match=r"seed=.*: must be below 2\*\*64"):
        fl.Recipe(seed=seed)


def test_the_largest_seed_trains(world):
    for method in ("fedvlr", "gfmfr"):
        recipe = but(fl.Recipe(seed=2**64 - 1, dim=4, k=5, rounds=2), method=method)
        assert fl.train(recipe, world, progress=False).rounds_done == 2


def test_two_declarations_of_one_setting_are_refused(families):  # noqa: F811
    from dataclasses import dataclass

    from fedlab_mm.backbones import LinearBackbone
    from fedlab_mm.registry import register
    from fedlab_mm.settings import Settings, setting

    @register("backbone", "twin")
    class Twin(LinearBackbone):
        @dataclass(frozen=True)
        class Params(Settings):
            """
            Attributes:
                dim: a second width.
            """

            dim: int = setting(3)

    with pytest.raises(fl.FedlabError, match=r"dim: Ranking\.Params and .*Twin\.Params both declare it"):
        fl.Recipe(backbone="twin")


def test_a_recipe_and_its_data_are_for_one_task():
    toy = fl.load("toy")
    clicks = fl.Recipe(backbone="fedsasrec", method="none", rounds=1)
    with pytest.raises(fl.FedlabError, match="toy holds items to rank, which backbone 'fedsasrec' is not for"):
        fl.compare([fl.Recipe(method="none", rounds=1), clicks], [0], toy, progress=False)
    with pytest.raises(fl.FedlabError, match="data must be a Dataset or a ClickLog"):
        fl.train(clicks, "toy", progress=False)

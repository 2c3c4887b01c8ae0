"""A recipe takes what its backbone and method read, and refuses the rest by name."""

import pytest

import fedlab_mm as fl
from fedlab_mm.registry import names
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
        ({"alpha": 5}, "alpha=5.0: 'fcf \\+ fedvlr' does not read it; it is a setting of backbone 'fedrap'"),
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
def test_what_is_read_is_what_is_declared(world, backbone, method):
    """A field that neither is said to read is not looked at, not even to be passed on."""
    asked = set()

    class Watched(fl.Recipe):
        def __getattribute__(self, name):
            asked.add(name)
            return super().__getattribute__(name)

        # What asks for every field, and decides nothing by it:
        code = ""
        refuse_foreign = but = lambda self, *_, **__: self
        __hash__, __eq__ = object.__hash__, object.__eq__

    recipe = Watched(backbone=backbone, method=method, dim=4, k=5, rounds=1)
    asked.clear()
    fl.train(recipe, world, progress=False)
    own = {"alpha", "beta", "groups", "grouping", "clustering", "distill", "fit_epochs"}
    assert not (asked & own) - recipe.settings


def test_a_member_of_yours_may_read_anything_of_its_task(families):  # noqa: F811
    from fedlab_mm.backbones import LinearBackbone
    from fedlab_mm.registry import register

    @register("backbone", "free")
    class Free(LinearBackbone):
        pass

    @register("backbone", "strict")
    class Strict(LinearBackbone):
        settings = ("alpha",)

    assert fl.Recipe(backbone="free", alpha=3.0, beta=2.0).changed["beta"] == 2.0
    with pytest.raises(fl.FedlabError, match="heads=2"):
        fl.Recipe(backbone="free", heads=2)
    with pytest.raises(fl.FedlabError, match=r"beta=2\.0: 'strict"):
        fl.Recipe(backbone="strict", alpha=3.0, beta=2.0)


@pytest.mark.parametrize("seed", [2**64, 2**70])
def test_a_seed_fits_its_generator(seed):
    with pytest.raises(fl.FedlabError, match=r"seed=.*: must be below 2\*\*64"):
        fl.Recipe(seed=seed)


def test_the_largest_seed_trains(world):
    for method in ("fedvlr", "gfmfr"):
        recipe = but(fl.Recipe(seed=2**64 - 1, dim=4, k=5, rounds=2), method=method)
        assert fl.train(recipe, world, progress=False).rounds_done == 2

"""Names: looked up in one place, refused with the choices."""

import pytest

import fedlab_mm as fl
from fedlab_mm.registry import register


def test_every_family_has_members():
    assert all(fl.available().values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "fedrop"}, "unknown backbone 'fedrop': did you mean 'fedrap'\\? There are: fcf, fedavg"),
        ({"method": "fedvrl"}, "unknown method 'fedvrl': did you mean 'fedvlr'"),
        ({"engine": "fast"}, "unknown engine 'fast': there are: loop, stacked"),
        ({"aggregation": "mean"}, "unknown aggregation 'mean'"),
        ({"operators": ("sum", "gat")}, "unknown operator 'gat': did you mean 'gate'"),
        ({"operators": ()}, "operators is empty"),
        ({"operators": ("sum", "sum")}, "names one twice"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion': there are: adam, sgd"),
        ({"rounds": 0}, "rounds=0: must be at least 1"),
        ({"k": 0}, "k=0: must be at least 1"),
        ({"lr": 0.0}, "lr=0.0: must be a positive number"),
        ({"lr": float("nan")}, "lr=nan: must be a positive number"),
        ({"clients": 0.0}, r"clients=0.0: the share of clients in a round lies in \(0, 1\]"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0: must not be negative"),
        ({"id_lr_scale": 0.0}, "id_lr_scale=0.0: must be a positive number, or None"),
        ({"seed": -1}, "seed=-1"),
        ({"negatives_by": "rank"}, "unknown negatives_by 'rank': there are: uniform, popularity"),
        ({"loss": "hinge"}, "unknown loss 'hinge': there are: bce, implicit, squares"),
        ({"patience": 0}, "patience=0: must be at least 1"),
        ({"backbone": "fedrap", "alpha": -0.1}, "alpha=-0.1: must not be negative"),
        ({"server_optimizer": "lion"}, "server_optimizer: unknown optimizer 'lion'"),
        ({"rounds": 2.5}, r"rounds=2\.5: must be a whole number"),
        ({"rounds": True}, "rounds=True: must be a whole number"),
        ({"lr": "a"}, "lr='a': must be a number"),
        ({"method": None}, "method=None: must be a name"),
        ({"without": None}, "without=None: must be a name or several"),
        ({"operators": 3}, "operators=3: must be a name or several"),
        ({"operators": ("sum", 3)}, r"operators=\('sum', 3\): must be a name or several"),
        ({"learning_rate": 1}, "a Recipe has no learning_rate"),
    ],
)
def test_a_recipe_refuses_what_it_cannot_run(changes, message):
    with pytest.raises(fl.FedlabError, match=message):
        fl.Recipe().but(**changes)


def test_unknown_dataset():
    with pytest.raises(
        fl.FedlabError, match="unknown dataset 'kuu': did you mean 'ku'\\? There are: amazon, bili-cartoon"
    ):
        fl.load("kuu")


def test_a_name_is_given_once():
    with pytest.raises(fl.FedlabError, match="registered twice"):
        register("backbone", "fcf")(object)

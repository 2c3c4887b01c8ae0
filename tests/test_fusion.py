"""Operators and bank: shapes, parameter counts and formulas of the papers. Every registered operator is greeted."""

import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.fusion import Bank, Inputs, Operator, expand, signals_of
from fedlab_mm.registry import _FAMILIES, lookup, names, register
from fedlab_mm.routing import Router, route


@pytest.mark.parametrize("name", names("operator"))
@pytest.mark.parametrize("n_signals", [1, 3, 4])
def test_every_operator_fuses_any_number_of_signals_item_by_item(name, n_signals):
    torch.manual_seed(0)
    operator = lookup("operator", name)(n_signals, 8)
    signals = torch.randn(n_signals, 5, 8, requires_grad=True)
    view = operator(signals)
    assert view.shape == (5, 8)
    torch.testing.assert_close(operator(signals[:, 2:3]), view[2:3])  # an item's view depends on that item alone
    view.sum().backward()
    assert (signals.grad.abs().sum(dim=(1, 2)) > 0).all()  # and on each of its signals


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sum", 0), ("mlp", 192 * 128 + 128 + 128 * 64 + 64), ("gate", 3 * (64 * 64 + 64) + 192 * 64 + 64)],
)
def test_operators_have_the_parameters_that_the_papers_count(name, expected):
    operator = lookup("operator", name)(3, 64)
    assert sum(p.numel() for p in operator.parameters()) == expected


def test_formulas():
    torch.manual_seed(0)
    z = torch.randn(2, 3, 4)
    gate = lookup("operator", "gate")(2, 4)
    opened = [torch.sigmoid(z[m] @ gate.gates[m].weight.T + gate.gates[m].bias) * z[m] for m in range(2)]
    torch.testing.assert_close(gate(z), torch.cat(opened, 1) @ gate.output.weight.T + gate.output.bias)
    mlp = lookup("operator", "mlp")(2, 4)
    hidden = torch.relu(torch.cat([z[0], z[1]], 1) @ mlp.hidden.weight.T + mlp.hidden.bias)
    torch.testing.assert_close(mlp(z), hidden @ mlp.output.weight.T + mlp.output.bias)
    torch.testing.assert_close(lookup("operator", "sum")(2, 4)(z), z[0] + z[1])


def test_attention_weighs_each_items_signals():
    torch.manual_seed(0)
    z = torch.randn(3, 5, 4)
    attention = lookup("operator", "attention")(3, 4)
    scores = torch.stack([torch.tanh(attention.hidden(z[m])) @ attention.query.weight[0] for m in range(3)])
    expected = sum(torch.softmax(scores, 0)[m][:, None] * z[m] for m in range(3))
    torch.testing.assert_close(attention(z), expected)


def test_bank_stacks_views_in_the_order_of_its_operators():
    torch.manual_seed(0)
    bank = Bank(["gate", "solo:audio", "sum"], {"id": 6, "image": 7, "audio": 3}, n_items=5, dim=4)
    inputs = {"id": bank.id_embedding, "image": torch.randn(5, 7), "audio": torch.randn(5, 3)}
    assert bank(inputs).shape == (3, 5, 4)
    torch.testing.assert_close(bank(inputs)[1], bank.signals(inputs)[2])
    torch.testing.assert_close(bank(inputs)[2], bank.signals(inputs).sum(0))


def test_solo_stands_for_a_view_of_each_signal():
    assert expand(["mlp", "solo"], ["id", "image"]) == ["mlp", "solo:id", "solo:image"]
    with pytest.raises(
        fl.FedlabError, match="operator 'solo:audio': there is no such signal here; there are: id, image"
    ):
        expand(["solo:audio"], ["id", "image"])
    with pytest.raises(fl.FedlabError, match="names one view twice"):
        expand(["solo:id", "solo"], ["id", "image"])


def test_signals_left_out():
    assert signals_of(["image", "text"], ["text"]) == ["id", "image"]
    with pytest.raises(fl.FedlabError, match="no signal 'audio' to leave out; there are: id, image, text"):
        signals_of(["image", "text"], ["audio"])
    with pytest.raises(fl.FedlabError, match="leaves out every signal"):
        signals_of(["image"], ["id", "image"])


def test_inputs_are_standardised_by_the_catalogues_own_moments_and_never_saved():
    feature = torch.tensor([[1.0, 2.0], [1.0, 4.0]])
    inputs = Inputs({"image": feature}, 0.5)
    assert inputs()["image"].tolist() == [[0, -0.5], [0, 0.5]]  # a constant column gives zeros
    assert inputs.scaled("image", torch.tensor([[3.0, 5.0]])).tolist() == [[1.0, 1.0]]
    assert torch.equal(Inputs({"image": feature}, None)()["image"], feature)
    assert not inputs.state_dict()
    with pytest.raises(fl.FedlabError, match=r"unequal numbers of rows: \{'image': 2, 'text': 3\}"):
        Inputs({"image": feature, "text": torch.zeros(3, 1)}, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("low", "high"),
    [(1, 1 + 2**-23), (-1e-9, 1e-9), (1e-30, 3e-30), (1e-38, 3e-38), (-1e30, 1e30), (1e7, 1e7 + 1), (3e38, 3.2e38)],
)
def test_a_column_of_any_size_and_spread_is_standardised(low, high, dtype):
    """Two values become −1 and 1; and the column beside them is as it would be alone, to the bit."""
    ordinary = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    column = torch.tensor([low, high], dtype=dtype).repeat(200)[:, None]
    inputs = Inputs({"audio": torch.cat([column, ordinary.to(dtype)], dim=1)}, 1.0)
    torch.testing.assert_close(inputs()["audio"][:4, 0], torch.tensor([-1, 1, -1, 1], dtype=dtype))
    assert torch.equal(inputs()["audio"][:, 1:], Inputs({"audio": ordinary.to(dtype)}, 1.0)()["audio"])
    beyond = torch.tensor([[(low + high) / 2, 0.0]], dtype=torch.float64)
    assert abs(float(inputs.scaled("audio", beyond)[0, 0])) < 1e-6


def test_a_constant_column_is_exactly_zero():
    for value in (0.1, 1e30, 1e-30, 0.0):
        feature = torch.full((500, 1), value, dtype=torch.float64)
        for given in (feature, feature.float()):
            assert not Inputs({"audio": given}, 1.0)()["audio"].any()


def test_router_is_the_papers_size_and_reads_the_mean_of_the_users_items():
    torch.manual_seed(0)
    router = Router(3, 64)
    assert sum(p.numel() for p in router.parameters()) == 12_547
    views, own = torch.randn(3, 5, 64), torch.tensor([0.5, 0, 0, 0.5, 0])
    weights = router(views, own)
    torch.testing.assert_close(weights, router(views[:, [0, 3]].mean(dim=1, keepdim=True), torch.ones(1)))
    torch.testing.assert_close(route(weights, views), sum(weights[e] * views[e] for e in range(3)))


def test_what_a_client_holds_and_moves():
    fedmr, fedvlr = (fl.count_parameters(fl.Recipe(method=m), 204, 560) for m in ("fedmr", "fedvlr"))
    assert fedvlr["client"] == fedvlr["fedvlr"] == 560 * 192 + 12_547 + 65
    assert fedmr["client"] == 560 * (512 + 1024) + 168_900 - 0  # D, features, and the 168,900 parameters beside D
    assert fedmr["download once"] == 560 * 1024 and fedvlr["download once"] == 0
    assert fedvlr["upload"] == fedvlr["download"] == 560 * 192
    assert fedvlr["upload bytes"] == 4 * 560 * 192 + 4 * 560 + 8  # values, row numbers, client and sample count
    one_user = fl.count_parameters(fl.Recipe(backbone="fedncf", method="none"), 204, 560)
    assert one_user["client"] == one_user["fedmr"] - 203 * 128  # the papers count all users' embeddings


def test_shared_client_modules_are_the_papers_sizes():
    both = fl.count_parameters(fl.Recipe(), 204, 560)
    assert both["server"] + both["private"] == both["fedmr"] == 455_620


@pytest.mark.parametrize("made", [lambda z: z, lambda z: z.sum(dim=1), lambda z: None, lambda z: z[0, :, :3]])
def test_an_operator_that_makes_no_view_is_named(world, recipe, made):
    """In both engines, before anything is computed with it."""

    @register("operator", "test odd")
    class Odd(Operator):
        def forward(self, signals_MID):
            return made(signals_MID)

    try:
        for method in ("fedvlr", "fedmr"):
            with pytest.raises(fl.FedlabError, match=r"operator .test odd. made .*: its forward must give one view"):
                fl.train(recipe.but(method=method, operators=("test odd",)), world, progress=False)
    finally:
        del _FAMILIES["operator"]["test odd"]

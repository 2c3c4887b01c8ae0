"""Operators and bank: shapes, parameter counts and formulas of the papers. Every registered operator is greeted."""

import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.fusion import Bank, Inputs, expand, signals_of
from fedlab_mm.registry import lookup, names
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


def test_router_is_the_papers_size_and_reads_the_mean_of_the_users_items():
    torch.manual_seed(0)
    router = Router(3, 64)
    assert sum(p.numel() for p in router.parameters()) == 12_547
    views, own = torch.randn(3, 5, 64), torch.tensor([0.5, 0, 0, 0.5, 0])
    weights = router(views, own)
    torch.testing.assert_close(weights, router(views[:, [0, 3]].mean(dim=1, keepdim=True), torch.ones(1)))
    torch.testing.assert_close(route(weights, views), sum(weights[e] * views[e] for e in range(3)))


# FedMR's Table 5: users, items, and what it prints for a dataset.
SIZES = {"ku": (204, 560), "dance": (10_231, 1_676), "food": (5_990, 1_125), "movie": (15_908, 2_528)}
TABLE_5 = {
    ("fedavg", "none"): (35_905, 107_329, 72_065, 161_857),
    ("fcf", "none"): (35_905, 107_329, 72_065, 161_857),
    ("pfedrec", "none"): (35_905, 107_329, 72_065, 161_857),
    ("fedrap", "none"): (71_745, 214_593, 144_065, 323_649),
    ("fedncf", "none"): (108_737, 1_535_041, 921_665, None),  # Movie is printed as 1,182,689; it is 2,370,753
    ("fedavg", "fedmr"): (455_620, 1_027_012, 744_900, 1_463_236),
    ("fcf", "fedmr"): (455_620, 1_027_012, 744_900, 1_463_236),
    ("pfedrec", "fedmr"): (455_620, 1_027_012, 744_900, 1_463_236),
    ("fedrap", "fedmr"): (742_340, 1_885_124, 1_320_900, 2_757_572),
    ("fedncf", "fedmr"): (564_292, 2_561_988, 1_666_500, 3_833_924),
}


@pytest.mark.parametrize(("backbone", "method"), TABLE_5)
def test_fedmrs_table_5(backbone, method):
    recipe = fl.Recipe(backbone=backbone, method=method)
    for size, printed in zip(SIZES.values(), TABLE_5[backbone, method], strict=True):
        if printed is not None:
            assert fl.count_parameters(recipe, *size)["fedmr"] == printed


# FedVLR's Table 3, in thousands. It cuts digits off, but rounds in FedNCF's fused rows and in one cell elsewhere.
WIDER = {"beauty": (253, 356), "cards": (377, 129), "ml": (610, 3_650), **SIZES}
TABLE_3 = {
    ("fedavg", "none"): (22, 8, 233, None, 107, 72, 161),  # KU: 287 for 35.9
    ("fcf", "none"): (22, 8, 233, 35, None, None, 161),  # Dance, Food: 858, 576 for 107.3, 72.1
    ("fedncf", "none"): (88, 75, 556, 108, 1_535, 921, None),  # Movie: 1,182 for 2,370.8
    ("pfedrec", "none"): (22, 8, 233, None, 107, 72, 161),
    ("fedrap", "none"): (45, 16, 467, 71, 214, 144, 323),
    ("fedavg", "mlp"): (68, 24, 700, 107, 321, 216, 485),
    ("fcf", "mlp"): (68, 24, 700, 107, 321, 216, 485),
    ("pfedrec", "mlp"): (68, 24, 700, 107, 321, 216, 485),
    ("fedncf", "mlp"): (403, 273, 2_556, 527, 2_525, 1_629, 3_797),
    ("fedrap", "mlp"): (91, 33, 934, 143, 429, 288, 647),
    ("fedavg", "fedvlr"): (80, 37, 713, 120, 334, 228, 497),
    ("fcf", "fedvlr"): (80, 37, 713, 120, 334, 228, 497),
    ("pfedrec", "fedvlr"): (80, 37, 713, 120, 334, 228, 497),
    ("fedncf", "fedvlr"): (440, 311, 2_594, 564, 2_561, 1_666, 3_833),
    ("fedrap", "fedvlr"): (103, 45, None, 155, 441, 300, 659),  # ML: 946 for 947.0
}


@pytest.mark.parametrize(("backbone", "method"), TABLE_3)
def test_fedvlrs_table_3(backbone, method):
    recipe = fl.Recipe(backbone=backbone, method=method)
    for size, printed in zip(WIDER.values(), TABLE_3[backbone, method], strict=True):
        if printed is not None:
            counted = fl.count_parameters(recipe, *size)["fedvlr"]
            assert printed in (counted // 1000, round(counted / 1000)), (size, counted)


def test_fedvlrs_vbpr_row():
    """ "+VBPR" is 512 wide throughout: all users' two vectors and the item table. Food's 838 is 6,709 by this count."""
    for size, printed in zip(WIDER.values(), (441, 452, 2_493, 495, 11_334, None, 17_584), strict=True):
        if printed is not None:
            assert fl.count_parameters(fl.Recipe(method="vbpr", dim=512), *size)["fedvlr"] // 1000 == printed


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

"""Operators and bank: shapes, parameter counts and formulas of the papers. Every registered operator is greeted."""

import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.fusion import Bank, standardise
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


def test_bank_stacks_views_in_the_order_of_its_operators():
    torch.manual_seed(0)
    features = {"image": torch.randn(5, 7), "audio": torch.randn(5, 3)}
    bank = Bank(["gate", "sum"], features, n_items=5, id_dim=6, dim=4)
    assert bank().shape == (2, 5, 4)
    torch.testing.assert_close(bank()[1], bank.signals().sum(0))
    assert not [name for name in bank.state_dict() if name.startswith("feature")]


def test_standardising_a_constant_column_gives_zeros():
    feature = torch.tensor([[1.0, 2.0], [1.0, 4.0]])
    assert standardise(feature).tolist() == [[0, -1], [0, 1]]


def test_router_is_the_papers_size_and_reads_the_mean_of_the_users_items():
    torch.manual_seed(0)
    router = Router(3, 64)
    assert sum(p.numel() for p in router.parameters()) == 12_547
    own = torch.randn(3, 5, 64)
    torch.testing.assert_close(router(own), router(own.mean(dim=1, keepdim=True)))
    weights = router(own)
    torch.testing.assert_close(route(weights, own), sum(weights[e] * own[e] for e in range(3)))


def test_counts_of_the_papers_tables():
    """KU: FedMR's Table 5 (35,905 without fusion) and FedVLR's Table 3 (120 thousand)."""
    for backbone in ("fedavg", "fcf"):
        r = fl.Recipe(backbone=backbone)
        assert fl.count_parameters(r.but(method="none"), 204, 560)["client"] == 35_905
        fused = fl.count_parameters(r.but(method="fedvlr"), 204, 560)
        assert fused["client"] == 120_132
        # All learnable parts together are FedMR's 455,620: there a client holds what here is split over both sides.
        assert fused["server"] + fused["private"] == 455_620

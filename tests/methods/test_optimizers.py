"""The clients' optimiser against torch.optim, step by step."""

import pytest
import torch

from fedlab_mm.methods.optimizers import LocalOptimizer


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_moves_like_torch(name, weight_decay):
    generator = torch.Generator().manual_seed(0)
    start = {k: torch.randn(3, 4, generator=generator) for k in ("a", "b")}
    ours = {k: v.clone() for k, v in start.items()}
    optimizer = LocalOptimizer(name, ours, {"a": 0.1, "b": 0.3}, weight_decay)
    theirs = {k: torch.nn.Parameter(v.clone()) for k, v in start.items()}
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name]
    groups = [{"params": theirs["a"]}, {"params": theirs["b"], "lr": 0.3}]
    reference = kind(groups, lr=0.1, weight_decay=weight_decay)
    for _ in range(6):
        gradients = {k: torch.randn(3, 4, generator=generator) for k in start}
        for k, p in theirs.items():
            p.grad = gradients[k].clone()
        reference.step()
        optimizer.step(gradients)
    for k in start:
        torch.testing.assert_close(ours[k], theirs[k].detach(), rtol=1e-5, atol=1e-6)


def test_each_parameter_fades_by_its_own_steps():
    """FedRAP's rates shrink step by step; a parameter that is passed over keeps its rate."""
    ours = {"a": torch.zeros(1), "b": torch.zeros(1)}
    optimizer = LocalOptimizer("sgd", ours, {"a": 1.0, "b": 1.0}, decay=0.5, together=[["a"], ["b"]])
    one = torch.ones(1)
    optimizer.step({"a": one})
    optimizer.step({"a": one, "b": one})
    assert ours["a"].item() == -1.5 and ours["b"].item() == -1.0

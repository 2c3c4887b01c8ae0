"""What a backbone is to the methods and engines around it."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Backbone(nn.Module):
    """Scores item representations for one client.

    It does not know where the representations come from: a table of item IDs, or views that a router has mixed. A
    subclass registers as "backbone" and is built with the width of a representation.

    Class attributes:
        private: names of the parameters that never leave the client. What is not private is uploaded.
        aggregation: the rule that its paper mixes uploads with.
    """

    private: ClassVar[frozenset[str]] = frozenset()
    aggregation: ClassVar[str] = "weighted"

    def forward(self, items_ND: Tensor) -> Tensor:
        """Logits [N] of item representations [N, D]: Eq. 5 of FedVLR before the sigmoid, f(F̄_i; θ_u)."""
        raise NotImplementedError

    @staticmethod
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        """L_recon of each pair, same shape; a client minimises its mean. Binary cross-entropy unless overridden."""
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")

    @classmethod
    def slope(cls, logits: Tensor, labels: Tensor) -> Tensor:
        """∂loss/∂logit of each pair, for gradients written by hand. An override of `loss` need not give it."""
        if cls.loss is Backbone.loss:
            return torch.sigmoid(logits) - labels
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            return torch.autograd.grad(cls.loss(leaf, labels).sum(), leaf)[0]


class LinearBackbone(Backbone):
    """r̂_ui = θ_u·x_i + b_u: a dot product with the user's own vector, the whole of which is private.

    `stacked` relies on the score being linear in the item; a subclass may change loss and aggregation freely.
    """

    private = frozenset({"predictor.weight", "predictor.bias"})

    def __init__(self, dim: int):
        super().__init__()
        self.predictor = nn.Linear(dim, 1)

    def forward(self, items_ND: Tensor) -> Tensor:
        return self.predictor(items_ND).squeeze(-1)

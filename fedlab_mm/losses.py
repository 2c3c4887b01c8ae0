"""L_recon of the papers' Eq. 1: what a prediction costs, pair by pair."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fedlab_mm.registry import register


class Loss:
    """`of(logits, labels)` gives the loss of each pair, same shape; a client minimises its mean.

    Class attributes:
        whole: is it a sum over all items, of which the pairs are only the positives? Then no negatives are drawn, and
            the rest is told by a Gram matrix (`methods.whole`).
    """

    whole: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "of" in vars(cls) and "slope" not in vars(cls):  # a parent's slope is not that of another loss
            setattr(cls, "slope", Loss.slope)  # noqa: B010  # which a type checker would take for a method's assignment

    def of(self, logits: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError

    def slope(self, logits: Tensor, labels: Tensor) -> Tensor:
        """∂loss/∂logit of each pair, for gradients written by hand; a subclass need not give it."""
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            return torch.autograd.grad(self.of(leaf, labels).sum(), leaf)[0]


@register("loss", "bce")
class BinaryCrossEntropy(Loss):
    """−y log σ(s) − (1 − y) log(1 − σ(s)), which FedMR and FedVLR compare all backbones with."""

    def of(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")

    def slope(self, logits: Tensor, labels: Tensor) -> Tensor:
        return torch.sigmoid(logits) - labels


@register("loss", "squares")
class WeightedSquares(Loss):
    """½ c (y − s)² with confidence c = 1 for a negative and 4 for a positive: FCF's objective, after Hu, Koren and
    Volinsky (2008), who weigh a positive by 1 + α.

    FCF sums over all items; here four negatives are drawn for each positive, so c = 4 lets both sides weigh alike.
    """

    confidence = 4.0

    def of(self, logits: Tensor, labels: Tensor) -> Tensor:
        return 0.5 * (1 + (self.confidence - 1) * labels) * (logits - labels).square()

    def slope(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (1 + (self.confidence - 1) * labels) * (logits - labels)


@register("loss", "implicit")
class Implicit(Loss):
    """(1 − s)² of a positive; and α₀ s² of every item of the catalogue, positives among them (Hu, Koren and Volinsky
    2008, as Rendle et al. 2022 write it). α₀ is the recipe's `unobserved`."""

    whole = True

    def of(self, logits: Tensor, labels: Tensor) -> Tensor:
        return labels * (1 - logits).square()

    def slope(self, logits: Tensor, labels: Tensor) -> Tensor:
        return -2 * labels * (1 - logits)


class Divergence(Loss):
    """KL(σ(s) ‖ σ(e)) towards a target e that is a logit itself: what one model distils from another.

    >>> Divergence().of(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.0]))
    tensor([0., 0.])
    """

    def of(self, logits: Tensor, labels: Tensor) -> Tensor:
        q = torch.sigmoid(logits)
        liked = q * (F.logsigmoid(logits) - F.logsigmoid(labels))
        return liked + (1 - q) * (F.logsigmoid(-logits) - F.logsigmoid(-labels))

    def slope(self, logits: Tensor, labels: Tensor) -> Tensor:
        """σ'(s) · (s − e)."""
        q = torch.sigmoid(logits)
        return q * (1 - q) * (logits - labels)

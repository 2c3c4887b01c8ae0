"""FCF: Ammad-ud-din et al., "Federated Collaborative Filtering for Privacy-Preserving Personalized Recommendation
System", 2019."""

from fedlab_mm.backbones.base import LinearBackbone
from fedlab_mm.registry import register


@register("backbone", "fcf")
class FCF(LinearBackbone):
    """Collaborative filtering with private user factors, whose item side every client moves with equal weight.

    The loss is the binary cross-entropy that FedMR and FedVLR compare all backbones with, not FCF's own
    confidence-weighted squares.
    """

    aggregation = "equal"

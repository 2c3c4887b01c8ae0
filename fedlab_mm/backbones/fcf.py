"""FCF: Ammad-ud-din et al., "Federated Collaborative Filtering for Privacy-Preserving Personalized Recommendation
System", 2019."""

from fedlab_mm.backbones.base import LinearBackbone
from fedlab_mm.registry import register


@register("backbone", "fcf")
class FCF(LinearBackbone):
    """Collaborative filtering with private user factors, whose item side every client moves with equal weight.

    Its loss is the confidence-weighted square; a recipe's loss="bce" makes it the FCF that FedMR and FedVLR compare,
    which differs from FedAvg by the equal weights alone. FCF solves for the user factor in closed form; here the
    factor takes gradient steps like every other private parameter.
    """

    aggregation = "equal"
    loss = "squares"
    lr = 0.03

"""FCF: Ammad-ud-din et al., "Federated Collaborative Filtering for Privacy-Preserving Personalized Recommendation
System", 2019."""

from fedlab_mm.backbones.base import LinearBackbone
from fedlab_mm.registry import register


@register("backbone", "fcf")
class FCF(LinearBackbone):
    """Collaborative filtering with private user factors, whose item side every client moves with equal weight.

    With the binary cross-entropy it is the FCF that FedMR and FedVLR compare, which differs from FedAvg by the equal
    weights alone. A recipe's loss="squares" gives FCF's own objective, the confidence-weighted square (use lr=0.03 or
    less: it diverges under the rates of the cross-entropy). FCF solves for the user factor in closed form; here the
    factor takes gradient steps like every other private parameter.
    """

    aggregation = "equal"

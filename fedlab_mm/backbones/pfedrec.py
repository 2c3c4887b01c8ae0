"""PFedRec: Zhang et al., "Dual Personalization on Federated Recommendation", IJCAI 2023."""

from fedlab_mm.backbones.base import LinearBackbone
from fedlab_mm.registry import register


@register("backbone", "pfedrec")
class PFedRec(LinearBackbone):
    """Two personalisations: a private score function, and items fine-tuned on the device.

    In each local epoch a client steps its score function first and then, against the new one, its copy of the item
    side (its Algorithm 1). It uploads the item table whole, so that the server does not see which rows it touched by
    their absence, and scores with the items as its own epochs left them; the server's mean is only where the next
    round begins.
    """

    aggregation = "equal"
    alternates = True
    keeps_items = True

"""FedAvg: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017."""

from fedlab_mm.backbones.base import LinearBackbone
from fedlab_mm.registry import register


@register("backbone", "fedavg")
class FedAvg(LinearBackbone):
    """Matrix factorisation whose item side is averaged with weights n_u / Σ n, by each client's number of samples."""

    aggregation = "weighted"

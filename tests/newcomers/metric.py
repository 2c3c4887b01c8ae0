"""Reciprocal rank: 1 / rank."""

from fedlab_mm.evaluation.metrics import Metric
from fedlab_mm.registry import register


@register("metric", "mrr")
class ReciprocalRank(Metric):
    def gain(self, rank_R):
        return 1 / rank_R

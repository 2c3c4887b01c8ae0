"""The share of showings whose click is predicted at even odds."""

from fedlab_mm.evaluation.metrics import ClickMetric
from fedlab_mm.registry import register


@register("click metric", "accuracy")
class Accuracy(ClickMetric):
    def of(self, logit_N, click_N, user_N):
        return float(((logit_N > 0) == (click_N > 0)).mean())

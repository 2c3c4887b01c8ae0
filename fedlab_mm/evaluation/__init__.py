"""How predictions are judged: rankings with ties in expectation, clicks, and paired tests."""

from fedlab_mm.evaluation.clicks import evaluate_clicks, paired_auc
from fedlab_mm.evaluation.paired import paired_test
from fedlab_mm.evaluation.ranking import TIES, evaluate, evaluate_blocks, evaluate_split, evaluate_users, recommended
from fedlab_mm.evaluation.several import evaluate_blocks_of_several, evaluate_several, evaluate_users_of_several
from fedlab_mm.registry import import_members

import_members(__name__, __path__)

__all__ = [
    "TIES",
    "evaluate",
    "evaluate_blocks",
    "evaluate_blocks_of_several",
    "evaluate_clicks",
    "evaluate_several",
    "evaluate_split",
    "evaluate_users",
    "evaluate_users_of_several",
    "paired_auc",
    "paired_test",
    "recommended",
]

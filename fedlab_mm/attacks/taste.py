"""Which kinds of items does a client like?"""

import numpy as np
import pandas as pd

from fedlab_mm.attacks.report import Scene, report
from fedlab_mm.errors import FedlabError
from fedlab_mm.registry import register


@register("attack", "taste")
def infer_taste(scene: Scene) -> pd.DataFrame:
    """Which kinds does a client like? On a generated dataset, where that is known: a kind scores the mean of its items'
    scores; the truth is the two kinds that a user was made to like, for each signal.

    Raises:
        FedlabError: the dataset has no planted tastes.
    """
    truth = scene.data.truth
    if "taste_USK" not in truth:
        raise FedlabError(f"attack 'taste' needs planted tastes, which '{scene.data.name}' has not; 'toy' has")
    scores_UI = scene.watch(scene.data, scene.seed).scores_UI()
    rows = {}
    for s, (signal, kinds) in enumerate((("image", "style_I"), ("text", "topic_I"), ("collaborative", "cluster_I"))):
        taste_UK = truth["taste_USK"][:, s]
        liked_UK = taste_UK >= np.sort(taste_UK, axis=1)[:, -2:-1]
        kind_I = truth[kinds]
        scores_UK = np.stack([scores_UI[:, kind_I == k].mean(axis=1) for k in range(taste_UK.shape[1])], axis=1)
        leaning = truth["leans_U"] == s
        rows[f"{signal}, all users"] = report(scores_UK, liked_UK)
        rows[f"{signal}, who choose by it"] = report(scores_UK[leaning], liked_UK[leaning])
    return pd.DataFrame(rows).T

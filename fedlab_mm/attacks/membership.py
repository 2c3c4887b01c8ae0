"""Was this interaction in the training set?"""

import dataclasses
import warnings

import numpy as np
import pandas as pd

from fedlab_mm.attacks.report import Scene, report
from fedlab_mm.errors import FedlabError
from fedlab_mm.records import Dataset
from fedlab_mm.registry import register


@register("attack", "membership")
def infer_membership(scene: Scene) -> pd.DataFrame:
    """Was this interaction in the training set? A likelihood ratio as in LiRA (Carlini et al. 2022).

    Half of each user's items, and as many that it does not have, are the candidates; fewer where it leaves fewer free,
    and a user who leaves none is not asked. Federations are trained in pairs: in one of a pair every candidate is in or
    out by a coin, in the other the opposite. For a candidate in one federation, the other pairs say what its score is
    like in and out, equally often: two normal distributions (means of its own, one variance each for all), whose
    log-ratio is the attack.
    """
    from scipy.stats import norm

    rng = np.random.default_rng([scene.seed, 77])
    own_UI, data = scene.own_UI(), scene.data
    asked_UI = np.zeros_like(own_UI)
    for u in range(data.n_users):
        own = data.train[u]
        held = data.interactions["item"][data.interactions["user"] == u]
        free = np.setdiff1d(np.arange(data.n_items), held)
        to_draw = len(free) - (len(held) == len(own))  # a negative must be left where every candidate is in
        n = min(len(own) // 2, to_draw)
        if n > 0:
            asked_UI[u, rng.choice(own, n, replace=False)] = True
            asked_UI[u, rng.choice(free, n, replace=False)] = True
    if not asked_UI.any():
        raise FedlabError(f"attack 'membership': no user of {data.name} has two items of its own and leaves one free")
    if left_out := int((~asked_UI.any(axis=1)).sum()):
        warnings.warn(
            f"attack 'membership' leaves out {left_out} of {data.n_users} users: they have fewer than two training "
            "items, or leave no item free",
            stacklevel=2,
        )
    in_SUI, score_SUI = [], []
    for pair in range(scene.shadows // 2):
        coin_UI = rng.random(own_UI.shape) < 0.5
        for side, chosen_UI in enumerate((coin_UI, ~coin_UI)):
            in_SUI.append(np.where(asked_UI, chosen_UI, own_UI))
            score_SUI.append(scene.watch(_with_training(data, in_SUI[-1]), scene.seed + 2 * pair + side).scores_UI())
    is_in, score = np.array(in_SUI), np.array(score_SUI)
    ratio = np.zeros_like(score)
    for s in range(len(score)):
        others = np.arange(len(score)) // 2 != s // 2
        likelihood = []
        for kind in (is_in[others], ~is_in[others]):
            mean = (score[others] * kind).sum(axis=0) / np.maximum(kind.sum(axis=0), 1)
            pooled = ((score[others] - mean) ** 2 * kind)[:, asked_UI].sum() / kind[:, asked_UI].sum()
            likelihood.append(norm.logpdf(score[s], mean, np.sqrt(pooled) + 1e-9))
        ratio[s] = likelihood[0] - likelihood[1]
    flat = {name: x.reshape(-1, data.n_items) for name, x in (("ratio", ratio), ("score", score), ("in", is_in))}
    asked = np.tile(asked_UI, (len(score), 1))
    rows = {
        "likelihood ratio": report(flat["ratio"], flat["in"], asked),
        "score alone": report(flat["score"], flat["in"], asked),
    }
    return pd.DataFrame(rows).T


def _with_training(data: Dataset, in_UI: np.ndarray) -> Dataset:
    """The dataset with these training pairs; a user who would have none keeps one."""
    users, items = np.nonzero(in_UI)
    held = data.interactions[data.interactions["split"] != "train"]
    alone = np.setdiff1d(np.arange(data.n_users), users)
    users, items = np.concatenate([users, alone]), np.concatenate([items, [data.train[u][0] for u in alone]])
    train = pd.DataFrame({"user": users, "item": items.astype(np.int64), "timestamp": 0, "split": "train"})
    log = pd.concat([train, held], ignore_index=True).sort_values(["user", "timestamp"], kind="stable")
    return dataclasses.replace(data, interactions=log.reset_index(drop=True))

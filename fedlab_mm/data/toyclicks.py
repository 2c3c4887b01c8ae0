"""A small click log whose truth is known: how freely a user clicks, what its group likes, what it tires of."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from fedlab_mm.data.clicks import click_log
from fedlab_mm.errors import FedlabError
from fedlab_mm.records import ClickLog
from fedlab_mm.registry import register

N_USERS, N_ITEMS = 300, 800
N_GROUPS, N_KINDS, N_TOPICS, N_LENGTHS = 4, 8, 24, 4
FREE, LIKING, QUALITY, TIRED = (
    0.8,
    1.2,
    0.3,
    1.5,
)  # deviations of the first three on the scale of logits; the last a weight
START, HOUR = 1_704_067_200, 3_600


@register("dataset", "toy-clicks")
class ToyClicks:
    """300 users of four planted groups, 800 items of eight kinds, some 12,000 showings, generated in a second.

    A click's logit is b_u + A[group of u, kind of i] + q_i − 1.5 · the share of i's kind among the last three showings:
    users click more or less freely, groups like different kinds, items are better or worse, and three of a kind tire.
    The kind of item is an attribute; the group is not, but a user's region gives it away in half of the cases.

    `truth`: group_U; rate_U, b_u; liking_GK, A; quality_I, q; chance_N, of a click, for each row of `interactions`.
    """

    options = ("last", "progress")

    @classmethod
    def load(cls, root: str | Path | None = None, seed: int = 0, **options: Any) -> ClickLog:
        """`root` has no effect. Options: last, how many of a user's showings are for the test, and before them for
        validation (1)."""
        unknown = sorted(set(options) - set(cls.options))
        if unknown:
            raise FedlabError(f"toy-clicks has no option {unknown[0]}; there are: {', '.join(cls.options)}")
        rng = np.random.default_rng([seed, 12])
        group_U, rate_U = rng.integers(0, N_GROUPS, N_USERS), rng.normal(0, FREE, N_USERS)
        liking_GK = rng.normal(0, LIKING, (N_GROUPS, N_KINDS))
        topic_I = rng.integers(0, N_TOPICS, N_ITEMS)
        kind_I, quality_I = topic_I % N_KINDS, rng.normal(0, QUALITY, N_ITEMS)
        length_U = np.clip(rng.lognormal(3.5, 0.5, N_USERS), 9, 120).astype(int)
        user_N = np.repeat(np.arange(N_USERS), length_U)
        item_N = rng.integers(0, N_ITEMS, len(user_N))
        kind_N = kind_I[item_N]
        same_N = sum(
            (np.roll(kind_N, back) == kind_N) & (np.roll(user_N, back) == user_N) & (np.arange(len(user_N)) >= back)
            for back in (1, 2, 3)
        )
        logit_N = rate_U[user_N] + liking_GK[group_U[user_N], kind_N] + quality_I[item_N] - TIRED * same_N / 3
        chance_N = expit(logit_N)
        log = pd.DataFrame({"user": user_N, "item": item_N, "click": (rng.random(len(user_N)) < chance_N).astype(int)})
        log["timestamp"] = START + HOUR * (np.arange(len(log)) - np.repeat(np.cumsum(length_U) - length_U, length_U))
        known_U = rng.random(N_USERS) < 0.5
        region_U = np.where(known_U, group_U, rng.integers(0, N_GROUPS, N_USERS))
        users = pd.DataFrame({"id": range(N_USERS), "region": region_U, "device": rng.integers(0, 3, N_USERS)})
        lengths_I = rng.integers(0, N_LENGTHS, N_ITEMS)
        items = pd.DataFrame({"id": range(N_ITEMS), "kind": kind_I, "topic": topic_I, "length": lengths_I})
        about = {"licence": "none: generated", "source": "fedlab_mm"}
        result = click_log("toy-clicks", log, users, items, "toy-clicks", 3, about, options.get("last", 1))
        kept, shown = result.users["id"].to_numpy(), result.items["id"].to_numpy()
        truth = {
            "group_U": group_U[kept],
            "rate_U": rate_U[kept],
            "liking_GK": liking_GK,
            "quality_I": quality_I[shown],
            "chance_N": chance_N[np.isin(user_N, kept)],
        }
        return dataclasses.replace(result, truth=truth)

"""What an upload gives away, to a server that does as it was told and thinks about what it sees.

The papers' case for privacy is that interactions stay on the device. What leaves it is made from them, though: a client
uploads the rows of the items that it trained on, its own and the negatives that it drew. Two things tell one from the
other. A negative is drawn anew each round, an own item comes again; and under any loss the two pull their rows in
opposite directions along the client's own predictor, so that a client's rows lie along one line, own items on one side
of it. Which side that is, `orient` tells by what the draws do to either.

The attacks here know the recipe, the model, the broadcast values and the titles, and of each upload how many samples it
was made from; they do not know a client's private parameters.
With secure aggregation the server sees a round's sum only, and compares the rounds that a client was in with those it
was not. Where a method has clients show their prediction functions (GFMFR), no sum hides those: the server scores all
items under a client's function as that client would.
"""

import dataclasses
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedlab_mm.errors import FedlabError
from fedlab_mm.methods.base import Method
from fedlab_mm.records import Dataset, Upload
from fedlab_mm.registry import register

N_BOOTSTRAP = 100
WEIGHT = 3.0  # of what rounds tell together of sides, beside what one round tells
TINY = 1e-300
LITTLE = 0.05  # what a loss pulls a row that it leaves where it is, as scores are not quite zero


class Line(NamedTuple):
    """One upload's rows on the line along which they lie: their places, up to a sign common to all, and which of them
    tell of more than noise."""

    rows: np.ndarray
    place_N: np.ndarray
    loud_N: np.ndarray


@dataclass
class Ledger:
    """What a server writes down while it runs a federation.

    Attributes:
        n_users, n_items: of the federation; negatives: how many a client draws for each of its items, by the recipe.
        pulls: the size of the loss's slope at a score of zero, for an own item and for a negative.
        secure: does it see sums only?
        noise, hidden: the server knows the recipe: the variance of what a client adds to each number, and whether it
            sends rows that it did not touch.
        seen_U: in how many rounds each client took part; own_U: how many items it trains on.
        touched_UI: in how many rounds a client sent a row of an item that was not zero.
        lines: of each client, a `Line` for every round that it was in.
        norm_TI, there_TU: under secure aggregation, each round's size of the sum's rows, and who was in it.
        by_item: the names of the method's parts that have a row for each item.
        as_seen: how an upload scores all items, [I], under the prediction function that it shows; None where none does.
        shown_UI: those scores, from the last upload of each client.
    """

    n_users: int
    n_items: int
    negatives: int
    pulls: tuple[float, float] = (0.5, 0.5)
    secure: bool = False
    noise: float = 0.0
    hidden: bool = False
    as_seen: Callable[[Upload, Mapping[str, Tensor]], np.ndarray] | None = None
    by_item: Collection[str] = ()
    seen_U: np.ndarray = field(init=False)
    own_U: np.ndarray = field(init=False)
    touched_UI: np.ndarray = field(init=False)
    shown_UI: np.ndarray = field(init=False)
    lines: list[list["Line"]] = field(init=False)
    norm_TI: list[np.ndarray] = field(default_factory=list)
    there_TU: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def of(cls, method: Method, n_users: int, secure: bool) -> "Ledger":
        """What a server writes down that runs this method, and knows its recipe."""
        recipe = method.recipe
        slopes = method.loss.slope(torch.zeros(2), torch.tensor([1.0, 0.0])).abs().tolist()
        pulls, hidden = (slopes[0], slopes[1]), recipe.rows != "touched"
        by_item = [name for name, part in method.parts.items() if part.by_item]
        shows = as_seen(method)
        return cls(n_users, method.n_items, recipe.negatives, pulls, secure, recipe.noise, hidden, shows, by_item)

    def __post_init__(self) -> None:
        self.seen_U = np.zeros(self.n_users)
        self.own_U = np.zeros(self.n_users)
        self.touched_UI = np.zeros((self.n_users, self.n_items))
        self.shown_UI = np.zeros((self.n_users, self.n_items))
        self.lines = [[] for _ in range(self.n_users)]

    def take(self, upload: Upload, sent: Mapping[str, Tensor]) -> None:
        """One client's upload of a round."""
        if self.as_seen is not None:
            self.shown_UI[upload.client] = self.as_seen(upload, sent)
        if self.secure:
            return
        rows, change = row_changes(upload, sent, self.by_item)
        self.seen_U[upload.client] += 1
        self.own_U[upload.client] = upload.n_samples / (1 + self.negatives)
        if not len(rows):
            return
        self.touched_UI[upload.client, rows[(change != 0).any(axis=1)]] += 1
        # Where rows come that the client did not touch, noise alone must not vote on which side own items lie.
        untouched_too = self.hidden or len(rows) == self.n_items
        place_N, along = place_on_line(change)
        loud_N = moved(place_N, self.noise if untouched_too else 0.0)
        self.lines[upload.client].append(Line(rows, along * place_N, loud_N if loud_N.sum() > 1 else place_N != 0))

    def along_UI(self) -> np.ndarray:
        """How far each client's rows lie on the side of its own items, summed over rounds: float [U, I]."""
        along_UI = np.zeros((self.n_users, self.n_items))
        for u, lines in enumerate(self.lines):
            if lines:
                place_TI, loud_TI = np.zeros((2, len(lines), self.n_items))
                for t, line in enumerate(lines):
                    place_TI[t, line.rows], loud_TI[t, line.rows] = line.place_N, line.loud_N
                along_UI[u] = orient(place_TI, self.own_U[u], self.negatives, self.pulls, loud_TI) @ place_TI
        return along_UI

    def close_round(self, clients: np.ndarray, mixed: Mapping[str, Tensor]) -> None:
        """The round's sum, which the server sees in any case."""
        if self.secure:
            self.seen_U[clients] += 1
            there = np.zeros(self.n_users)
            there[clients] = 1
            by_item = [mixed[name].flatten(1) for name in self.by_item if name in mixed]
            size = torch.cat(by_item, dim=1).double().norm(dim=1) if by_item else torch.zeros(self.n_items)
            self.norm_TI.append(size.cpu().numpy())
            self.there_TU.append(there)

    def scores_UI(self, signal: str = "all") -> np.ndarray:
        """How much each item looks like one of a client's own: float [U, I].

        Args:
            signal: "touched" (how often its row came), "side" (on which side of the client's line), "shown" (its score
                under the prediction function that the client shows), or "all": the first two, and under secure
                aggregation what it leaves: the third, or else the sums.
        """
        if signal == "shown" or (self.secure and self.as_seen is not None):
            return self.shown_UI
        if self.secure:
            return self._from_sums()
        rounds_U1 = np.maximum(self.seen_U, 1)[:, None]
        scores_UI = self.touched_UI / rounds_U1 if signal != "side" else np.zeros_like(self.touched_UI)
        return scores_UI + self.along_UI() / rounds_U1 if signal != "touched" else scores_UI

    def _from_sums(self) -> np.ndarray:
        """Rounds with a client against rounds without; where it was in all or none, the rows' sizes themselves, which
        tell how popular an item is."""
        norm_TI, there_TU = np.array(self.norm_TI), np.array(self.there_TU)
        share_U = there_TU.mean(axis=0)
        scores_UI = (there_TU - share_U).T @ (norm_TI - norm_TI.mean(axis=0)) / len(norm_TI)
        always_U = (share_U == 0) | (share_U == 1)
        scores_UI[always_U] = norm_TI.mean(axis=0)
        return scores_UI


def as_seen(method: Method) -> Callable[[Upload, Mapping[str, Tensor]], np.ndarray] | None:
    """How a server scores all items under what an upload shows of its prediction function, [I]; None where uploads show
    nothing of it."""
    if not method.shown:
        return None
    return lambda upload, sent: method.as_seen(upload.values, sent["item_table"]).cpu().numpy()


def row_changes(
    upload: Upload, sent: Mapping[str, Tensor], by_item: Collection[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of an upload and what each says, all parts by item side by side: [N], [N, W].

    Args:
        by_item: the names of the parts that have a row for each item, which are read where an upload holds them whole.
    """
    rows, columns = upload.rows, []
    whole = not upload.by_row  # the rows that moved are the touched ones
    for label, value in upload.values.items():  # noqa: PD011
        name = label.removeprefix("∇")
        if name in (by_item if whole else upload.by_row):
            change = value if label.startswith("∇") else value - (sent[name] if whole else sent[name][rows])
            columns.append(change.flatten(1))
    if not columns:
        return np.zeros(0, dtype=np.int64), np.zeros((0, 1))
    if whole:
        rows = torch.arange(len(columns[0]), device=rows.device)
    return rows.cpu().numpy(), torch.cat(columns, dim=1).double().cpu().numpy()


def place_on_line(change_NW: np.ndarray) -> tuple[np.ndarray, float]:
    """Each row's place along the line on which a client's rows lie, [N], and the factor that makes places of many
    rounds one sum. Which of the two sides is that of own items is open.

    The factor puts places in units of their root mean square, times the share of the rows' squares that lies along the
    line: one where there is nothing else, next to nothing where noise has drowned it.

    >>> place_N, along = place_on_line(np.array([[-1.0], [0.3], [0.3], [0.2], [0.2]]) @ np.array([[0.6, 0.8]]))
    >>> (along * place_N).round(1).tolist()
    [2.0, -0.6, -0.6, -0.4, -0.4]
    """
    squares_N = (change_NW**2).sum(axis=1)
    if not squares_N.any():
        return np.zeros(len(change_NW)), 0.0
    line_W = change_NW[squares_N.argmax()]
    for _ in range(30):  # power iteration
        line_W = change_NW.T @ (change_NW @ (line_W / np.linalg.norm(line_W)))
    place_N = change_NW @ (line_W / np.linalg.norm(line_W))
    along = (place_N**2).sum()
    return place_N, np.sqrt((squares_N > 0).sum() / along) * along / squares_N.sum()


def orient(
    place_TI: np.ndarray,
    n_own: float,
    negatives: int,
    pulls: tuple[float, float] = (0.5, 0.5),
    loud_TI: np.ndarray | None = None,
) -> np.ndarray:
    """By what to multiply each round's places so that own items lie on the positive side, [T]: 1 or −1, and less where
    nearly all lies on one side (FedRAP's own rows come to rest once the personal table holds what they say).

    Each round draws every own item once, and every other as chance has it. Of a single round that says:

    * of N draws among m others, m (1 − (1 − 1/m)^N) come at all, and weigh as much as m N / (m + N) of equal size;
    * in a client's first round scores are near zero, and a loss may pull own rows by another amount than negatives.

    A clue counts by how far apart it expects the sides to be. The rounds are then turned one way, the surest first,
    each by its own clues and by the items that it shares with those before it. Of all rounds together that says:

    * own places come again, each as large as its neighbours, and the others' change.

    With one negative for each item, few items and a single round to see, nothing tells the sides apart but that a
    negative may have come twice.

    Args:
        place_TI: a client's places, from its first round on, zero where nothing came.
        n_own: how many items it has; negatives: how many it draws for each.
        pulls: the size of the loss's slope at a score of zero, for an own item and for a negative.
        loud_TI: bool, which places tell of more than noise; all, if left out.

    >>> own, drawn = [1, 1, 1, 0, 0, 0, 0, 0], [[0, 0, 0, 1, 2, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 2]]
    >>> orient(np.array([[0.5], [-0.5]]) * (np.array(drawn) - own), n_own=3, negatives=1).tolist()
    [-1.0, 1.0]
    """
    others, drawn = max(place_TI.shape[1] - n_own, 1.0), negatives * n_own
    unit_TI = place_TI / (np.linalg.norm(place_TI, axis=1) + TINY)[:, None]
    place_TI = place_TI if loud_TI is None else place_TI * loud_TI
    sides = np.stack([place_TI.clip(min=0), -place_TI.clip(max=0)])  # [2, T, I]
    sum_ST, squares_ST = sides.sum(axis=2), (sides**2).sum(axis=2) + TINY
    come, weigh = (sides > 0).sum(axis=2) + 0.5, sum_ST**2 / squares_ST + 0.5
    clue_T = np.log(come[0] / come[1]) * np.log(n_own / (others * -np.expm1(-drawn / others)))
    clue_T += np.log(weigh[0] / weigh[1]) * np.log(n_own * (others + drawn) / (others * drawn))
    pull_S = sum_ST[:, 0] + LITTLE * sum_ST[:, 0].sum() + TINY
    pull = (pulls[0] + LITTLE) / (negatives * (pulls[1] + LITTLE))
    clue_T[0] += np.log(pull_S[0] / pull_S[1]) * np.log(pull)

    sign_T, before_I = np.ones(len(place_TI)), np.zeros(place_TI.shape[1])
    for t in np.argsort(-np.abs(clue_T)):
        shared = unit_TI[t] @ before_I / max(np.linalg.norm(before_I), TINY)
        sign_T[t] = 1.0 if clue_T[t] + WEIGHT * shared >= 0 else -1.0
        before_I += sign_T[t] * unit_TI[t]

    turned_TI = sign_T[:, None] * unit_TI
    sides = np.stack([turned_TI.clip(min=0), -turned_TI.clip(max=0)])
    alike = sides * (sides.sum(axis=2) / ((sides**2).sum(axis=2) + TINY))[:, :, None]
    again_S = (alike.sum(axis=1) ** 2).sum(axis=1) / ((alike**2).sum(axis=(1, 2)) + TINY) + 1e-3
    evidence = (sign_T * clue_T).mean() + WEIGHT * np.log(again_S[0] / again_S[1])
    sign_T, ordered = (sign_T, sides) if evidence >= 0 else (-sign_T, sides[::-1])
    share_T = ordered[0].sum(axis=1) / (ordered.sum(axis=(0, 2)) + TINY)
    return sign_T * np.minimum(2 * (1 + pull) * np.minimum(share_T / pull, 1 - share_T), 1)


def moved(place_N: np.ndarray, noise: float) -> np.ndarray:
    """Which rows lie further out on the line than three deviations of the noise, bool [N].

    >>> moved(np.array([0.0, -2.9, 3.1]), noise=1.0).tolist()
    [False, False, True]
    """
    return np.abs(place_N) > 3 * np.sqrt(noise)


def report(scores_UI: np.ndarray, own_UI: np.ndarray, asked_UI: np.ndarray | None = None, seed: int = 0) -> pd.Series:
    """How well scores tell own from other, with 95 % bootstrap intervals over users.

    Args:
        scores_UI: higher means more likely own; own_UI: the truth; asked_UI: which pairs count, all if left out.

    Returns:
        auc (the mean over users of each user's own), auc low and high; tpr@1%fpr (one threshold for all users), low and
        high; users. An auc below one half is no safety: its scores tell own from other upside down.

    >>> own = np.tile([True, False, False, False], (9, 1))
    >>> report(own + 0.0, own)[["auc", "tpr@1%fpr"]].tolist()
    [1.0, 1.0]
    """
    from scipy.stats import rankdata

    asked_UI = np.ones_like(own_UI, dtype=bool) if asked_UI is None else asked_UI
    users, aucs = [], []
    for u in range(len(own_UI)):
        own, score = own_UI[u][asked_UI[u]], scores_UI[u][asked_UI[u]]
        n_own, n_other = int(own.sum()), int((~own).sum())
        if n_own and n_other:
            ranks = rankdata(score)[own].sum() - n_own * (n_own + 1) / 2
            users.append((score, own))
            aucs.append(ranks / (n_own * n_other))
    if not users:
        raise FedlabError("the attack has no user with both kinds of pairs")
    rng, auc = np.random.default_rng(seed), np.array(aucs)
    resampled = auc[rng.integers(0, len(auc), (10 * N_BOOTSTRAP, len(auc)))].mean(axis=1)
    picks = [np.arange(len(users)), *rng.integers(0, len(users), (N_BOOTSTRAP, len(users)))]
    tprs = [_tpr([users[n] for n in pick]) for pick in picks]
    return pd.Series(
        {
            "auc": auc.mean(),
            "auc low": np.quantile(resampled, 0.025),
            "auc high": np.quantile(resampled, 0.975),
            "tpr@1%fpr": tprs[0],
            "tpr low": np.quantile(tprs[1:], 0.025),
            "tpr high": np.quantile(tprs[1:], 0.975),
            "users": len(auc),
        }
    )


def _tpr(users: Sequence[tuple[np.ndarray, np.ndarray]], at: float = 0.01) -> float:
    """The true positive rate where one in a hundred others is taken for own; ties at the threshold count in part."""
    score = np.concatenate([s for s, _ in users])
    own = np.concatenate([o for _, o in users])
    others = score[~own]
    allowed = at * len(others)
    nth = max(0, len(others) - 1 - int(allowed))
    threshold = np.sort(others)[nth]  # among many ties a partition takes eight times as long
    above, tied = (others > threshold).sum(), (others == threshold).sum()
    part = min(1.0, max(0.0, (allowed - above) / tied))
    mine = score[own]
    return float(((mine > threshold).sum() + part * (mine == threshold).sum()) / len(mine))


@dataclass(frozen=True)
class Scene:
    """What an attack is given: a federation to watch, and how to watch another.

    Attributes:
        data: whose privacy is at stake; watch: trains on a dataset with a seed and returns what the server wrote down.
        shadows: how many federations an attacker trains itself, where it does; seed: of what it draws.
    """

    data: Dataset
    watch: Callable[[Dataset, int], Ledger]
    shadows: int
    seed: int

    def own_UI(self, data: Dataset | None = None) -> np.ndarray:
        train = (data or self.data).train
        own_UI = np.zeros((len(train), self.data.n_items), dtype=bool)
        own_UI[train.users, train.items] = True
        return own_UI


@register("attack", "items")
def infer_items(scene: Scene) -> pd.DataFrame:
    """Which items did a client interact with? All items are ranked by what its uploads say; beside it the rank by
    popularity, which needs no upload."""
    own_UI = scene.own_UI()
    ledger = scene.watch(scene.data, scene.seed)
    rows = {"uploads": report(ledger.scores_UI(), own_UI)}
    if not ledger.secure:
        rows |= {f"uploads, {signal} only": report(ledger.scores_UI(signal), own_UI) for signal in ("touched", "side")}
    if ledger.as_seen is not None:
        rows["prediction function shown"] = report(ledger.scores_UI("shown"), own_UI)
    popularity_UI = np.tile(scene.data.popularity_I.astype(float), (scene.data.n_users, 1))
    rows["popularity alone"] = report(popularity_UI, own_UI)
    return pd.DataFrame(rows).T


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

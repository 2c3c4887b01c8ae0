"""What a server writes down while it runs a federation."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.attacks.lines import Line, moved, orient, place_on_line
from fedlab_mm.methods.base import Method
from fedlab_mm.methods.whole import GRAM
from fedlab_mm.records import Upload


@dataclass
class Ledger:
    """What a server writes down while it runs a federation.

    Attributes:
        n_users, n_items: of the federation; negatives: how many a client draws for each of its items, by the recipe;
            none under a loss over the whole catalogue.
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
        seen_by: what of an upload shows it, as reports name it.
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
    seen_by: str = "prediction function shown"
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
        negatives = 0 if method.loss.whole else recipe.negatives
        slopes = method.loss.slope(torch.zeros(2), torch.tensor([1.0, 0.0])).abs().tolist()
        pulls, hidden = (slopes[0], slopes[1]), recipe.rows != "touched"
        by_item = [name for name, part in method.parts.items() if part.by_item]
        shows = as_seen(method, secure)
        seen_by = "uploads, matrix only" if method.loss.whole else cls.seen_by
        return cls(n_users, method.n_items, negatives, pulls, secure, recipe.noise, hidden, shows, by_item, seen_by)

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
            by_item = [mixed[name].reshape(self.n_items, -1) for name in self.by_item if name in mixed]
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


def as_seen(method: Method, secure: bool) -> Callable[[Upload, Mapping[str, Tensor]], np.ndarray] | None:
    """How a server scores all items under what an upload tells of its prediction function, [I]; None where uploads tell
    nothing of it. A predictor that is shown is in no sum, so secure aggregation does not hide it; a matrix it does."""
    if method.loss.whole:
        return None if secure else by_matrix
    readable = method.shown and all(n.startswith("backbone.") for n in method.shown) and "item_table" in method.parts
    if not readable:
        return None
    return lambda upload, sent: method.as_seen(upload.values, sent["item_table"]).cpu().numpy()


def by_matrix(upload: Upload, sent: Mapping[str, Tensor]) -> np.ndarray:
    """All items' scores by the q of a client that uploads α₀ (q qᵀ + λ 1): its first axis, [I]. The axis has no sign;
    scores of own items are near one and the others' near zero, so it is turned that way."""
    matrix_KK = upload.values[f"∇{GRAM}"].double()
    q_K = torch.linalg.eigh((matrix_KK + matrix_KK.T) / 2).eigenvectors[:, -1]
    rows_IK = sent["views"].flatten(1) if "views" in sent else sent["item_table"]
    scores_I = rows_IK.double() @ q_K
    return (scores_I * scores_I.pow(3).sum().sign()).cpu().numpy()


def row_changes(
    upload: Upload, sent: Mapping[str, Tensor], by_item: Collection[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of an upload and what each says, all parts by item side by side: [N], [N, W].

    Args:
        by_item: the names of the parts that have a row for each item, which are read where an upload holds them whole.
    """
    rows, columns = upload.rows, []
    whole = not upload.by_row  # the rows that moved are the touched ones
    for label, value in upload.values.items():
        name = label.removeprefix("∇")
        if name in (by_item if whole else upload.by_row):
            change = value if label.startswith("∇") else value - (sent[name] if whole else sent[name][rows])
            columns.append(change.reshape(len(change), -1))
    if not columns:
        return np.zeros(0, dtype=np.int64), np.zeros((0, 1))
    if whole:
        rows = torch.arange(len(columns[0]), device=rows.device)
    return rows.cpu().numpy(), torch.cat(columns, dim=1).double().cpu().numpy()

"""GFMFR: fusion on the server, for groups of users, handed on as preferences; the client holds no fusion at all.

"Multimodal-enhanced Federated Recommendation: A Group-wise Fusion Approach".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from fedlab_mm.aggregation import Aggregation, by_group
from fedlab_mm.draws import keys, uniforms
from fedlab_mm.errors import FedlabError
from fedlab_mm.fusion import Bank, Inputs, map_name
from fedlab_mm.grouping import MOST, aligned, split
from fedlab_mm.losses import Divergence
from fedlab_mm.methods.none import NoFusion
from fedlab_mm.methods.parts import Batch, Memory, Parameters, Part
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import lookup, register
from fedlab_mm.settings import NOT_NEGATIVE, Settings, at_least, member_of, one_of, setting
from fedlab_mm.threads import lap, paced

RATIO = "distill_ratio"
NONE = 1e9  # stands where a group has no preference yet; no logit is as large
MEMORY = 0.9  # of the moving average of a client's ratio of losses
LARGEST = 10.0  # that the ratio may become: where a client agrees with its group there is nothing to scale up
FIT_LR = 0.01
SALT = 0x6F47
BEHAVIOUR = 32  # components of the features that behaviour is described by


@register("method", "gfmfr")
class GFMFR(NoFusion):
    """The ID-based recommender, whose loss has a second part: L = L_rec + λ_t · c_u · L_dis.

    L_dis is the mean over a client's samples of KL(σ(r̂_ui) ‖ σ(e_li)), e_li the preference of its group l for item i,
    one number an item, which the server makes of what items look like and read like:

    1. it groups clients by their prediction functions (`grouping`), which they show it in this method alone (`shown`);
    2. for each group it mixes the members' item rows (`aggregation.by_group`) and fits a fusion of the modalities to
       that mean, in squared error;
    3. it scores the fused items by the mean of the members' prediction functions: e_l.

    Rounds without preferences (the first, and a client's own first) have no L_dis. With λ = 0 it is `none`.

    | paper | here |
    |---|---|
    | P_u | the private parameters of the backbone, `shown` |
    | Q_l, group l's features | `fused(l)`: the mean of the views of the recipe's operators |
    | E_M, soft labels | column l of `preferences`, as logits |
    | λ | `distill`, with `distill_schedule`; c_u: `distill_scale` |

    Raises:
        FedlabError: no modality; a mechanism of privacy that does not cover what clients show.
    """

    @dataclass(frozen=True)
    class Params(Settings):
        """
        Attributes:
            groups: their number; None: chosen in every round by silhouette, up to 8.
            grouping: what clients are grouped by: "prediction" (their prediction functions), "behaviour" (the features
                of the rows that they have sent so far) or "random".
            clustering: "kmeans" or "spectral".
            distill: λ.
            distill_schedule: "cosine", from λ down to zero over the rounds, or "constant".
            distill_scale: "ratio" multiplies the distillation loss by how much larger the recommendation loss is, a
                moving average of each client's own, which asks for small rates (at the default ones it diverges on the
                toy set); "none" does not.
            fit_epochs: steps of each group's fusion module in a round.
        """

        groups: int | None = setting(4, at_least(1))
        grouping: str = setting("prediction", member_of("grouping"))
        clustering: str = setting("kmeans", member_of("clustering"))
        distill: float = setting(0.1, NOT_NEGATIVE)
        distill_schedule: str = setting("cosine", one_of("cosine", "constant"))
        distill_scale: str = setting("none", one_of("ratio", "none"))
        fit_epochs: int = setting(50, at_least(1))

    second_loss = Divergence()
    stands_still = False

    def __init__(self, recipe: Recipe, n_items: int, features: Parameters):
        super().__init__(recipe, n_items, features)
        if not self.features:
            raise FedlabError("method 'gfmfr' distils modalities, and without= leaves none")
        if recipe.clip is not None or recipe.rows != "touched":
            raise FedlabError(
                "method 'gfmfr' shows the server each client's prediction function, which clip and rows do not cover: "
                "use noise, or another method"
            )
        self.shown = [n for n in self.private if n.startswith("backbone.")]
        self.client.register_parameter(RATIO, nn.Parameter(torch.zeros(1)))
        self.private.append(RATIO)
        self.untrained.add(RATIO)
        self.n_groups = recipe.groups or MOST
        width = self.client.backbone.item_width
        widths = {m: f.shape[1] for m, f in self.features.items()}
        self.inputs = self.shared.inputs = Inputs(self.features, recipe.feature_scale)
        self.fusions = [Bank(recipe.operators, widths, n_items, width) for _ in range(self.n_groups)]
        self.shared.fusions = nn.ModuleList(self.fusions)
        # A column for each group, and the last for clients without one.
        self.shared.register_buffer("preferences", torch.full((n_items, self.n_groups + 1), NONE))
        self.parts["preferences"] = Part(by_item=True, moves=False, upload=None, by_group=True)

    def broadcast(self) -> dict[str, Tensor]:
        return {**super().broadcast(), "preferences": self.shared.get_buffer("preferences")}

    # On the client.

    def guide(self, logits_N: Tensor, local: Parameters, batch: Batch, round: int) -> dict[str, Tensor]:
        """What a client distils from in this round: its group's preferences and their weight λ_t · c_u, zero where it
        has no group yet. Moves the client's average of the ratio."""
        preferences_N, ratio_1 = local["preferences"], local[RATIO]
        grouped = (preferences_N < NONE).all(dim=-1)
        preferences_N = torch.where(preferences_N < NONE, preferences_N, 0.0)
        weight = grouped.to(logits_N) * self.strength(round)
        if self.recipe.distill_scale == "ratio":
            recommended = (batch.share_N * self.loss.of(logits_N, batch.label_N)).sum(dim=-1)
            distilled = (batch.share_N * self.second_loss.of(logits_N, preferences_N)).sum(dim=-1)
            now = (recommended / distilled.clamp(min=1e-12)).clamp(max=LARGEST)
            before = ratio_1[..., 0]
            average = torch.where(before > 0, MEMORY * before + (1 - MEMORY) * now, now)
            ratio_1[..., 0] = torch.where(grouped, average, before)
            weight = weight * torch.minimum(ratio_1[..., 0], now)  # what has grown since must not grow over L_rec
        return {"target": preferences_N, "guidance": weight}

    def strength(self, round: int) -> float:
        """λ_t."""
        if self.recipe.distill_schedule == "constant":
            return self.recipe.distill
        return self.recipe.distill * (1 + math.cos(math.pi * (round - 1) / self.recipe.rounds)) / 2

    # On the server.

    def fused(self, group: int) -> Tensor:
        """Q_l: [I, item_width]."""
        return self.fusions[group](self.inputs()).mean(dim=0)

    def fit(self, groups: Sequence[int], targets_GIW: Tensor) -> None:
        """Fit fusions of some groups, each to the mean of its members' item rows, from where the last round left them.

        All at once, which is the same as each on its own: nothing that a fusion learns depends on another.
        """
        with paced("fit", len(groups), self.n_items, self.recipe.operators, self.recipe.fit_epochs):
            self._fit(groups, targets_GIW)

    def _fit(self, groups: Sequence[int], targets_GIW: Tensor) -> None:
        banks = [self.fusions[group] for group in groups]
        stacked, _ = stack_module_state(banks)
        inputs = self.inputs()
        optimizer = torch.optim.Adam(list(stacked.values()), lr=FIT_LR, fused=True)

        def views(parameters: Parameters, signals_MID: Tensor) -> Tensor:
            return functional_call(banks[0], dict(parameters), (inputs, signals_MID)).mean(dim=0)

        for _ in range(self.recipe.fit_epochs):
            optimizer.zero_grad()
            mapped = []
            for modality, feature_Id in inputs.items():  # one product with the maps of all groups
                weight_GWd = stacked[f"{map_name(modality)}.weight"]
                mapped_IGW = (feature_Id @ weight_GWd.flatten(0, 1).T).view(len(feature_Id), *weight_GWd.shape[:2])
                mapped.append(mapped_IGW.transpose(0, 1) + stacked[f"{map_name(modality)}.bias"][:, None])
            error_GIW = torch.func.vmap(views)(stacked, torch.stack(mapped, dim=1)) - targets_GIW
            error_GIW.square().mean(dim=(1, 2)).sum().backward()
            optimizer.step()
            lap()
        for g, bank in enumerate(banks):
            bank.load_state_dict({name: parameter[g] for name, parameter in stacked.items()})

    @torch.no_grad()
    def prefer(self, group: int, shown_K: Tensor) -> Tensor:
        """e_l, [I]: the fused items, scored by the mean of the members' prediction functions."""
        own, start = {}, 0
        for name in self.shown:
            parameter = self.client.get_parameter(name)
            own[name] = shown_K[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()
        return self.as_seen(own, self.fused(group))

    def apart(self) -> int:
        ratio = self.client.get_parameter(RATIO).numel()  # kept, not learned
        return ratio + sum(p.numel() for p in self.shared.get_submodule("fusions").parameters())

    def server_optimizer(self) -> None:
        """The server averages, and fits fusions apart."""

    def memory(self, n_users: int, n_wanted: int) -> "Groups":
        return Groups(self, n_users, n_wanted)


class Groups(Memory):
    """The server's groups of clients, from all that each has shown when it last took part: sections 4.2 and 4.3.

    Attributes:
        group_U: int64 [U], −1 for a client that was never there.
        shown_UK: what each showed last; behaviour_UK: the sum of the features of all rows that it has sent, and
            n_rows_U their number.

    Raises:
        FedlabError: more groups than a round has clients.
    """

    def __init__(self, method: GFMFR, n_users: int, n_wanted: int):
        r = method.recipe
        if (r.groups or 1) > n_wanted:
            raise FedlabError(f"groups={r.groups}: a round has {n_wanted} clients; lower groups, or raise clients")
        self.method, self.recipe, self.n_groups = method, r, method.n_groups
        self.group_U = np.full(n_users, -1, dtype=np.int64)
        width = sum(method.client.get_parameter(n).numel() for n in method.shown)
        self.shown_UK = torch.zeros(n_users, width, dtype=r.dtype)
        self.n_rows_U = torch.zeros(n_users, dtype=torch.float64)
        self.features_IK = torch.zeros(method.n_items, 0)
        self.grouping: Grouping = lookup("grouping", r.grouping)()
        if self.grouping.reads_items:
            from sklearn.decomposition import PCA

            joined = torch.cat([f.cpu().double() for f in method.inputs().values()], dim=1).numpy()
            n = min(BEHAVIOUR, *joined.shape)
            self.features_IK = torch.from_numpy(PCA(n, svd_solver="full").fit_transform(joined))
        self.behaviour_UK = torch.zeros(n_users, self.features_IK.shape[1], dtype=torch.float64)

    def columns(self, users: Tensor) -> Tensor:
        """Which column of `preferences` each of some clients is sent: its group's, or the last."""
        group = torch.from_numpy(self.group_U).to(users.device)[users]
        return torch.where(group < 0, self.n_groups, group)

    def groups_of_users(self) -> np.ndarray:
        return self.group_U.copy()

    def begin(self, sent: Parameters) -> None:
        self.table_IW = sent["item_table"].detach().clone()
        self.pairs: list[tuple[Tensor, ...]] = []  # user, item, change, False in padding
        self.shown: list[tuple[np.ndarray, Tensor]] = []

    def take(self, uploads: Any) -> None:
        rows = uploads.changes["item_table"]
        assert rows.rows_CN is not None and rows.there_CN is not None
        users_CN = torch.from_numpy(uploads.clients).to(rows.rows_CN.device)[:, None].expand_as(rows.rows_CN)
        pairs = users_CN.flatten(), rows.rows_CN.flatten(), rows.value.flatten(0, 1), rows.there_CN.flatten()
        self.pairs.append(pairs)
        shown = [uploads.changes[name].value[:, None].flatten(1) for name in self.method.shown]
        self.shown.append((uploads.clients, torch.cat([rows.value.new_empty(len(users_CN), 0), *shown], dim=1)))

    def end(self, clients: np.ndarray, n_samples_C: np.ndarray, rule: Aggregation) -> None:
        """Group everybody seen so far, mix this round's rows by group, fit the fusions, make the preferences.

        A group of which nobody took part keeps its fusion and what it preferred.
        """
        user_P, item_P, change_PW, there_P = map(torch.cat, zip(*self.pairs, strict=True))
        user_P, item_P, change_PW = user_P[there_P], item_P[there_P], change_PW[there_P]
        for some, shown_CK in self.shown:
            self.shown_UK[torch.from_numpy(some)] = shown_CK.cpu()
        if self.features_IK.shape[1]:
            self.behaviour_UK.index_add_(0, user_P.cpu(), self.features_IK[item_P.cpu()])
        self.n_rows_U.index_add_(0, user_P.cpu(), torch.ones(len(user_P), dtype=torch.float64))
        seen = np.union1d(np.flatnonzero(self.group_U >= 0), clients)
        self.group_U[seen] = self.grouping.labels(self, seen)

        matrix_GC = by_group(rule, n_samples_C, self.group_U[clients], self.n_groups)
        weight_U = np.zeros(len(self.group_U))
        weight_U[clients] = matrix_GC.sum(axis=0)
        weight_P = torch.from_numpy(weight_U)[user_P.cpu()].to(self.table_IW)
        group_P = torch.from_numpy(self.group_U)[user_P.cpu()].to(self.table_IW.device)
        preferences_IG = self.method.shared.get_buffer("preferences")
        present = np.flatnonzero(matrix_GC.any(axis=1)).tolist()
        targets = []
        for group in present:
            of_it = group_P == group
            change_NW = weight_P[of_it, None] * change_PW[of_it]
            targets.append(self.table_IW.index_add(0, item_P[of_it], change_NW))
        self.method.fit(present, torch.stack(targets))
        for group in present:
            members = torch.from_numpy(np.flatnonzero(self.group_U == group))
            mean_K = self.shown_UK[members].mean(dim=0).to(self.table_IW)
            preferences_IG[:, group] = self.method.prefer(group, mean_K)
        self.pairs, self.shown = [], []  # they are large, and a round is all that they are for

    def clustered(self, vectors_CK: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Groups of like vectors, under names that keep as many clients as can be under the name they had."""
        r = self.recipe
        return aligned(split(vectors_CK, r.groups, r.clustering, r.seed), self.group_U[seen], self.n_groups)

    def state(self) -> dict[str, Tensor]:
        return {
            "groups.of": torch.from_numpy(self.group_U.copy()),
            "groups.shown": self.shown_UK.clone(),
            "groups.rows": self.n_rows_U.clone(),
            "groups.behaviour": self.behaviour_UK.clone(),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.group_U[:] = state["groups.of"].numpy()
        for name, tensor in (("shown", self.shown_UK), ("rows", self.n_rows_U), ("behaviour", self.behaviour_UK)):
            tensor.copy_(state[f"groups.{name}"])


class Grouping:
    """What the server groups clients by. A subclass registers as "grouping"."""

    reads_items: ClassVar[bool] = False  # does it need a description of the rows that clients sent?

    def labels(self, memory: Groups, seen: np.ndarray) -> np.ndarray:
        """A group for each of the clients that were ever there: int64 [C]."""
        raise NotImplementedError


@register("grouping", "prediction")
class ByPrediction(Grouping):
    """By the prediction functions that clients show."""

    def labels(self, memory: Groups, seen: np.ndarray) -> np.ndarray:
        return memory.clustered(memory.shown_UK[seen].double().numpy(), seen)


@register("grouping", "behaviour")
class ByBehaviour(Grouping):
    """By the features of the rows that clients have sent so far."""

    reads_items = True

    def labels(self, memory: Groups, seen: np.ndarray) -> np.ndarray:
        return memory.clustered((memory.behaviour_UK / memory.n_rows_U.clamp(min=1)[:, None])[seen].numpy(), seen)


@register("grouping", "random")
class AtRandom(Grouping):
    """Drawn, once for each client: what a grouping that is worth its name must beat."""

    def labels(self, memory: Groups, seen: np.ndarray) -> np.ndarray:
        drawn = uniforms(keys(memory.recipe.seed, 0, seen, SALT)[:, None], np.arange(1))[:, 0]
        return (drawn * memory.n_groups).astype(np.int64).clip(max=memory.n_groups - 1)

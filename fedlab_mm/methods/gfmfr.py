"""GFMFR: fusion on the server, for groups of users, handed on as preferences; the client holds no fusion at all.

"Multimodal-enhanced Federated Recommendation: A Group-wise Fusion Approach".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from fedlab_mm.errors import FedlabError
from fedlab_mm.fusion import Bank, Inputs, map_name
from fedlab_mm.grouping import MOST
from fedlab_mm.methods.base import Batch, Parameters, Part
from fedlab_mm.methods.none import NoFusion
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import register
from fedlab_mm.settings import NOT_NEGATIVE, Settings, at_least, one_of, setting
from fedlab_mm.threads import lap, paced

RATIO = "distill_ratio"
NONE = 1e9  # stands where a group has no preference yet; no logit is as large
MEMORY = 0.9  # of the moving average of a client's ratio of losses
LARGEST = 10.0  # that the ratio may become: where a client agrees with its group there is nothing to scale up
FIT_LR = 0.01


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
        grouping: str = setting("prediction", one_of("prediction", "behaviour", "random"))
        clustering: str = setting("kmeans", one_of("kmeans", "spectral"))
        distill: float = setting(0.1, NOT_NEGATIVE)
        distill_schedule: str = setting("cosine", one_of("cosine", "constant"))
        distill_scale: str = setting("none", one_of("ratio", "none"))
        fit_epochs: int = setting(50, at_least(1))

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

    def phases(self) -> list[list[str]]:
        return [[n for n in phase if n != RATIO] for phase in super().phases()]

    def client_update(
        self, private: dict[str, Tensor], sent: Parameters, batch: Batch, round: int, stacked: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            local = {**private, **sent}
            if stacked:
                logits = torch.func.vmap(lambda own, own_N: self.logits(own, own_N))(local, batch.own_N)
            else:
                logits = self.logits(local, batch.own_N)
            guided = self.guided(logits, sent["preferences"], batch, private[RATIO], round)
        return super().client_update(private, {**sent, **guided}, batch, round, stacked)

    def guided(
        self, logits_N: Tensor, preferences_N: Tensor, batch: Batch, ratio_1: Tensor, round: int
    ) -> dict[str, Tensor]:
        """What a client distils from in this round: its group's preferences and their weight λ_t · c_u, zero where it
        has no group yet. Moves the client's average of the ratio. Leading axes of clients are carried along."""
        known = (preferences_N < NONE).all(dim=-1)
        preferences_N = torch.where(preferences_N < NONE, preferences_N, 0.0)
        weight = known.to(logits_N) * self.strength(round)
        if self.recipe.distill_scale == "ratio":
            recommended = (batch.share_N * self.loss.of(logits_N, batch.label_N)).sum(dim=-1)
            distilled = (batch.share_N * divergence(logits_N, preferences_N)).sum(dim=-1)
            now = (recommended / distilled.clamp(min=1e-12)).clamp(max=LARGEST)
            before = ratio_1[..., 0]
            average = torch.where(before > 0, MEMORY * before + (1 - MEMORY) * now, now)
            ratio_1[..., 0] = torch.where(known, average, before)
            weight = weight * torch.minimum(ratio_1[..., 0], now)  # what has grown since must not grow over L_rec
        return {"preferences": preferences_N, "guidance": weight}

    def strength(self, round: int) -> float:
        """λ_t."""
        if self.recipe.distill_schedule == "constant":
            return self.recipe.distill
        return self.recipe.distill * (1 + math.cos(math.pi * (round - 1) / self.recipe.rounds)) / 2

    def beside(self, logits_N: Tensor, local: Parameters, batch: Batch) -> Tensor:
        return local["guidance"] * torch.dot(batch.share_N, divergence(logits_N, local["preferences"]))

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

    def as_seen(self, shown: Parameters, items_IW: Tensor) -> Tensor:
        """Items, [I, item_width], scored by a prediction function that was shown and the shared layers: [I]."""
        layers = dict(self.shared.backbone.named_parameters())
        own = {name.removeprefix("backbone."): shown[name] for name in self.shown}
        return functional_call(self.client.backbone, {**layers, **own}, (items_IW,))

    def apart(self) -> int:
        ratio = self.client.get_parameter(RATIO).numel()  # kept, not learned
        return ratio + sum(p.numel() for p in self.shared.get_submodule("fusions").parameters())

    def server_optimizer(self) -> None:
        """The server averages, and fits fusions apart."""


def divergence(logits_N: Tensor, target_N: Tensor) -> Tensor:
    """KL(σ(s) ‖ σ(e)) of each pair.

    >>> divergence(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.0]))
    tensor([0., 0.])
    """
    q_N = torch.sigmoid(logits_N)
    liked = q_N * (F.logsigmoid(logits_N) - F.logsigmoid(target_N))
    return liked + (1 - q_N) * (F.logsigmoid(-logits_N) - F.logsigmoid(-target_N))


def divergence_slope(logits_N: Tensor, target_N: Tensor) -> Tensor:
    """Its derivative by s: σ'(s) · (s − e)."""
    q_N = torch.sigmoid(logits_N)
    return q_N * (1 - q_N) * (logits_N - target_N)

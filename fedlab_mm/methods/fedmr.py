"""FedMR: Li et al., "Personalized Item Representations in Federated Multimodal Recommendation". Its Algorithm 1.

| paper | here |
|---|---|
| V, C, sent once | the parts "feature:…", which stand still |
| D, {γ_j}, sent every round | the parts "id_embedding" and "maps.…", "operators.…" |
| ClientUpdate, lines 4–7 | `client_update`: θ_u, φ_u, D^(u) and γ^(u) step together |
| line 8, ∇_j^(u) γ | the accumulated gradients of γ |
| GlobalProcedure, lines 7, 8 | `server_update`: D averaged, γ stepped |

The maps of each signal to D dimensions belong to γ.
"""

from torch import Tensor
from torch.func import functional_call

from fedlab_mm.methods.base import Method
from fedlab_mm.methods.parts import PERSONAL, Parameters, Part
from fedlab_mm.methods.serverside import BankOnServer
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import register
from fedlab_mm.routing import Router

FEATURE = "feature:"
SIGNALS = "signals"  # what an engine puts in place of inputs and maps where it has mapped them itself


@register("method", "fedmr")
class FedMR(Method):
    """The mixing feature fusion module is on each client, which trains copies of D's touched rows and of all of γ."""

    routes = True

    def __init__(self, recipe: Recipe, n_items: int, features: Parameters):
        super().__init__(recipe, n_items, features)
        self.fusion = BankOnServer(recipe, n_items, self.features, self.signals, list(recipe.operators))
        self.bank = self.fusion.bank
        behind_a_map = recipe.id_dim if "id" in self.signals else None
        self.build(recipe.dim, self.fusion, Router(len(self.bank.views), recipe.dim), behind_a_map)
        self.gamma = [n for n, _ in self.bank.named_parameters() if n != "id_embedding"]
        self.parts |= {n: Part(False, True, "gradient") for n in self.gamma}
        if "id" in self.signals:
            self.parts["id_embedding"] = Part(True, True, "value")
        self.parts |= {FEATURE + m: Part(True, False, None) for m in self.features}
        if recipe.view_scale is not None:
            self.parts["view factors"] = Part(False, False, None)

    @property
    def view_names(self) -> list[str]:
        return list(self.bank.views)

    def broadcast(self) -> dict[str, Tensor]:
        sent = {**self.sent_by_backbone(), **{n: self.bank.get_parameter(n) for n in self.gamma}}
        if "id" in self.signals:
            sent["id_embedding"] = self.bank.get_parameter("id_embedding")
        if "view factors" in self.parts:
            sent["view factors"] = self.fusion.factors(self.fusion.plain())
        return {**sent, **{FEATURE + m: f for m, f in self.fusion.inputs().items()}}

    def views(self, local: Parameters) -> Tensor:
        inputs = {} if SIGNALS in local else {m: local[FEATURE + m] for m in self.features}
        if "id" in self.signals and SIGNALS not in local:
            ids = local["id_embedding"]
            inputs = {"id": ids + local[PERSONAL] if PERSONAL in local else ids, **inputs}
        gamma = {n: local[n] for n in self.gamma if n in local}
        views_END = functional_call(self.bank, gamma, (inputs, local.get(SIGNALS)))
        return views_END * local["view factors"] if "view factors" in local else views_END

    def represent(self, local: Parameters, own_N: Tensor) -> tuple[Tensor, Tensor]:
        if "id" not in self.signals or PERSONAL not in local:
            return super().represent(local, own_N)
        return self.with_own_table(self.fuse(local, own_N), local), local["id_embedding"]

    def signals_in_space(self, personal_IW: Tensor | None = None) -> dict[str, Tensor]:
        if personal_IW is None or "id" not in self.signals:
            return {**self.fusion.signals(), **({} if personal_IW is None else {"personal": personal_IW})}
        return self.fusion.signals(personal_IW)

    def views_for(self, features: Parameters) -> dict[str, Tensor]:
        parts = {FEATURE + m: self.fusion.inputs.scaled(m, f) for m, f in features.items()}
        if "id" in self.signals:
            n_new = len(next(iter(parts.values())))
            parts["id_embedding"] = self.bank.id_embedding.new_zeros(n_new, self.recipe.id_dim)
        return parts

    def id_lr_scale(self, name: str) -> float:
        behind_a_map = name == PERSONAL and "id" in self.signals
        return 30.0 if behind_a_map and not self.rates_are_open else super().id_lr_scale(name)

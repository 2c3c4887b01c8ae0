"""Content that informs and does not replace: an item's ID row is drawn towards what its features say of it.

What they say is one of three things, by whom this was done before:

| `towards` | a row lies near | after |
|---|---|---|
| "ridge" | a linear map of its features, fitted to the rows as they are | ours, with the next two for relatives |
| "topics" | the features' own main directions, which do not ask the rows | Wang and Blei, KDD 2011: topic regression |
| "views" | where the features can be read off it by a linear map | Flanagan et al. 2020: federated multi-view factors |
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlab_mm.errors import FedlabError
from fedlab_mm.fusion import Inputs
from fedlab_mm.methods.none import NoFusion
from fedlab_mm.methods.parts import Parameters
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import lookup, register
from fedlab_mm.settings import POSITIVE, Settings, member_of, setting


class Towards(nn.Module):
    """Where features say that rows lie. A subclass registers as "towards".

    Args:
        x_Id: the catalogue's features side by side, standardised.
    """

    def __init__(self, recipe: Recipe, x_Id: Tensor):
        super().__init__()
        self.recipe = recipe
        if not x_Id.is_meta:
            self.prepare(x_Id.double())

    def prepare(self, x_Id: Tensor) -> None:
        """What is the same in every round."""

    def pulled(self, table_IW: Tensor, x_Id: Tensor) -> Tensor:
        """The rows, moved by the recipe's `pull`: [I, W]."""
        return table_IW.lerp(self.of(x_Id, table_IW, x_Id), self.recipe.pull)

    def of(self, x_Jd: Tensor, table_IW: Tensor, x_Id: Tensor) -> Tensor:
        """Where these items' features say that their rows lie, [J, W], by the catalogue as it is."""
        raise NotImplementedError

    def hold(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)


@register("towards", "ridge")
class Ridge(Towards):
    """f(x) = Wx + b, with f = argmin Σ_i ‖D_i − W x_i − b‖² + ridge · I · ‖W‖²."""

    def prepare(self, x_Id: Tensor) -> None:
        # f depends on D by one matrix for good, (XᵀX + ridge·I·1)⁻¹ Xᵀ, so it is made once.
        normal_dd = x_Id.T @ x_Id + self.recipe.ridge * len(x_Id) * torch.eye(x_Id.shape[1], dtype=x_Id.dtype)
        self.hold("map_dI", torch.linalg.solve(normal_dd, x_Id.T))

    def of(self, x_Jd: Tensor, table_IW: Tensor, x_Id: Tensor) -> Tensor:
        mean_W = table_IW.mean(dim=0)
        return x_Jd @ (self.get_buffer("map_dI") @ (table_IW - mean_W)) + mean_W


@register("towards", "topics")
class Topics(Towards):
    """The features' first W main directions, their mean square that of `feature_scale`: they stand still, and clients
    learn what a user thinks of each, as CTR's do of topics. Fewer directions than W leave the last numbers zero."""

    def prepare(self, x_Id: Tensor) -> None:
        _, _, axes_dd = torch.linalg.svd(x_Id - x_Id.mean(dim=0), full_matrices=False)
        axes_dW = axes_dd[: self.recipe.dim].T
        size = (x_Id @ axes_dW).square().mean().sqrt().clamp(min=1e-12)
        self.hold("axes_dW", (self.recipe.feature_scale or 1.0) / size * axes_dW)

    def of(self, x_Jd: Tensor, table_IW: Tensor, x_Id: Tensor) -> Tensor:
        topics_JW = x_Jd @ self.get_buffer("axes_dW")
        return nn.functional.pad(topics_JW, (0, table_IW.shape[1] - topics_JW.shape[1]))


@register("towards", "views")
class Views(Towards):
    """Rows that the features can be read off: with G = argmin Σ_i ‖x_i − G D_i‖² + ridge · Σ_i ‖D_i‖²/W · ‖G‖²,

        D_i ← argmin_d ‖d − D_i‖² + ρ ‖x_i − G d‖²,

    and ρ such that a direction of mean strength is moved by the share `pull`."""

    def _maps(self, table_IW: Tensor, x_Id: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """G [d, W], ρ GᵀG [W, W] and ρ."""
        gram_WW = table_IW.T @ table_IW
        ridge = self.recipe.ridge * gram_WW.diagonal().mean()
        eye_WW = torch.eye(len(gram_WW), dtype=gram_WW.dtype, device=gram_WW.device)
        read_dW = torch.linalg.solve(gram_WW + ridge * eye_WW, table_IW.T @ x_Id).T
        back_WW = read_dW.T @ read_dW
        rho = self.recipe.pull / (1 - self.recipe.pull) / back_WW.diagonal().mean()
        return read_dW, rho * back_WW, rho

    def pulled(self, table_IW: Tensor, x_Id: Tensor) -> Tensor:
        read_dW, back_WW, rho = self._maps(table_IW, x_Id)
        eye_WW = torch.eye(len(back_WW), dtype=back_WW.dtype, device=back_WW.device)
        return torch.linalg.solve(eye_WW + back_WW, (table_IW + rho * x_Id @ read_dW).T).T

    def of(self, x_Jd: Tensor, table_IW: Tensor, x_Id: Tensor) -> Tensor:
        """argmin_d ‖x − G d‖², where a row ends that nobody else moves; features must be as many as W, or more."""
        read_dW, _, _ = self._maps(table_IW, x_Id)
        return torch.linalg.lstsq(read_dW, x_Jd.T).solution.T


@register("method", "prior")
class ContentPrior(NoFusion):
    """The ID-based recommender, whose server moves each row towards what its features say, a share `pull` of the way in
    a round: D_i ← (1 − pull) D_i + pull · f(x_i).

    x_i are an item's features side by side, standardised. Rows of items that many clients hold are held in place by
    their gradients; a row that nobody touches goes where its features say, unless a loss over the whole catalogue
    (`methods.whole`) draws it to zero meanwhile. An item outside the catalogue is scored where its features say.
    Clients know nothing of it: they are sent and upload what they are sent and upload without fusion.
    """

    fuses = True

    @dataclass(frozen=True)
    class Params(Settings):
        """
        Attributes:
            towards: what the features say: "ridge", "topics" or "views" (`fedlab_mm.methods.prior`).
            pull: the share of the way that a row moves in a round, below 1.
            ridge: of the linear map, beside features of variance one, for each item.
        """

        towards: str = setting("ridge", member_of("towards"))
        pull: float = setting(0.1, POSITIVE)
        ridge: float = setting(0.1, POSITIVE)

        def check(self) -> None:
            if not self.pull < 1:
                raise FedlabError(f"pull={self.pull}: a share of the way lies below 1")

    def __init__(self, recipe: Recipe, n_items: int, features: Parameters):
        super().__init__(recipe, n_items, features)
        if not self.features:
            raise FedlabError("method 'prior' draws items towards their features, and without= leaves none")
        self.inputs = self.shared.inputs = Inputs(self.features, 1.0)
        self.towards: Towards = lookup("towards", recipe.towards)(recipe, self._side_by_side(self.inputs()))
        self.shared.towards = self.towards

    @staticmethod
    def _side_by_side(inputs: Parameters) -> Tensor:
        return torch.cat(list(inputs.values()), dim=1)

    @torch.no_grad()
    def expected(self) -> Tensor:
        """Where the features of the catalogue say that its rows lie, as the table is now: [I, item_width]."""
        x_Id = self._side_by_side(self.inputs())
        return self.towards.of(x_Id, self.shared.item_table, x_Id)

    def server_update(self, sent: Parameters, mixed: Parameters, optimizer: torch.optim.Optimizer | None) -> None:
        super().server_update(sent, mixed, optimizer)
        with torch.no_grad():
            table_IW = self.shared.item_table
            table_IW.copy_(self.towards.pulled(table_IW, self._side_by_side(self.inputs())))

    def views_for(self, features: Parameters) -> dict[str, Tensor]:
        """Nothing but the table's rows are sent of new items."""
        return {}

    def for_new_items(self, features: Parameters) -> dict[str, Tensor]:
        parts = super().for_new_items(features)
        scaled = {m: self.inputs.scaled(m, torch.as_tensor(features[m]).to(f)) for m, f in self.features.items()}
        x_Id, table_IW = self._side_by_side(self.inputs()), self.shared.item_table.detach()
        return parts | {"item_table": self.towards.of(self._side_by_side(scaled), table_IW, x_Id)}

"""Fusion on the server, the clients' gradients pulled back through it: the base of fedvlr, mlp and vbpr."""

from torch import Tensor, nn

from fedlab_mm.fusion import Bank, Inputs
from fedlab_mm.methods.base import Method
from fedlab_mm.methods.parts import Parameters, Part
from fedlab_mm.recipe import Recipe
from fedlab_mm.routing import Router


class ServerFusion(nn.Module):
    """Makes the views of the catalogue, [E, I, D]; `of_new` those of other items, [E, J, D]."""

    def of_new(self, features: Parameters) -> Tensor:
        """
        Args:
            features: modality -> [J, d_m], as encoded.
        """
        raise NotImplementedError


class BankOnServer(ServerFusion):
    """The catalogue's inputs and the bank that makes views of them."""

    def __init__(self, recipe: Recipe, n_items: int, features: Parameters, signals: list[str], operators: list[str]):
        super().__init__()
        self.inputs = Inputs(features, recipe.feature_scale)
        widths = ({"id": recipe.id_dim} if "id" in signals else {}) | {m: f.shape[1] for m, f in features.items()}
        self.bank = Bank(operators, widths, n_items, recipe.dim, recipe.init_scale)
        self.view_scale = recipe.view_scale

    def read(self, personal_IW: Tensor | float = 0.0) -> dict[str, Tensor]:
        """What the maps read, of the whole catalogue; a client's personal table is added to the ID embedding."""
        ids = {"id": self.bank.id_embedding + personal_IW} if "id" in self.bank.names else {}
        return {**ids, **self.inputs()}

    def plain(self) -> Tensor:
        """The views of the catalogue as the operators make them, [E, I, D]."""
        return self.bank(self.read())

    def signals(self, personal_IW: Tensor | float = 0.0) -> dict[str, Tensor]:
        """signal -> [I, D], in the space that they share."""
        return dict(zip(self.bank.names, self.bank.signals(self.read(personal_IW)), strict=True))

    def factors(self, plain_EID: Tensor) -> Tensor:
        """What each view is multiplied by, [E, 1, 1]: to the gradient a constant, for all clients of a round alike."""
        if self.view_scale is None:
            return plain_EID.new_ones(len(plain_EID), 1, 1)
        size_E11 = plain_EID.detach().square().mean(dim=(1, 2), keepdim=True).sqrt()
        return self.view_scale / size_E11.clamp(min=1e-6)

    def forward(self) -> Tensor:
        """The views of the catalogue as they are sent, [E, I, D]."""
        plain_EID = self.plain()
        return plain_EID if self.view_scale is None else plain_EID * self.factors(plain_EID)

    def of_new(self, features: Parameters) -> Tensor:
        """The views of other items, whose ID embedding is zero, by the catalogue's factors: [E, J, D]."""
        scaled = {m: self.inputs.scaled(m, f) for m, f in features.items()}
        n_new = len(next(iter(scaled.values())))
        ids = {"id": self.bank.id_embedding.new_zeros(n_new, self.bank.id_embedding.shape[1])}
        views = self.bank({**(ids if "id" in self.bank.names else {}), **scaled})
        return views if self.view_scale is None else views * self.factors(self.plain())


class ServerSide(Method):
    """The server makes the views F and sends them; they stand still while a client trains; it uploads ∂L_u/∂F for the
    rows that it touched, summed over its local epochs, and the server pulls Σ_u α_u ∂L_u/∂F back through fusion.

    """

    stands_still = True
    fusion: "ServerFusion"

    @property
    def view_names(self) -> list[str]:
        return list(self.fusion.bank.views) if isinstance(self.fusion, BankOnServer) else []

    def build_around(self, fusion: "ServerFusion", width: int, router: Router | None) -> None:
        self.build(width, fusion, router)
        self.fusion = fusion
        self.parts["views"] = Part(by_item=True, moves=False, upload="gradient")

    def broadcast(self) -> dict[str, Tensor]:
        views = self.fusion().transpose(0, 1).contiguous()
        return self.with_gram({**self.sent_by_backbone(), "views": views})

    def views(self, local: Parameters) -> Tensor:
        return local["views"].transpose(0, 1)

    def signals_in_space(self, personal_IW: Tensor | None = None) -> dict[str, Tensor]:
        if not isinstance(self.fusion, BankOnServer):
            return super().signals_in_space()
        # The personal rows are added to the fused item, so they lie in this space themselves.
        return {**self.fusion.signals(), **({} if personal_IW is None else {"personal": personal_IW})}

    def views_for(self, features: Parameters) -> dict[str, Tensor]:
        return {"views": self.fusion.of_new(features).transpose(0, 1)}

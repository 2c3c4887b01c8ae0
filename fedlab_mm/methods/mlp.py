"""One fusion for all: the "+MLP" that FedVLR is compared with (its Table 2), where every user gets the same view."""

from fedlab_mm.methods.parts import Parameters
from fedlab_mm.methods.serverside import BankOnServer, ServerSide
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import register


@register("method", "mlp")
class SharedMLP(ServerSide):
    """FedVLR's server with the MLP operator alone and no router: personal are only the backbone's own parameters."""

    # One view takes all of a gradient that FedVLR's routers spread over three: with 1 FCF diverges on KU.
    open_rate = 0.5

    def __init__(self, recipe: Recipe, n_items: int, features: Parameters):
        super().__init__(recipe, n_items, features)
        self.build_around(BankOnServer(recipe, n_items, self.features, self.signals, ["mlp"]), recipe.dim, None)

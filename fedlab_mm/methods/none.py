"""No fusion: the backbone over one table of item IDs."""

from torch import Tensor

from fedlab_mm.errors import FedlabError
from fedlab_mm.methods.base import Method
from fedlab_mm.methods.parts import PERSONAL, Parameters
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import register


@register("method", "none")
class NoFusion(Method):
    """The ID-based recommender as it is (FedMR's Eq. 2): a client trains what is private and its copies of the touched
    rows of D and of the backbone's shared layers, and uploads the copies; the server averages, D ← Σ_u α_u D^(u)
    (FedMR's Algorithm 1, line 7).

    A row that a client did not touch counts as unchanged, D^(u)_i = D_i.
    """

    fuses = False
    stands_still = True

    def __init__(self, recipe: Recipe, n_items: int, features: Parameters):
        super().__init__(recipe, n_items, features)
        if "id" not in self.signals:
            raise FedlabError(
                f"without=('id',): method '{recipe.method}' has no other signal; choose a method that fuses"
            )
        self.build(recipe.dim, None, None)

    def broadcast(self) -> dict[str, Tensor]:
        return self.with_gram(self.sent_by_backbone())

    def represent(self, local: Parameters, own_N: Tensor) -> tuple[Tensor, Tensor]:
        common_NW = local["item_table"]
        return (common_NW + local[PERSONAL] if PERSONAL in local else common_NW), common_NW

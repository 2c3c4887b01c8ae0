"""What a backbone is to the methods and engines around it."""

from typing import ClassVar

from torch import Tensor, nn

from fedlab_mm.recipe import Recipe
from fedlab_mm.settings import Settings


class Backbone(nn.Module):
    """Scores item representations for one client.

    It does not know where the representations come from: a table of item IDs, or views that a router has mixed. A
    subclass registers as "backbone", is built with the width D of a representation, and says what sets it apart:

    Class attributes:
        private: names of the parameters that never leave the client. What is not private is shared: every client
            trains a copy of it and the server averages the copies.
        aggregation, loss: the registered rule and loss of its own paper.
        personal_table: each client adds a private table of item rows to the shared one (FedRAP).
        own_table: it keeps an item table of its own beside fused views (FedNCF).
        alternates: an epoch steps the private parameters first and then, from gradients taken anew, what is shared.
        keeps_items: a client uploads its item table whole, and scores with the items as it left them after its local
            epochs, not as the server made them afterwards (PFedRec).
        lr: learning rate that suits its loss and depth, where a recipe leaves lr and shared_lr open, under SGD;
            shared_lr: of what is shared, if that is another.
        decay: (per round, per step): what learning rates are multiplied by, again and again.
        Params: the class of its own settings; a recipe of it has them.
    """

    private: ClassVar[frozenset[str]] = frozenset()
    aggregation: ClassVar[str] = "weighted"
    loss: ClassVar[str] = "bce"
    personal_table: ClassVar[bool] = False
    own_table: ClassVar[bool] = False
    alternates: ClassVar[bool] = False
    keeps_items: ClassVar[bool] = False
    lr: ClassVar[float] = 1.0
    shared_lr: ClassVar[float | None] = None
    decay: ClassVar[tuple[float, float]] = (1.0, 1.0)
    Params: ClassVar[type[Settings]] = Settings

    item_width: int  # width of a row of its item table
    recipe: Recipe  # whose it is, with its own settings; set once it is built

    def forward(self, items_NW: Tensor) -> Tensor:
        """Logits [N] of item rows [N, item_width]: Eq. 5 of FedVLR before the sigmoid, f(F̄_i; θ_u)."""
        raise NotImplementedError

    def lift(self, fused_ND: Tensor) -> Tensor:
        """A fused vector as a row of the item table: [N, D] → [N, item_width]."""
        return fused_ND

    def penalty(self, common_NW: Tensor, personal_NW: Tensor, share_N: Tensor, recipe: Recipe, round: int) -> Tensor:
        """What a backbone with a personal table adds to a client's mean loss; share_N are the rows' shares of the
        batch, summing to one. Further leading axes, of clients, are carried along: […, N] in, […] out."""
        raise NotImplementedError


class LinearBackbone(Backbone):
    """r̂_ui = θ_u·x_i + b_u: a dot product with the user's own vector, the whole of which is private.

    `stacked` has gradients by hand for scores that are linear in the item; a subclass may change loss and aggregation.
    """

    private = frozenset({"predictor.weight", "predictor.bias"})

    def __init__(self, dim: int):
        super().__init__()
        self.item_width = dim
        self.predictor = nn.Linear(dim, 1)

    def forward(self, items_NW: Tensor) -> Tensor:
        return self.predictor(items_NW).squeeze(-1)


def mean_square(difference_NW: Tensor, share_N: Tensor) -> Tensor:
    """Mean over the batch's rows and over their width of the squares."""
    return (share_N * difference_NW.square().mean(dim=-1)).sum(dim=-1)

"""FedRAP: Li, Long and Zhou, "Federated Recommendation with Additive Personalization", ICLR 2024."""

import math
from dataclasses import dataclass

from torch import Tensor

from fedlab_mm.backbones.base import LinearBackbone, mean_square
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import register
from fedlab_mm.settings import NOT_NEGATIVE, Settings, setting


@register("backbone", "fedrap")
class FedRAP(LinearBackbone):
    """r̂_ui = f(C_i + P_i^(u); θ_u): items are a common table plus a private one of the client's own.

    Its loss is BCE − α(t)·MSE(P, C) + β(t)·L1(C), both over the rows of the batch: the two tables are to say different
    things, and the common one little. α and β grow as tanh(t / 10); learning rates shrink by 0.97 a round and 0.95 a
    local step, which ends its training early on large data (MovieLens 100K: README).

    | paper | here |
    |---|---|
    | C | the shared item rows: the table, or the fused item under fusion |
    | D^(i), here P^(u) | `personal_table`, private |
    | λ, μ (α, β) | `alpha`, `beta` of the recipe |

    Under FedMR, P is added to the ID embedding, before fusion; where the server fuses, to the fused item.
    """

    @dataclass(frozen=True)
    class Params(Settings):
        """
        Attributes:
            alpha: weight of MSE(personal, common), which is subtracted.
            beta: weight of L1(common).
        """

        alpha: float = setting(0.1, NOT_NEGATIVE)
        beta: float = setting(0.1, NOT_NEGATIVE)

    aggregation = "equal"
    personal_table = True
    decay = (0.97, 0.95)

    def penalty(self, common_NW: Tensor, personal_NW: Tensor, share_N: Tensor, recipe: Recipe, round: int) -> Tensor:
        ramp = math.tanh(round / 10)
        size = (share_N * common_NW.abs().mean(dim=-1)).sum(dim=-1)
        return ramp * (recipe.beta * size - recipe.alpha * mean_square(personal_NW - common_NW, share_N))

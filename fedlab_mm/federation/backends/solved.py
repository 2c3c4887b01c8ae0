"""The kernel of clients that solve for their predictor, where no router mixes views: gradients by hand.

With s_n = θ·x_n of the solved θ and y_n = 1 at its own items, client u's gradients (see `methods.whole`) are

    ∂L/∂x_n = 2 y_n ((s_n − 1) θ + λ x_n),        ∂L/∂G = α₀ (θ θᵀ + λ 1).

Over clients the second is one product, Σ_u α_u θ_u θ_uᵀ = Θᵀ diag(α) Θ, so no client's matrix is made unless somebody
looks at it.
"""

from typing import Any

import torch
from torch import Tensor

from fedlab_mm.federation.backends.chunks import Chunk, tensors_of
from fedlab_mm.federation.backends.kernels import Kernel
from fedlab_mm.federation.backends.linear import WEIGHT, scores_linearly
from fedlab_mm.methods import Method
from fedlab_mm.methods.whole import GRAM, solved


class Solved(Kernel):
    """Closed clients without a router."""

    @staticmethod
    def fits(method: Method) -> bool:
        return method.recipe.solver == "closed" and not method.routes and scores_linearly(method)

    def bytes_of_client(self, n_rows: Any) -> Any:
        width = self.sent[GRAM].shape[0]
        return self.recipe.dtype.itemsize * (3 * n_rows * width + 3 * width * width)

    def train(self, chunk: Chunk) -> tuple[Tensor, None]:
        r, gram_KK = self.recipe, self.sent[GRAM]
        part = "views" if "views" in self.sent else "item_table"
        x_CNK, label_CN = chunk.gather(self.sent[part].flatten(1)), chunk.batch.label_N
        seen_C = label_CN.sum(dim=1) + r.unobserved * self.method.n_items
        theta_CK = solved(x_CNK, label_CN, gram_KK, r.unobserved, r.reg * seen_C)
        tensors_of(chunk.private)[WEIGHT][:, 0] = theta_CK
        score_CN = torch.bmm(x_CNK, theta_CK[:, :, None])[:, :, 0]
        fit_C = (label_CN * (1 - score_CN).square()).sum(dim=1)
        all_C = ((theta_CK @ gram_KK) * theta_CK).sum(dim=1)
        sizes_C = (label_CN * x_CNK.square().sum(dim=2)).sum(dim=1) + r.unobserved * gram_KK.diagonal().sum()
        loss_C = fit_C + r.unobserved * all_C + r.reg * (seen_C * theta_CK.square().sum(dim=1) + sizes_C)

        slope_CN = 2 * label_CN * (score_CN - 1)
        grad_x_CNK = slope_CN[:, :, None] * theta_CK[:, None] + (2 * r.reg) * label_CN[:, :, None] * x_CNK
        grad_x = grad_x_CNK.view(*grad_x_CNK.shape[:2], *self.sent[part].shape[1:])
        eye_KK = torch.eye(len(gram_KK), dtype=gram_KK.dtype, device=gram_KK.device)
        if self.intake.channel.transparent:
            self.intake.add_rows(part, chunk.rows_CN, chunk.weighted(grad_x))
            summed_KK = theta_CK.T @ (chunk.alpha_C[:, None] * theta_CK)
            self.intake.mixed[GRAM] += r.unobserved * (summed_KK + r.reg * chunk.alpha_C.sum() * eye_KK)
        else:
            own_CKK = theta_CK[:, :, None] * theta_CK[:, None] + r.reg * eye_KK
            self.hand_in(chunk, {part: grad_x, GRAM: r.unobserved * own_CKK})
        return loss_C, None

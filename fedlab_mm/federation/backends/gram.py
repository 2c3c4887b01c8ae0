"""FedMR's local epochs without copies of its maps, under SGD.

A client of FedMR trains a copy of every map W_m [D, d_m], 33 thousand numbers for a signal 512 wide, on some thirty
items. All that its gradients can change lies in the span of those items' own rows x_n, so a map never has to be held.
With δ_n = ∂L/∂z_n of the mapped signals z_n = W x_n + b, learning rate η and decay λ:

    an input that stands still (a modality)      W ← (1 − ηλ) W − η Σ_n δ_n x_nᵀ
        W x_n ← (1 − ηλ) W x_n − η Σ_m (x_n·x_m) δ_m                the Gram matrix of x [N, N] is enough
        what is uploaded, Σ_a Σ_n δ_n x_nᵀ, is one product for all clients: items' rows are the same to everyone

    an input that moves too (the ID, d_n)        d_n ← (1 − η′λ) d_n − η′ Wᵀδ_n,   W as above, with d_n for x_n
        both stay in the span of B = [d⁰; W⁰], the rows as they were sent: d = Z B and W = Y B with small Z [N, N + D]
        and Y [D, N + D]; W d_nᵀ = (Z B Bᵀ Yᵀ)ᵀ, and Z ← (1 − η′λ) Z − η′ δ Y,   Y ← (1 − ηλ) Y − η δᵀ Z.

What is behind the maps (operators, router, backbone) goes through the method's own code, vectorised. A Gram matrix
grows with the square of a client's items: above `Gram.most_rows` of them copies are cheaper, and `Vmapped` trains.
"""

from typing import Any

import torch
from torch import Tensor

from fedlab_mm.federation.backends.chunks import Chunk, tensors_of
from fedlab_mm.federation.backends.kernels import Kernel
from fedlab_mm.federation.backends.linear import OF_A_CLIENT
from fedlab_mm.federation.channel import Intake
from fedlab_mm.federation.ranking import RankingFederation
from fedlab_mm.fusion import map_name
from fedlab_mm.methods import Method
from fedlab_mm.methods.fedmr import SIGNALS, FedMR
from fedlab_mm.methods.parts import Parameters


class Gram(Kernel):
    """FedMR with the maps in their items' span."""

    cache = 96e6
    most_rows = 400

    def __init__(self, federation: RankingFederation, sent: Parameters, intake: Intake):
        super().__init__(federation, sent, intake)
        assert isinstance(self.method, FedMR)
        features = self.method.fusion.inputs()
        self.inputs = {
            m: Signal(self, m, sent["id_embedding"] if m == "id" else features[m]) for m in self.method.signals
        }
        self.others = {n: p for n, p in self.method.parts.items() if n not in self.by_hand}

    @staticmethod
    def fits(method: Method) -> bool:
        backbone = method.client.backbone
        return (
            isinstance(method, FedMR)
            and type(method).represent is FedMR.represent
            and type(method).views is FedMR.views
            and all(getattr(type(method), n) is getattr(FedMR, n) for n in (*OF_A_CLIENT, "fuse", "score", "objective"))
            and method.steps_are_plain
            and not (backbone.personal_table or backbone.alternates or backbone.keeps_items)
        )

    @property
    def by_hand(self) -> set[str]:
        maps = {f"{map_name(m)}.{p}" for m in self.method.signals for p in ("weight", "bias")}
        return maps | {"id_embedding"} | {n for n, part in self.method.parts.items() if not (part.moves or part.upload)}

    def bytes_of_client(self, n_rows: Any) -> Any:
        dim, n_signals = self.recipe.dim, len(self.inputs)
        copies = sum(3 * self.sent[n].numel() for n, part in self.others.items() if not part.by_item)
        private = sum(2 * p[0].numel() for p in self.federation.private.values())
        grams = n_signals * n_rows * n_rows + (n_rows + dim) * (n_rows + 2 * dim)
        return self.recipe.dtype.itemsize * (grams + 8 * n_signals * n_rows * dim + copies + private)

    def train(self, chunk: Chunk) -> tuple[Tensor, None]:
        method, n_clients, recipe = self.method, len(chunk.alpha_C), self.recipe
        private = tensors_of(chunk.private)
        sent = {
            n: chunk.gather(self.sent[n]) if part.by_item else self.sent[n].expand(n_clients, *self.sent[n].shape)
            for n, part in self.others.items()
        }
        moving = {n: p.clone() for n, p in sent.items() if self.others[n].moves}
        summed = {n: torch.zeros_like(sent[n]) for n, part in self.others.items() if part.upload == "gradient"}
        factors = {n: p.expand(n_clients, *p.shape) for n, p in self.sent.items() if n == "view factors"}
        optimizer = method.local_optimizer({**private, **moving}, self.round)
        mapped = [x.start(chunk) for x in self.inputs.values()]
        loss_C = torch.zeros_like(chunk.alpha_C)
        for epoch in range(recipe.local_epochs):
            local = {**private, **moving, **factors, SIGNALS: torch.stack([z.value() for z in mapped], dim=1)}
            names = [*private, *moving, SIGNALS]
            loss, gradients = method.gradients(local, names, chunk.batch, self.round, stacked=True)
            loss_C += loss
            grad_signals_CMND = gradients.pop(SIGNALS)
            for name, total in summed.items():
                total += gradients[name]
            optimizer.step(gradients)
            for z, grad_signal_CND in zip(mapped, grad_signals_CMND.unbind(dim=1), strict=True):
                z.step(grad_signal_CND, epoch)
        changes = {n: summed[n] if p.upload == "gradient" else moving[n] - sent[n] for n, p in self.others.items()}
        self.hand_in(chunk, changes)
        for z in mapped:
            z.add()
        return loss_C / recipe.local_epochs, None

    def finish(self) -> None:
        for x in self.inputs.values():
            x.finish()


class Signal:
    """One signal's inputs and map as they were sent, and what clients upload of it, gathered over the round.

    Attributes:
        rows_IW: the inputs; weight_DW, bias_D: the map; mapped_ID: the inputs mapped.
        through_ID: Σ_u α_u of the coefficients that the map's gradient has with respect to the inputs as sent.
        grad_bias_D: Σ_u α_u ∇b.
        through_DD, moved_ID: where inputs move: the gradient's coefficients with respect to the map as sent, and the
            inputs' own.
    """

    def __init__(self, kernel: Gram, signal: str, rows_IW: Tensor):
        self.kernel, self.signal, self.rows_IW = kernel, signal, rows_IW
        self.weight_DW, self.bias_D = (kernel.sent[f"{map_name(signal)}.{p}"] for p in ("weight", "bias"))
        self.mapped_ID = rows_IW @ self.weight_DW.T
        self.through_ID, self.moved_ID = torch.zeros_like(self.mapped_ID), torch.zeros_like(self.mapped_ID)
        self.through_DD = torch.zeros_like(self.weight_DW @ self.weight_DW.T)
        self.grad_bias_D = torch.zeros_like(self.bias_D)

    def start(self, chunk: Chunk) -> "Mapped":
        return (MovingMapped if self.signal == "id" else Mapped)(self, chunk)

    def rate(self, name: str, epoch: int) -> float:
        return self.kernel.method.local_rate(name, self.kernel.round, epoch)

    def finish(self) -> None:
        mixed, maps = self.kernel.intake.mixed, map_name(self.signal)
        mixed[f"{maps}.weight"] += self.through_ID.T @ self.rows_IW
        mixed[f"{maps}.bias"] += self.grad_bias_D
        if self.signal == "id":
            mixed[f"{maps}.weight"] += self.through_DD @ self.weight_DW
            mixed["id_embedding"] += self.moved_ID @ self.weight_DW


class Mapped:
    """z = W x + b of a chunk's clients, each with a W of its own, x standing still."""

    def __init__(self, input: Signal, chunk: Chunk):
        self.input, self.chunk, self.decay = input, chunk, input.kernel.recipe.weight_decay
        self.x_CNW = chunk.gather(input.rows_IW)
        self.bias_C1D = input.bias_D.expand(len(chunk.alpha_C), 1, -1)
        self.product_CND = chunk.gather(input.mapped_ID)
        self.sum_CND = torch.zeros_like(self.product_CND)
        self.set_up()

    def set_up(self) -> None:
        self.gram_CNN = torch.bmm(self.x_CNW, self.x_CNW.mT)

    def value(self) -> Tensor:
        return self.product_CND + self.bias_C1D

    def step(self, grad_value_CND: Tensor, epoch: int) -> None:
        """From δ: a step of W, of b and of what else moves."""
        self.sum_CND += grad_value_CND
        lr = self.input.rate(f"{map_name(self.input.signal)}.bias", epoch)
        self.bias_C1D = (1 - lr * self.decay) * self.bias_C1D - lr * grad_value_CND.sum(dim=1, keepdim=True)
        self.move(grad_value_CND, epoch)

    def move(self, grad_value_CND: Tensor, epoch: int) -> None:
        lr = self.input.rate(f"{map_name(self.input.signal)}.weight", epoch)
        self.product_CND = torch.baddbmm(
            self.product_CND, self.gram_CNN, grad_value_CND, beta=1 - lr * self.decay, alpha=-lr
        )

    def add_rows(self, total: Tensor, change_CNx: Tensor) -> None:
        """total[i] += Σ over the rows that are item i, each client's weighted."""
        total.index_add_(0, self.chunk.rows_CN.flatten(), self.chunk.weighted(change_CNx).flatten(0, 1))

    def add(self) -> None:
        """Gather what the clients upload."""
        self.add_rows(self.input.through_ID, self.sum_CND)
        self.input.grad_bias_D += torch.tensordot(self.chunk.alpha_C, self.sum_CND.sum(dim=1), dims=1)


class MovingMapped(Mapped):
    """The same with x = Z B moving too, in the span of B = [x⁰; W⁰]."""

    def set_up(self) -> None:
        n_clients, n_rows, dim = self.product_CND.shape
        weight = self.input.weight_DW
        gram_WW = (weight @ weight.T).expand(n_clients, dim, dim)
        upper = torch.cat([torch.bmm(self.x_CNW, self.x_CNW.mT), self.product_CND], dim=2)
        self.gram_CBB = torch.cat([upper, torch.cat([self.product_CND.mT, gram_WW], dim=2)], dim=1)
        eye = torch.eye(n_rows + dim, dtype=weight.dtype, device=weight.device)
        self.z_CNB = eye[:n_rows].expand(n_clients, -1, -1).clone()
        self.y_CDB = eye[n_rows:].expand(n_clients, -1, -1).clone()
        self.sum_CDB = torch.zeros_like(self.y_CDB)

    def move(self, grad_value_CND: Tensor, epoch: int) -> None:
        grad_y_CDB = torch.bmm(grad_value_CND.mT, self.z_CNB)
        self.sum_CDB += grad_y_CDB
        lr, lr_y = (self.input.rate(n, epoch) for n in ("id_embedding", "maps.id.weight"))
        self.z_CNB = torch.baddbmm(self.z_CNB, grad_value_CND, self.y_CDB, beta=1 - lr * self.decay, alpha=-lr)
        self.y_CDB.mul_(1 - lr_y * self.decay).sub_(grad_y_CDB, alpha=lr_y)
        self.product_CND = torch.bmm(self.z_CNB, torch.bmm(self.gram_CBB, self.y_CDB.mT))

    def add(self) -> None:
        chunk, input, n_rows = self.chunk, self.input, self.product_CND.shape[1]
        self.add_rows(input.through_ID, self.sum_CDB[:, :, :n_rows].mT)
        input.through_DD += torch.tensordot(chunk.alpha_C, self.sum_CDB[:, :, n_rows:], dims=1)
        input.grad_bias_D += torch.tensordot(chunk.alpha_C, self.sum_CND.sum(dim=1), dims=1)
        self.z_CNB[:, :, :n_rows].diagonal(dim1=1, dim2=2).sub_(1)
        self.add_rows(input.kernel.intake.mixed["id_embedding"], torch.bmm(self.z_CNB[:, :, :n_rows], self.x_CNW))
        self.add_rows(input.moved_ID, self.z_CNB[:, :, n_rows:])

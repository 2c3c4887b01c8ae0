"""What a method is to the engines: what the server holds and sends, what a client computes, and what comes back.

One round, whatever the method and the backbone:

    sent = method.broadcast()                       the server makes what every client is sent, by name
    … each client: method.client_update(…)          A local epochs on its own parameters and its copies of what was sent
    mixed = Σ_u α_u · contribution_u                by name, for what `parts` says is uploaded
    method.server_update(sent, mixed, optimizer)    the server adds changes of values, and steps along gradients

`parts` says of each name how a client treats it, so an engine and a test need to know nothing else about a method.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from fedlab_mm.backbones import Backbone
from fedlab_mm.data.tables import flaw
from fedlab_mm.errors import FedlabError
from fedlab_mm.fusion import signals_of
from fedlab_mm.losses import Loss
from fedlab_mm.methods.parts import PERSONAL, Batch, Client, Memory, Parameters, Part, Shared
from fedlab_mm.methods.rates import Rates
from fedlab_mm.methods.whole import GRAM, MET, OverAllItems, refuse_what_is_not_linear
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import lookup
from fedlab_mm.routing import Router, route
from fedlab_mm.settings import Settings

BIAS = "backbone.predictor.bias"


class Method(OverAllItems, Rates):
    """A placement of fusion. A subclass registers as "method".

    Attributes:
        shared: what the server holds.
        client: a client's modules in their common initial state; engines keep each client's own values.
        parts: name -> Part, of all that is broadcast.
        private: names of the client's own parameters. They stay, but for those it shows.
        n_samples: the mean number of a client's samples, if known: an engine says it.
        shown: names of the private parameters that the server is shown (GFMFR groups by them). They stay private in
            that nobody else gets them, and nothing is averaged into them.
        untrained: names of private parameters that no optimizer steps.
        second_loss: what a client minimises beside L_recon, towards a target for each row, which `guide` names; None
            where there is nothing.
        Params: the class of its own settings; a recipe of it has them.

    Args:
        recipe: sizes, operators, learning rates.
        n_items: I.
        features: modality -> [I, d_m]; tensors on the meta device will do for counting.

    Raises:
        FedlabError: a signal or operator that is not there, no signal left, modalities of unequal rows.
    """

    stands_still: ClassVar[bool] = False  # do items stand still, or are they a table, while a client trains?
    fuses: ClassVar[bool] = True  # can it score an item that nobody has interacted with?
    routes: ClassVar[bool] = False  # do clients choose among views?
    open_rate: ClassVar[float] = 1.0  # of a backbone's rate, under SGD, for what is shared, where a recipe names none
    Params: ClassVar[type[Settings]] = Settings

    shared: Shared
    client: Client
    parts: dict[str, Part]
    n_samples: float = math.inf
    second_loss: Loss | None = None

    def __init__(self, recipe: Recipe, n_items: int, features: Parameters):
        self.recipe, self.n_items = recipe, n_items
        closed = "implicit" if recipe.solver == "closed" else None
        self.loss: Loss = lookup("loss", recipe.loss or closed or lookup("backbone", recipe.backbone).loss)()
        self.signals = signals_of(list(features), recipe.without)
        self.features = {m: f for m, f in features.items() if m in self.signals}
        self.shown: list[str] = []
        self.untrained: set[str] = set()

    # What a subclass gives.

    def broadcast(self) -> dict[str, Tensor]:
        """What the server sends, by name, with the graph that `server_update` pulls gradients back through."""
        raise NotImplementedError

    def views(self, local: Parameters) -> Tensor:
        """The views [E, N, D] of the rows that `local` holds, to a method that fuses."""
        raise NotImplementedError

    def represent(self, local: Parameters, own_N: Tensor) -> tuple[Tensor, Tensor]:
        """Item rows [N, item_width] as this client's backbone scores them, and the part of them that is common to all
        clients, of the width of a personal row."""
        fused_ND = self.fuse(local, own_N)
        items_NW = self.with_own_table(fused_ND, local)
        return (items_NW + local[PERSONAL] if PERSONAL in local else items_NW), fused_ND

    def signals_in_space(self, personal_IW: Tensor | None = None) -> dict[str, Tensor]:
        """Where the catalogue's signals lie in the space that they are mapped to before fusion: signal -> z_m [I, D].

        Args:
            personal_IW: a client's personal table, under a backbone that has one.
        """
        raise FedlabError(f"method '{self.recipe.method}' maps no signals into one space; fedmr, fedvlr and mlp do")

    def views_for(self, features: Parameters) -> dict[str, Tensor]:
        """The parts by item for items outside the catalogue, from their features alone (scaled as the catalogue's)."""
        raise NotImplementedError

    @property
    def view_names(self) -> list[str]:
        """The names of the views that are mixed; none where nothing is fused."""
        return []

    # What all methods share.

    def build(
        self, width: int, fusion: nn.Module | None, router: Router | None, personal_width: int | None = None
    ) -> None:
        """Set up client, server and the parts that come with the backbone.

        Args:
            width: D of the backbone.
            personal_width: of a personal table's rows, if not those of the item table.
        """
        r = self.recipe
        backbone: Backbone = lookup("backbone", r.backbone)(width)
        backbone.recipe = r

        def table(width: int) -> Tensor:
            return r.init_scale * torch.randn(self.n_items, width)

        item_table = table(backbone.item_width) if fusion is None or backbone.own_table else None
        if not r.init_scale and (item_table is not None or list(self.signals) == ["id"]):
            raise FedlabError(f"init_scale=0: '{r.label}' would begin with items that are all alike; it needs content")
        personal = table(personal_width or backbone.item_width) if backbone.personal_table else None
        self.client = Client(backbone, router, personal)
        self.shared = Shared(backbone, fusion, item_table)
        self.parts = {f"backbone.{n}": Part(False, True, "value") for n, _ in self.shared.backbone.named_parameters()}
        if item_table is not None:
            self.parts["item_table"] = Part(True, True, "value")
        self.private = [n for n, _ in self.client.named_parameters() if n not in self.parts]
        if self.loss.whole:
            refuse_what_is_not_linear(r, backbone, self.stands_still)
            self.parts[GRAM] = Part(by_item=False, moves=False, upload="gradient")
            if item_table is not None:
                self.parts["item_table"] = Part(by_item=True, moves=False, upload="gradient")
            if r.server_steps > 1:
                self.parts[MET] = Part(by_item=True, moves=False, upload="gradient", told=True)
            nn.init.zeros_(self.client.get_parameter(BIAS))
            self.untrained.add(BIAS)  # it would be seen by every item

    def sent_by_backbone(self) -> dict[str, Tensor]:
        """The parts that come with the backbone: its shared layers and its item table."""
        return {n: self.shared.get_parameter(n) for n in self.parts if n.startswith("backbone.") or n == "item_table"}

    def with_own_table(self, fused_ND: Tensor, local: Parameters) -> Tensor:
        """Fused vectors as rows that the backbone scores: a backbone with a table of its own adds them to it."""
        items_NW = self.client.backbone.lift(fused_ND)
        return items_NW + local["item_table"] if "item_table" in local else items_NW

    def fuse(self, local: Parameters, own_N: Tensor) -> Tensor:
        """F̄^(u) [N, D], Eqs. 3 and 4 of FedVLR; the one view itself under a method without a router."""
        views_END = self.views(local)
        return route(self.weights(views_END, local, own_N), views_END) if self.routes else views_END[0]

    def weights(self, views_END: Tensor, local: Parameters, own_N: Tensor) -> Tensor:
        """The client's w_u [E], Eq. 3 of FedVLR."""
        router = self.client.router
        assert router is not None
        own = {n.removeprefix("router."): p for n, p in local.items() if n.startswith("router.")}
        return functional_call(router, own, (views_END, own_N))

    def score(self, items_NW: Tensor, local: Parameters) -> Tensor:
        own = {n.removeprefix("backbone."): p for n, p in local.items() if n.startswith("backbone.")}
        return functional_call(self.client.backbone, own, (items_NW,))

    def logits(self, local: Parameters, own_N: Tensor) -> Tensor:
        """r̂_u before the sigmoid, [N], of the items whose rows `local` holds."""
        return self.score(self.represent(local, own_N)[0], local)

    def objective(self, local: Parameters, batch: Batch, round: int) -> Tensor:
        """L_u: the mean of L_recon over the client's samples, and what its backbone adds to it."""
        items_NW, common_NW = self.represent(local, batch.own_N)
        logits_N = self.score(items_NW, local)
        if self.loss.whole:
            return self.over_all_items(logits_N, local, batch)
        loss = torch.dot(batch.share_N, self.loss.of(logits_N, batch.label_N))
        if self.second_loss is not None and "guidance" in local:
            of_target_N = self.second_loss.of(logits_N, local["target"])
            loss = loss + local["guidance"] * torch.dot(batch.share_N, of_target_N)
        if PERSONAL in local:
            loss = loss + self.client.backbone.penalty(common_NW, local[PERSONAL], batch.share_N, self.recipe, round)
        return loss

    def guide(self, logits_N: Tensor, local: Parameters, batch: Batch, round: int) -> dict[str, Tensor]:
        """Under a method with a second loss, what a client aims at in this round: "target" [N] and its weight,
        "guidance". What it remembers from round to round among its private parameters, it may move in place.

        Args:
            logits_N: its scores as the round begins. Leading axes of clients are carried along.
        """
        raise NotImplementedError

    def client_update(
        self, private: dict[str, Tensor], sent: Parameters, batch: Batch, round: int, stacked: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A client's A local epochs, each one full-batch step: ClientUpdate of FedMR, PersonalizedRefinement of FedVLR.

        Args:
            private: the client's own parameters by name; moved in place. A personal table holds the touched rows.
            sent: what was broadcast, parts by item for the rows of the batch.
            round: t, for schedules.
            stacked: every tensor has a leading axis of clients, which are trained side by side.

        Returns:
            The loss, averaged over the epochs, and what becomes of every part that moves or is uploaded: the client's
            copy of a part that moves, the accumulated gradient of one uploaded as such.
        """
        copies = {n: sent[n].clone() for n, part in self.parts.items() if part.moves}
        sums = {n: torch.zeros_like(sent[n]) for n, part in self.parts.items() if part.upload == "gradient"}
        local = {**private, **sent, **copies}
        if self.second_loss is not None:
            local |= self._guided(local, batch, round, stacked)
        if self.recipe.solver == "closed":
            return self.solved_update(private, local, sums, batch, round, stacked)
        optimizer = self.local_optimizer({**private, **copies}, round)
        losses = []
        for _ in range(self.recipe.local_epochs):
            for phase in self.phases():
                loss, gradients = self.gradients(local, phase, batch, round, stacked)
                for name in sums.keys() & gradients.keys():
                    sums[name] += gradients[name]
                optimizer.step(gradients)
                losses.append(loss)
        n_phases = len(losses) // self.recipe.local_epochs
        return torch.stack(losses[::n_phases]).mean(dim=0), {**copies, **{f"∇{n}": g for n, g in sums.items()}}

    @torch.no_grad()
    def _guided(self, local: Parameters, batch: Batch, round: int, stacked: bool) -> dict[str, Tensor]:
        logits = torch.func.vmap(self.logits)(dict(local), batch.own_N) if stacked else self.logits(local, batch.own_N)
        return self.guide(logits, local, batch, round)

    def phases(self) -> list[list[str]]:
        """What is stepped at once: everything, or what is private and then, from new gradients, what is shared."""
        shared = [n for n, part in self.parts.items() if part.moves or part.upload]
        private = [n for n in self.private if n not in self.untrained]
        return [private, shared] if self.client.backbone.alternates else [private + shared]

    def gradients(
        self, local: Parameters, names: list[str], batch: Batch, round: int, stacked: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L_u and its gradients with respect to the named ones, by autograd; for each client of a stack."""
        if not stacked:
            leaves = {n: local[n].detach().requires_grad_() for n in names}
            loss = self.objective({**local, **leaves}, batch, round)
            gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True, allow_unused=True)
            return loss.detach(), dict(zip(names, gradients, strict=True))

        def of(named: Parameters, rest: Parameters, share_N: Tensor, label_N: Tensor, own_N: Tensor) -> Tensor:
            return self.objective({**rest, **named}, Batch(share_N, label_N, own_N), round)

        each_client: Callable[..., Any] = torch.func.vmap(grad_and_value(of))
        rest = {n: p for n, p in local.items() if n not in names}
        gradient_of, loss_C = each_client({n: local[n] for n in names}, rest, batch.share_N, batch.label_N, batch.own_N)
        return loss_C.detach(), gradient_of

    def server_update(self, sent: Parameters, mixed: Parameters, optimizer: torch.optim.Optimizer | None) -> None:
        """Add Σ_u α_u (value_u − value) where values came back, which is their mean; step along Σ_u α_u ∇_u,
        pulled back through what was sent, where gradients did."""
        pulled = [n for n, part in self.parts.items() if part.upload == "gradient" and not part.told]
        if optimizer is not None:
            now, gradients, n_steps = sent, mixed, self.recipe.server_steps
            sent_IK = self._rows(sent).detach().clone() if n_steps > 1 else None  # a table moves in place
            for step in range(n_steps):
                if step and sent_IK is not None:
                    now = self.broadcast()
                    gradients = self.gradient_further_on(now, sent_IK, mixed)
                optimizer.zero_grad()
                torch.autograd.backward([now[n] for n in pulled], [gradients[n] for n in pulled])
                optimizer.step()
        with torch.no_grad():
            for name, part in self.parts.items():
                if part.upload == "value":
                    sent[name].add_(mixed[name])

    def for_new_items(self, features: Parameters) -> dict[str, Tensor]:
        """The parts by item for items outside the catalogue: what fusion makes of their features; their ID signal, and
        any table's row, is zero, the centre of the initial draw.

        Args:
            features: modality -> [J, d_m], encoded as the catalogue's.

        Raises:
            FedlabError: the method does not fuse, or a modality is missing, of another width, or of unequal rows.
        """
        if not self.fuses:
            raise FedlabError(f"method '{self.recipe.method}' knows items by their ID alone and cannot score new ones")
        given = {}
        for modality, known in self.features.items():
            if modality not in features:
                raise FedlabError(f"new_items: modality '{modality}' is missing; needed: {', '.join(self.features)}")
            raw = torch.as_tensor(features[modality])
            given[modality] = raw.to(known)
            if given[modality].ndim != 2 or given[modality].shape[1] != known.shape[1]:
                shape = tuple(given[modality].shape)
                raise FedlabError(f"new_items: '{modality}' has shape {shape}, not [J, {known.shape[1]}]")
            if not len(given[modality]):
                raise FedlabError(f"new_items: '{modality}' holds no item")
            if problem := flaw(raw.cpu().double().numpy()):
                raise FedlabError(f"new_items: '{modality}', {problem}")
        rows = {m: len(given[m]) for m in self.features}
        if len(set(rows.values())) != 1:
            raise FedlabError(
                f"new_items: unequal numbers of rows: {rows}" if rows else "new_items: no modality is used"
            )
        parts = self.views_for({m: given[m] for m in self.features})
        n_new = next(iter(rows.values()))
        if "item_table" in self.parts:
            parts["item_table"] = self.shared.item_table.new_zeros(n_new, self.client.backbone.item_width)
        return parts

    def sends_rows(self, name: str) -> bool:
        """Does a client upload only the rows of a part that it touched? Else all of it, or nothing."""
        part = self.parts[name]
        if part.upload == "value" and self.client.backbone.keeps_items:
            return False
        return part.by_item and part.upload is not None

    def memory(self, n_users: int, n_wanted: int) -> Memory:
        """What the server remembers of its clients from round to round; nothing, unless a subclass says otherwise.

        Args:
            n_wanted: how many clients a round has, or is expected to have.
        """
        return Memory()

    @torch.no_grad()
    def as_seen(self, shown: Parameters, items_IW: Tensor) -> Tensor:
        """Items, [I, item_width], scored by a prediction function that was `shown` and the shared layers: [I]."""
        layers = dict(self.shared.backbone.named_parameters())
        own = {name.removeprefix("backbone."): shown[name] for name in self.shown}
        return functional_call(self.client.backbone, {**layers, **own}, (items_IW,))

    def n_rows(self, sent: Parameters) -> int:
        """How many items something broadcast speaks of: the catalogue's, and new ones where there are any."""
        return next(len(sent[n]) for n, part in self.parts.items() if part.by_item)

    def apart(self) -> int:
        """How many of the parameters counted here a client's model does without: the papers' tables leave them out."""
        return 0

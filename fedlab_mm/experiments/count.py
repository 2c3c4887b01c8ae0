"""How many numbers a recipe keeps and moves."""

from collections.abc import Mapping

import torch

from fedlab_mm.errors import FedlabError
from fedlab_mm.federation.traffic import traffic
from fedlab_mm.methods import Method
from fedlab_mm.methods.mlp import SharedMLP
from fedlab_mm.methods.vbpr import FederatedVBPR
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import lookup, names


def count_parameters(
    recipe: Recipe, n_users: int, n_items: int, widths: Mapping[str, int] | None = None
) -> dict[str, int]:
    """How many numbers a recipe keeps and moves, counted on its real modules.

    Args:
        n_users, n_items: the size of the federation.
        widths: modality -> feature width (default: image and text, 512 each).

    Returns:
        client: what one client holds: what it is sent, features included, and its private parameters;
        private: the part of it that never leaves;
        server: the shared parameters, features not counted;
        download, upload: numbers per client and round, and the same in bytes; upload is the most, where every item is
        touched. Features that a client keeps for good are sent once: `download once`.
        fedmr: by the convention of FedMR's Table 5, every learnable parameter that a model on a client needs, with the
        embeddings of all users where the network has user embeddings (FedNCF, VBPR);
        fedvlr: by that of FedVLR's Table 3, the item tables that a client is sent and its private parameters; for a
        network with user embeddings, and without fusion, as FedMR counts.

    >>> count = count_parameters(Recipe(method="fedvlr"), n_users=204, n_items=560)
    >>> count["fedmr"], count["fedvlr"]
    (455620, 120132)
    >>> count_parameters(Recipe(method="none"), n_users=204, n_items=560)["fedmr"]
    35905
    """
    if recipe.method not in names("method") or recipe.backbone not in names("backbone"):
        raise FedlabError(
            f"'{recipe.label}' predicts clicks: count it with fedlab_mm.sequential.count_click_parameters(recipe, "
            "log.attributes)"
        )
    widths = {"image": 512, "text": 512} if widths is None else widths
    with torch.device("meta"):
        features = {m: torch.empty(n_items, width) for m, width in widths.items()}
        method: Method = lookup("method", recipe.method)(recipe, n_items, features)
        sent = method.broadcast()
    moved = traffic(method, sent)
    private = {n: p.numel() for n, p in method.client.named_parameters() if n in method.private}
    server = sum(p.numel() for p in method.shared.parameters())
    parts = method.parts
    held = {n: v.numel() // (v.shape[-1] if parts[n].by_group else 1) for n, v in sent.items()}
    once = sum(held[n] for n, part in parts.items() if not (part.moves or part.upload or part.by_group))
    of_users = embeddings_of_users(method)
    every_user = (n_users - 1) * sum(private[n] for n in of_users)
    fedmr = server - method.apart() + sum(private.values()) + every_user
    return {
        "client": sum(held.values()) + sum(private.values()),
        "private": sum(count for n, count in private.items() if n not in method.shown),
        "server": server,
        "download": moved.download // 4,
        "upload": moved.per_row * n_items + moved.whole,
        "download bytes": moved.download,
        "upload bytes": moved.upload(n_items),
        "download once": once,
        "fedmr": fedmr,
        "fedvlr": fedvlr_count(method, private, n_users, fedmr),
    }


# The papers' conventions.


def embeddings_of_users(method: Method) -> list[str]:
    """The private parameters that the papers count once for every user."""
    if isinstance(method, FederatedVBPR) and "backbone.predictor.weight" in method.private:
        return ["backbone.predictor.weight"]
    return sorted(n for n in method.private if n.startswith("backbone.user_"))


def fedvlr_count(method: Method, private: Mapping[str, int], n_users: int, fedmr: int) -> int:
    """What FedVLR's Table 3 counts: the item tables of width D that a client is sent, and what is private. It counts a
    network with user embeddings, and an ID-based one, as FedMR does (`fedmr`)."""
    of_users = embeddings_of_users(method)
    if isinstance(method, FederatedVBPR):  # the item table and all users' two vectors, 512 wide each, without the map E
        table = method.items.item_table.numel() if "id" in method.signals else 0
        return table + n_users * sum(private[n] for n in of_users)
    if not method.fuses or of_users:
        return fedmr
    # A table for each view; of "+MLP" the tables that go into the fusion.
    n_tables = len(method.signals) if isinstance(method, SharedMLP) else len(method.view_names)
    return n_tables * method.n_items * method.recipe.dim + sum(private.values())

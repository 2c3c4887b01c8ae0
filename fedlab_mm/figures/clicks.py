"""MRFF: its Table 1 on KuaiSAR-R, its balance loss and groups, its noise, its sizes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from fedlab_mm.evaluation import evaluate_clicks
from fedlab_mm.experiments.compare import compare, paired
from fedlab_mm.experiments.train import rounds
from fedlab_mm.figures.base import Exhibit, as_settings, tuned
from fedlab_mm.plotting.clicks import plot_clicks, plot_shares, plot_sizes, plot_sweeps
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import register
from fedlab_mm.reported import reported
from fedlab_mm.sequential import count_click_parameters

TRANSFORMERS = ("fedsasrec", "fedhstu", "fedllama")
SHARED: Sequence[Mapping[str, Any]] = (
    {"shared_lr": [0.01], "dropout": [0.0, 0.2]},
    {"shared_lr": [0.003], "dropout": [0.0]},
)
GROUPED: Sequence[Mapping[str, Any]] = (
    {"shared_lr": [0.01], "lr": [0.01], "dropout": [0.0, 0.2]},
    {"shared_lr": [0.01], "lr": [0.03], "dropout": [0.2]},
)
PAIRS: Sequence[Mapping[str, Any]] = (
    {"shared_lr": [0.01], "lr": [0.003, 0.03]},
    {"shared_lr": [0.003], "lr": [0.03]},
)
ITEMS: Sequence[Mapping[str, Any]] = ({"shared_lr": [0.01], "lr": [0.01], "dropout": [0.2]},)


def federated(backbone: str, method: str = "none", **changes: Any) -> Recipe:
    """One step of SGD on each client a round, Adam on the server; sequences tell what was clicked."""
    common = {"dataset": "kuaisar-r", "local_epochs": 1, "server_optimizer": "adam"}
    if backbone in TRANSFORMERS:
        common["history"] = "clicks"
    wait = {"rounds": 120, "evaluate_every": 2, "patience": 10}
    return Recipe(backbone=backbone, method=method, **{**common, **wait, **changes})


@register("figure", "clicks-kuaisar")
class ClickTable(Exhibit):
    """A row for each seed of each cell; for MRFF also its difference from the same backbone without."""

    source = "MRFF, Table 1: KuaiSAR-R"
    caption = (
        "AUC and LogLoss of the last showing of 1,791 users of KuaiSAR-R. Ours (filled): mean and range of five seeds, "
        "three settings each, the best by validation in the mean of two seeds; transformers read what was clicked, but "
        "for those marked items only, which read as the paper writes (one setting); FedNCF and FedPA read no past. "
        "Reported (hollow). Lines: the user's own click rate, and boosted trees, which see all in one place."
    )
    dataset = "kuaisar-r"
    seeds = (0, 1, 2, 3, 4)
    tuning_seeds = (0, 1)

    def cells(self) -> dict[tuple[str, str], Recipe]:
        found = {(b, "none"): federated(b) for b in ("fedncf", "fedpa")}
        for backbone in TRANSFORMERS:
            found |= {(backbone, method): federated(backbone, method) for method in ("none", "mrff")}
        for method in ("none", "mrff"):
            found["fedsasrec, items only", method] = federated("fedsasrec", method, history="items")
        return found

    def grid(self, recipe: Recipe) -> Sequence[Mapping[str, Any]]:
        if recipe.backbone in ("fedncf", "fedpa"):
            return PAIRS
        if recipe.history == "items":
            return ITEMS
        return GROUPED if recipe.method == "mrff" else SHARED

    def settings(self) -> dict[str, Any]:
        recipes = {" | ".join(key): recipe for key, recipe in self.cells().items()}
        own: dict[str, Any] = {
            "grid": list(SHARED),
            "grid of MRFF": list(GROUPED),
            "grid of FedNCF and FedPA": list(PAIRS),
            "grid of items only": list(ITEMS),
        }
        own |= {"seeds": list(self.seeds), "seeds tuned with": list(self.tuning_seeds)}
        return {**as_settings(recipes), **own}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        best = {}
        for key, recipe in tqdm(self.cells().items(), desc="tune", unit="cell"):
            winner = tuned(recipe, self.grid(recipe), data, cache, self.tuning_seeds)
            if winner is not None:
                best[key] = winner
        named = {" | ".join(key): recipe for key, recipe in best.items()}
        label = {recipe: name for name, recipe in named.items()}
        table = compare(list(named.values()), self.seeds, data, label=label.__getitem__, cache=cache)
        users = table.attrs["users"]
        rows = []
        for name in table.index:
            backbone, _, method = name.partition(" | ")
            about: dict[str, Any] = {"backbone": backbone, "method": method or "centralised"}
            if name in named:
                about |= {"lr": named[name].lr, "shared_lr": named[name].shared_lr}
            if method == "mrff" and f"{backbone} | none" in named:
                for metric in ("auc", "logloss"):
                    test = paired(table, name, f"{backbone} | none", metric)
                    about |= {f"{metric} {part}": test[part] for part in ("difference", "low", "high", "p")}
            if name in named:
                test = paired(table, name, "trees", "auc")
                about |= {f"auc beside trees {part}": test[part] for part in ("difference", "low", "high", "p")}
            for seed, own in users[users["row"] == name].groupby("seed"):
                rows.append({**about, "seed": seed, **pooled(own)})
        return pd.DataFrame(rows)

    def draw(self, table: pd.DataFrame) -> Figure:
        there = reported("mrff_table1")
        there = there[(there["dataset"] == "kuaisar-r") & there["metric"].isin(["auc", "logloss"])]
        wide = there.pivot_table(index=["backbone", "method"], columns="metric", values="value").reset_index()
        return plot_clicks(table, wide.assign(backbone=wide["backbone"].map(_ours)), lines=("user rate", "trees"))


def pooled(own: pd.DataFrame) -> dict[str, float]:
    found = evaluate_clicks(own["logit"], own["click"], own["user"])
    return {metric: found[metric] for metric in ("auc", "logloss")}


def _ours(name: str) -> str:
    return name if name.startswith("fed") else f"fed{name}"


BALANCES = (0.0, 0.1)
NUMBERS = (1, 4)
GATES = ("plain", "weighted", "random")
RATES = (0.003, 0.03, 0.1)
STRENGTHS = (0.0, 0.1, 0.5)


class OneThing(Exhibit):
    """FedSASRec with MRFF as `clicks-kuaisar` tuned it, with one thing changed: a row for each seed of each."""

    dataset = "kuaisar-r"
    seeds = (0, 1)

    def base(self) -> Recipe:
        return federated("fedsasrec", "mrff", shared_lr=0.01, lr=0.03, dropout=0.2)

    def variants(self) -> Iterator[tuple[str, float | str, dict[str, Any]]]:
        """(what is changed, to what, the changes)."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        changes = [[what, value, dict(changes)] for what, value, changes in self.variants()]
        return {**as_settings({"base": self.base()}), "variants": changes, "seeds": list(self.seeds)}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        variants = [(what, value, self.base().but(**changes)) for what, value, changes in self.variants()]
        label = {recipe: f"{what} {value}" for what, value, recipe in reversed(variants)}
        label[self.base()] = "unchanged"
        table = compare(list(label), self.seeds, data, label=label.__getitem__, cache=cache)
        users = table.attrs["users"]
        rows = []
        for what, value, recipe in variants:
            about: dict[str, Any] = {"changed": what, "value": value}
            if label[recipe] != "unchanged":
                test = paired(table, label[recipe], "unchanged", "auc")
                about |= {f"auc {part}": test[part] for part in ("difference", "low", "high", "p")}
            for seed, own in users[users["row"] == label[recipe]].groupby("seed"):
                rows.append({**about, "seed": seed, **pooled(own)})
        return pd.DataFrame(rows)

    def draw(self, table: pd.DataFrame) -> Figure:
        return plot_sweeps(table)


@register("figure", "mrff-sweeps-kuaisar")
class Sweeps(OneThing):
    """Weight of the balance loss, number of groups, what the gate learns from, how fast personal parts learn."""

    source = "MRFF, Figures 3 and 4"
    caption = (
        "FedSASRec with MRFF on KuaiSAR-R: weight of the balance loss, number of groups (one: a layer of the user's "
        "own beside one of all), what the gate learns from (plain: the balance loss alone; random: nothing, each "
        "user's group is drawn), and the rate at which a client's own parts learn. Mean and range of two seeds. The "
        "paper finds 0.1 and 4 the best."
    )

    def variants(self) -> Iterator[tuple[str, float | str, dict[str, Any]]]:
        for balance in BALANCES:
            yield "balance loss α", balance, {"balance": balance}
        for groups in NUMBERS:
            yield "groups", groups, {"groups": groups}
        for gate in GATES:
            yield "gate", gate, {"gate": gate}
        for rate in RATES:
            yield "η of what a client keeps", rate, {"lr": rate}


@register("figure", "mrff-noise-kuaisar")
class ClickNoise(OneThing):
    """Strength of the noise on uploads."""

    source = "MRFF, Table 2: KuaiSAR-R"
    caption = (
        "FedSASRec with MRFF on KuaiSAR-R, Gaussian noise on all that a client sends. The paper does not say what "
        "its strength is of: here the deviation, in units of the step that a client takes (η times a gradient of one). "
        "Mean and range of two seeds."
    )

    def variants(self) -> Iterator[tuple[str, float | str, dict[str, Any]]]:
        rate = self.base().shared_lr or 1.0
        for strength in STRENGTHS:
            yield "noise", strength, {"noise": (strength * rate) ** 2}


@register("figure", "mrff-groups-kuaisar")
class Shares(Exhibit):
    """Which share of users each group has, round by round, with the balance loss and without."""

    source = "MRFF, Figure 2"
    caption = (
        "FedSASRec with MRFF on KuaiSAR-R: the share of users that each block's gate sends to each of four groups, "
        "with the balance loss (α 0.1) and without. Plain gates hear nothing else, and without it stay as they were "
        "drawn; weighted ones hear the click loss too; with through the balance loss teaches the layers below, as the "
        "equations read. One seed."
    )
    dataset = "kuaisar-r"
    seeds = (0,)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "plain, α = 0.1": {},
        "plain, α = 0": {"balance": 0.0},
        "weighted, α = 0.1": {"gate": "weighted"},
        "weighted, α = 0": {"gate": "weighted", "balance": 0.0},
        "through, α = 0.1": {"gate": "through"},
    }

    def base(self) -> Recipe:
        return federated("fedsasrec", "mrff", shared_lr=0.01, lr=0.01, rounds=120, evaluate_every=120, patience=None)

    def settings(self) -> dict[str, Any]:
        return {**as_settings({"base": self.base()}), "variants": dict(self.variants), "seeds": list(self.seeds)}

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        from sklearn.metrics import adjusted_rand_score

        rows = []
        for variant, changes in self.variants.items():
            before = None
            recipe = self.base().but(**changes)
            for record in tqdm(rounds(recipe, data), total=recipe.rounds, desc=variant, unit="round"):
                group_UL = record.model.groups_of_users()
                assert group_UL is not None
                for block in range(group_UL.shape[1]):
                    count_G = np.bincount(group_UL[:, block], minlength=self.base().groups or 1)
                    stable = np.nan if before is None else adjusted_rand_score(before[:, block], group_UL[:, block])
                    about = {"variant": variant, "round": record.round, "block": block, "ari": stable}
                    rows += [{**about, "group": g, "share": n / len(group_UL)} for g, n in enumerate(count_G)]
                before = group_UL
        return pd.DataFrame(rows)

    def draw(self, table: pd.DataFrame) -> Figure:
        return plot_shares(table)


@register("figure", "mrff-table3")
class Sizes(Exhibit):
    """Where a client's numbers are."""

    source = "MRFF, Table 3: KuaiSAR-R"
    caption = (
        "Numbers that a client's model holds under MRFF on KuaiSAR-R, of the groups' layers one in each block, part by "
        "part; hollow: the paper's total. Ours are 1.4 to 1.8 % fewer: no rows for codes that nobody and nothing in "
        "this log has, none for padding, and no bias on keys, which softmax undoes; with these, 17 numbers or fewer "
        "apart."
    )
    dataset = "kuaisar-r"
    seeds = ()

    def settings(self) -> dict[str, Any]:
        return as_settings({b: federated(b, "mrff", history="items") for b in TRANSFORMERS})

    def measure(self, data: Any, cache: str | None = None) -> pd.DataFrame:
        there = reported("mrff_table3")
        there = there[(there["dataset"] == "kuaisar-r") & (there["metric"] == "parameters")].set_index("backbone")
        rows = []
        for backbone in TRANSFORMERS:
            parts = count_click_parameters(federated(backbone, "mrff", history="items"), data.attributes)
            theirs = int(there["value"][backbone.removeprefix("fed")])
            for part, ours in parts.drop("total").items():
                rows.append({"backbone": backbone, "part": part, "ours": ours, "reported": theirs})
        return pd.DataFrame(rows)

    def draw(self, table: pd.DataFrame) -> Figure:
        return plot_sizes(table)

"""What a server learns from the first rounds of a recipe."""

import warnings

import pandas as pd
from tqdm import tqdm

from fedlab_mm.attacks import Ledger, Scene
from fedlab_mm.errors import FedlabError, whole_number
from fedlab_mm.experiments.inputs import data_of
from fedlab_mm.methods.parts import Memory
from fedlab_mm.recipe import Recipe
from fedlab_mm.records import Dataset
from fedlab_mm.registry import lookup
from fedlab_mm.tasks import federation_of


def attack(
    kind: str,
    recipe: Recipe,
    data: Dataset | None = None,
    rounds: int = 5,
    secure: bool = False,
    shadows: int = 16,
    progress: bool = True,
) -> pd.DataFrame:
    """What a server learns from the uploads of a recipe's first rounds.

    Args:
        kind: "items" (which items did a client interact with), "membership" (was this interaction there, by a
            likelihood ratio with shadow runs), "taste" (which kinds does it like; generated data only).
        recipe: with whatever defences it has; data: what on, loaded by the recipe's name if left out.
        rounds: how many rounds the server watches.
        secure: secure aggregation: the server sees each round's sum only, and what a method has each client show.
        shadows: how many federations the "membership" attack trains.

    Returns:
        A row for each way to attack, and a baseline where there is one: auc, tpr@1%fpr, each with a 95 % interval;
            users. An auc clearly below one half, its interval below 0.45, is warned of: it is no safety, for whoever
            turns the scores round reads 1 − auc.

    Raises:
        FedlabError: an unknown attack, rounds or shadows that are no whole number, fewer than one round or four
            shadows, "taste" without planted tastes, a click log, no user whom "membership" could ask about.

    >>> from fedlab_mm.data.load import load
    >>> toy = load("toy")
    >>> float(attack("items", Recipe(method="none"), toy, rounds=2, progress=False).loc["uploads", "auc"]) > 0.99
    True
    """
    data = data_of(recipe, data)
    if data.task != "ranking":
        raise FedlabError(f"attacks ask which items a client has; {data.name} holds showings and clicks")
    method = lookup("attack", kind)
    rounds = whole_number("rounds", rounds)
    shadows = whole_number("shadows", shadows, least=4) if kind == "membership" else shadows
    total = rounds * (shadows if kind == "membership" else 1)
    with tqdm(total=total, desc=f"attack {kind}", unit="round", disable=not progress, delay=1) as bar:

        def watch(world: Dataset, seed: int) -> Ledger:
            federation = federation_of(recipe.but(engine="loop", seed=seed), world)
            reads = type(federation.memory).take is not Memory.take
            if secure and reads and not federation.method.shown:
                raise FedlabError(
                    f"secure=True: method '{recipe.method}' reads single uploads, which a sum does not give"
                )
            ledger = Ledger.of(federation.method, world.n_users, secure)
            federation.channel.watch(ledger.take)
            for _ in range(rounds):
                record = federation.step()
                ledger.close_round(record.clients, federation.last_mixed)
                bar.update()
            return ledger

        table = method(Scene(data, watch, shadows, recipe.seed))
    for way, found in table[table["auc high"] < 0.45].iterrows():
        warnings.warn(
            f"attack '{kind}', '{way}': an AUC of {found['auc']:.3f} lies below one half, which is no safety: "
            f"the scores tell own from other upside down, and turned round reach {1 - found['auc']:.3f}",
            stacklevel=2,
        )
    return table

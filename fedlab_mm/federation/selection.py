"""Who takes part in a round: the registered ways of drawing clients."""

from typing import ClassVar

import numpy as np

from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import lookup, register


class Sampling:
    """Draws a round's clients where not all take part. A subclass registers as "sampling".

    Class attributes:
        account: how ε is accounted for: "poisson" (each client by a coin of its own: neighbours differ in the presence
            of one) or "fixed" (as many in every round: neighbours differ in the data of one). None: nobody knows how,
            as where a round depends on the last; then no differential privacy is claimed of a part of the clients.
        number_varies: is the number of clients drawn too? Then the weights' divisor is the expected number, for one
            that counted them would itself tell who is there.
    """

    account: ClassVar[str | None] = None
    number_varies: ClassVar[bool] = False

    def draw(self, n_users: int, n_wanted: int, last: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Clients, sorted, int64; `last` are those of the round before."""
        raise NotImplementedError


@register("sampling", "rested")
class Rested(Sampling):
    """None of the last round's clients, where the others are enough: a server cannot follow a client from one round to
    the next (FedMR, section 4.5)."""

    def draw(self, n_users: int, n_wanted: int, last: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        rested = np.setdiff1d(np.arange(n_users), last)
        pool = rested if len(rested) >= n_wanted else np.arange(n_users)
        return np.sort(rng.choice(pool, n_wanted, replace=False))


@register("sampling", "fixed")
class Fixed(Sampling):
    """As many, without memory."""

    account = "fixed"

    def draw(self, n_users: int, n_wanted: int, last: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.sort(rng.choice(n_users, n_wanted, replace=False))


@register("sampling", "poisson")
class Poisson(Sampling):
    """Each client with the same chance, whoever else comes; there may be none."""

    account, number_varies = "poisson", True

    def draw(self, n_users: int, n_wanted: int, last: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.flatnonzero(rng.random(n_users) < n_wanted / n_users)


def n_clients(recipe: Recipe, n_users: int) -> int:
    """How many clients a round has, or is expected to have."""
    return max(1, round(recipe.clients * n_users))


def select_clients(recipe: Recipe, n_users: int, t: int, last_clients: np.ndarray) -> np.ndarray:
    """The clients of round t, sorted: S_t."""
    n_wanted = n_clients(recipe, n_users)
    if n_wanted == n_users:
        return np.arange(n_users)
    sampling: Sampling = lookup("sampling", recipe.sampling)()
    return sampling.draw(n_users, n_wanted, last_clients, np.random.default_rng([recipe.seed, t]))

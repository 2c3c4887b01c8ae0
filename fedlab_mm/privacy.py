"""What a recipe's mechanisms prove: ε, by dp-accounting.

The mechanisms themselves are stages of the channel (`federation/mechanisms.py`). Two of them together have a proof:

* **client-level differential privacy** (`clip`, `noise_multiplier`): each client's whole upload is cut to length
  `clip`, and the server adds Gaussian noise to the sum. Protected is the *presence of a client*, all its interactions
  at once, against whoever sees the models that the server sends. The server itself sees the uploads: against it this
  needs secure aggregation beside.
* **local differential privacy** (`clip`, `noise`, `rows="all"`): each client adds the noise itself, against the server
  too, and pays for it.

Under the first the weights must not depend on data (equal aggregation) and each round's clients are drawn without
memory: the papers' rule that nobody takes part twice in a row makes rounds depend on each other, and the theorems on
amplification by sampling do not hold then.
"""

import logging
import math
from numbers import Real

from fedlab_mm.errors import FedlabError, whole_number
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import lookup

ACCOUNTANTS = ("pld", "rdp")
SAMPLINGS = ("poisson", "fixed")
MOST_NOISE = 10_000.0


def epsilon(
    noise_multiplier: float,
    sampling_rate: float,
    rounds: int,
    delta: float,
    accountant: str = "rdp",
    sampling: str = "poisson",
) -> float:
    """The ε of (ε, δ)-differential privacy after so many rounds of the sampled Gaussian mechanism, by dp-accounting.

    Args:
        noise_multiplier: noise deviation over sensitivity; 0 gives ε = ∞.
        sampling_rate: the chance of a client to be in a round, in (0, 1].
        delta: in (0, 1), well below one over the number of clients.
        accountant: "rdp" (Rényi, as Opacus: quick, an upper bound) or "pld" (privacy loss distributions: tight, slow
            where ε is large); "fixed" has "rdp" only. How far "rdp" lies above "pld" depends on the rate q and the
            rounds. Measured at δ = 1e-5, with noise multipliers from 1 to 10, it is 5 to 14 % at q = 1 and 0.1, up to
            88 % at q = 0.01 over 60 rounds (15 % over 1,000), and up to a factor of 14 at q = 0.001 over 60 rounds (1.7
            over 10,000). Orders are finite, so "rdp" says some thousandths however much the noise.
        sampling: "poisson", neighbours differ in the presence of one client; or "fixed", a fixed number of clients
            without replacement, neighbours differ by one client's data, and the sensitivity is twice as large.

    Raises:
        FedlabError: an argument out of range; "pld" where ε is so large that memory does not hold its distribution.

    >>> round(epsilon(noise_multiplier=1.0, sampling_rate=0.1, rounds=100, delta=1e-5), 2)
    7.9
    >>> round(epsilon(1.0, 0.1, 100, 1e-5, accountant="pld"), 2)
    7.05
    """
    _check_range("noise_multiplier", noise_multiplier, 0, math.inf, "a finite number, not negative")
    _check_setting(sampling_rate, rounds, delta, accountant, sampling)
    if noise_multiplier == 0:
        return math.inf
    if not 1e-50 <= noise_multiplier <= 1e6:  # too small a square leaves the numbers, and ε is 0
        raise FedlabError(f"noise_multiplier={noise_multiplier}: must be 0, or lie between 1e-50 and 1e6")
    return _spent(noise_multiplier, sampling_rate, rounds, delta, accountant, sampling)


def noise_multiplier(
    epsilon: float,
    sampling_rate: float,
    rounds: int,
    delta: float,
    accountant: str = "rdp",
    sampling: str = "poisson",
) -> float:
    """The least noise that reaches ε, to a thousandth: the inverse of `epsilon`, by dp-accounting's calibration. By the
    accountant asked for, it spends at most ε.

    Raises:
        FedlabError: an argument out of range; an ε that no noise multiplier up to 10,000 reaches by that accountant.

    >>> z = noise_multiplier(epsilon=7.9, sampling_rate=0.1, rounds=100, delta=1e-5)
    >>> round(z, 2)
    1.0
    """
    _check_range("epsilon", epsilon, 0, math.inf, "positive and finite", open_below=True)
    _check_setting(sampling_rate, rounds, delta, accountant, sampling)
    import dp_accounting

    def bracket(by: str, high: float, step: float) -> tuple[float, float] | None:
        """One that leaks more, and one that is enough; None if the most is not."""

        def enough(z: float) -> bool:
            return _spent(z, sampling_rate, rounds, delta, by, sampling) <= epsilon

        if enough(high):
            while enough(high / step):
                high /= step
            return high / step, high
        while high < MOST_NOISE:
            high = min(step * high, MOST_NOISE)
            if enough(high):
                return high / step, high
        return None

    found = bracket("rdp", 1.0, 2.0)
    if (
        accountant == "pld"
    ):  # it takes minutes where noise is far too little: its search begins where Rényi's account ends
        found = bracket("pld", found[1], 1.2) if found else bracket("pld", 1.0, 2.0)
    if found is None:
        tighter = "" if sampling == "fixed" or accountant == "pld" else ", or accountant='pld', whose bound is tighter"
        raise FedlabError(
            f"epsilon={epsilon} cannot be reached in {rounds} rounds at delta={delta}: even a noise multiplier of "
            f"{MOST_NOISE:,.0f} leaks more by accountant='{accountant}'; take fewer rounds, fewer clients a round, a "
            f"larger epsilon{tighter}"
        )

    def event(log_z: float):  # in logarithms, so that the tolerance is a share
        return _event(dp_accounting.dp_event, math.exp(log_z), sampling_rate, rounds, sampling)

    with _quiet():
        log_z = dp_accounting.calibrate_dp_mechanism(
            lambda: _fresh(accountant, sampling),
            event,
            epsilon,
            delta,
            dp_accounting.ExplicitBracketInterval(*map(math.log, found)),
            tol=1e-3,
        )
    return math.exp(log_z)


def _spent(z: float, sampling_rate: float, rounds: int, delta: float, accountant: str, sampling: str) -> float:
    import dp_accounting

    with _quiet():
        ledger = _fresh(accountant, sampling)
        try:
            ledger.compose(_event(dp_accounting.dp_event, z, sampling_rate, rounds, sampling))
            return float(ledger.get_epsilon(delta))
        except MemoryError:
            raise FedlabError(
                f"accountant='{accountant}' needs more memory than there is for noise_multiplier={z:g}, so large is "
                "epsilon: take accountant='rdp', which is close there"
            ) from None


def of_recipe(recipe: Recipe, n_users: int, rounds: int | None = None, delta: float | None = None) -> dict[str, float]:
    """What a recipe proves, as {"epsilon", "local epsilon", "delta"}.

    "epsilon" is of all that the server sends, against everybody but the server; "local epsilon" of one client's
    uploads, against the server itself (infinite unless every upload is clipped, noisy and sent with all rows).

    Args:
        rounds: how many (the recipe's, if left out); delta: n_users^−1.1, if left out.

    Raises:
        FedlabError: an argument out of range.
    """
    whole_number("n_users", n_users, least=2)
    rounds = recipe.rounds if rounds is None else whole_number("rounds", rounds)
    delta = n_users**-1.1 if delta is None else delta
    central = local = math.inf
    if recipe.noise_multiplier:
        account = lookup("sampling", recipe.sampling).account
        if account is None and recipe.clients < 1:
            raise FedlabError(f"sampling='{recipe.sampling}' has no account of privacy; 'poisson' and 'fixed' have")
        fixed = account == "fixed" and recipe.clients < 1
        central = epsilon(
            recipe.noise_multiplier, _rate(recipe, n_users), rounds, delta, sampling="fixed" if fixed else "poisson"
        )
    if recipe.noise and recipe.clip and recipe.rows == "all":
        # A server that sees each upload learns who took part, so sampling amplifies nothing; another history can move
        # an upload by twice the bound.
        local = epsilon(math.sqrt(recipe.noise) / (2 * recipe.clip), 1.0, rounds, delta)
    return {"epsilon": central, "local epsilon": local, "delta": delta}


def _rate(recipe: Recipe, n_users: int) -> float:
    return max(1, round(recipe.clients * n_users)) / n_users if recipe.clients < 1 else 1.0


def _check_range(name: str, value: float, low: float, high: float, what: str, open_below: bool = False) -> None:
    fits = isinstance(value, Real) and not isinstance(value, bool) and low <= value < high
    if not fits or (open_below and value == low):
        raise FedlabError(f"{name}={value}: must be {what}")


def _check_setting(sampling_rate: float, rounds: int, delta: float, accountant: str, sampling: str) -> None:
    _check_range("sampling_rate", sampling_rate, 0, 1 + 1e-12, "in (0, 1]", open_below=True)
    _check_range("delta", delta, 0, 1, "in (0, 1)", open_below=True)
    whole_number("rounds", rounds)
    if accountant not in ACCOUNTANTS:
        raise FedlabError(f"unknown accountant '{accountant}': there are: {', '.join(ACCOUNTANTS)}")
    if sampling not in SAMPLINGS:
        raise FedlabError(f"unknown sampling '{sampling}': there are: {', '.join(SAMPLINGS)}")
    if sampling == "fixed" and accountant != "rdp":
        raise FedlabError("sampling='fixed' is accounted for by accountant='rdp' only")


def _fresh(accountant: str, sampling: str):
    import dp_accounting
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    relation = dp_accounting.NeighboringRelation
    if sampling == "fixed":
        return RdpAccountant(neighboring_relation=relation.REPLACE_ONE)
    return PLDAccountant() if accountant == "pld" else RdpAccountant()


def _event(events, z: float, rate: float, rounds: int, sampling: str):
    gaussian = events.GaussianDpEvent(z)
    if sampling == "fixed":
        source = 10**12  # only the ratio of the two sizes counts; what rounds, rounds up
        once = events.SampledWithoutReplacementDpEvent(source, math.ceil(rate * source), gaussian)
    else:
        once = gaussian if rate >= 1 else events.PoissonSampledDpEvent(rate, gaussian)
    return events.SelfComposedDpEvent(once, int(rounds))


class _quiet:
    """dp-accounting warns for every order that it leaves out."""

    def __enter__(self) -> None:
        self.before = logging.getLogger("absl").level
        logging.getLogger("absl").setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("absl").setLevel(self.before)

"""What a client does to its upload before it leaves, what the server adds, and what that proves.

Three mechanisms, on the typed upload and on nothing else:

* **the papers' noise** (`noise`, a variance): Gaussian noise on every number a client uploads (FedMR, section 5.6.4).
  It proves nothing by itself: without a bound on what it hides there is no ε, so ε = ∞. Which rows are sent still
  tells which items the client touched.
* **client-level differential privacy** (`clip`, `noise_multiplier`): each client's whole upload is cut to length
  `clip`, and the server adds Gaussian noise of deviation noise_multiplier · sensitivity to the mixed update, rows that
  nobody touched included. Protected is the *presence of a client*, all its interactions at once, against whoever sees
  the models that the server sends. The server itself sees the uploads: against it this needs secure aggregation beside.
* **rows** ("all", "flipped"): send all rows, or lie about some (randomised response), so that the numbers of the rows
  do not list the items touched. Zeros still stand out among gradients; it takes noise to hide them.

Under differential privacy the weights must not depend on data (equal aggregation) and each round's clients are drawn
without memory: the papers' rule that nobody takes part twice in a row makes rounds depend on each other, and the
theorems on amplification by sampling do not hold then.
"""

import logging
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.draws import keys, normals, uniforms
from fedlab_mm.errors import FedlabError, whole_number
from fedlab_mm.recipe import Recipe
from fedlab_mm.settings import NOT_NEGATIVE, POSITIVE_OR_NONE, Settings, one_of, setting

NOISE, ROWS = 1, 2  # salts
ACCOUNTANTS = ("pld", "rdp")
SAMPLINGS = ("poisson", "fixed")
MOST_NOISE = 10_000.0


@dataclass(frozen=True)
class UploadNoise(Settings):
    """The mechanism that every task knows.

    Attributes:
        noise: variance of the Gaussian noise that a client adds to every number it uploads.
    """

    noise: float = setting(0.0, NOT_NEGATIVE)


@dataclass(frozen=True)
class Mechanism(UploadNoise):
    """The mechanisms of clients that upload rows of items.

    Attributes:
        clip: the bound on the length of a client's whole upload; None for none.
        noise_multiplier: of the server's noise, deviation over sensitivity: client-level differential privacy.
        rows: which rows a client sends: "touched", "all", or "flipped", the truth about each row told with probability
            e^ε / (1 + e^ε) only.
        row_epsilon: that ε.
    """

    clip: float | None = setting(None, POSITIVE_OR_NONE)
    noise_multiplier: float = setting(0.0, NOT_NEGATIVE)
    rows: str = setting("touched", one_of("touched", "all", "flipped"))
    row_epsilon: float | None = setting(None, POSITIVE_OR_NONE)

    def check(self) -> None:
        if (self.rows == "flipped") != (self.row_epsilon is not None):
            raise FedlabError(
                f"rows='{self.rows}' and row_epsilon={self.row_epsilon}: 'flipped' needs one, others none"
            )


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
        fixed = recipe.sampling == "fixed" and recipe.clients < 1
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


@dataclass(frozen=True)
class Guard:
    """A recipe's mechanisms, at work.

    Attributes:
        noise: variance of what each client adds to every number it sends; clip: the bound on an upload's length.
        noise_multiplier: z of the server's noise.
        rows: "touched", "all" or "flipped"; row_epsilon: of the randomised response about each row.
        seed: of everything drawn.
    """

    noise: float
    clip: float | None
    noise_multiplier: float
    rows: str
    row_epsilon: float | None
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> "Guard":
        m = next((part for part in recipe.parts if isinstance(part, Mechanism)), Mechanism(noise=recipe.noise))
        return cls(m.noise, m.clip, m.noise_multiplier, m.rows, m.row_epsilon, recipe.seed)

    @property
    def idle(self) -> bool:
        """Does a client send its upload as it is?"""
        return not self.noise and self.clip is None and self.rows == "touched"

    def sent_CI(self, touched_CI: Tensor, clients: np.ndarray, round: int) -> Tensor:
        """Which rows each client sends, bool [C, I].

        "flipped": each row's truth is told with probability e^ε / (1 + e^ε), else its opposite (Warner 1965), so each
        single bit is ε-locally private. A client's histories differ in many bits: the whole set is not.
        """
        if self.rows == "all":
            return torch.ones_like(touched_CI)
        if self.rows == "touched" or self.row_epsilon is None:
            return touched_CI
        lie = 1 / (1 + math.exp(self.row_epsilon))
        drawn = uniforms(keys(self.seed, round, clients, ROWS)[:, None], np.arange(touched_CI.shape[1]))
        return touched_CI ^ torch.from_numpy(drawn < lie).to(touched_CI.device)

    def factor_C(self, changes: Mapping[str, Tensor]) -> Tensor:
        """What each client multiplies its upload by, so that it is no longer than `clip`: min(1, clip / length), [C].

        Args:
            changes: name -> [C, …], zero where nothing is sent.
        """
        first = next(iter(changes.values()))
        if self.clip is None:
            return first.new_ones(len(first))
        squares_C = sum(c.double()[:, None].flatten(1).square().sum(dim=1) for c in changes.values())
        assert isinstance(squares_C, Tensor)
        length_C = squares_C.sqrt().clamp(min=1e-300)
        # A hair inside, so that rounding the product to single precision cannot carry it over the bound.
        return (self.clip * (1 - 1e-6) / length_C).clamp(max=1).to(first)

    def noise_of(self, name: str, like: Tensor, clients: np.ndarray, round: int, rows_CN: Tensor | None) -> Tensor:
        """Each client's own noise for one part.

        A number's noise depends on the client, the part, and its place in the part (the item, for a part by item), not
        on what else is sent: so engines agree.

        Args:
            like: [C, N, …] for rows, [C, …] for a whole part; rows_CN: the items, None for a whole part.
        """
        shape = like.shape[1:] if rows_CN is None else like.shape[2:]
        width = math.prod(shape)
        # The owner's name counts too: all layers have a "weight", and noise that two of them shared would cancel.
        owner = zlib.crc32(name.rpartition(".")[0].encode())
        salt = NOISE + owner + (int.from_bytes(name.encode()[-6:], "big") << 8)
        key = keys(self.seed, round, clients, salt)
        if rows_CN is None:
            # A stream for each client is some twelve times faster than numbers that can be had one by one, as of rows.
            drawn, source = np.empty((len(clients), width), dtype=np.float32), torch.Generator()
            for row, seed in zip(drawn, key.tolist(), strict=True):
                source.manual_seed(seed)
                torch.from_numpy(row).normal_(generator=source)
        else:
            places = rows_CN.cpu().numpy()[:, :, None] * width + np.arange(width)
            drawn = normals(key[:, None, None], places)
        return math.sqrt(self.noise) * torch.from_numpy(drawn).to(like).view(like.shape)

    def add_server_noise(self, mixed: Mapping[str, Tensor], alpha_C: np.ndarray, recipe: Recipe, round: int) -> None:
        """Add noise of deviation z · Δ to every number of the mixed update, in place.

        Δ, the most that a client can move it, is its weight times the bound on its upload: α · clip for a client that
        may or may not be there, 2 · α · clip where one stands in for another.
        """
        if not self.noise_multiplier or self.clip is None:
            return
        swapped = recipe.sampling == "fixed" and recipe.clients < 1
        deviation = self.noise_multiplier * self.clip * float(alpha_C.max()) * (2 if swapped else 1)
        key = keys(self.seed, round, np.zeros(1, dtype=np.int64), salt=NOISE)
        generator = torch.Generator().manual_seed(int(key[0] >> np.uint64(1)))
        for name in sorted(mixed):
            total = mixed[name]
            drawn = torch.randn(total.shape, generator=generator, dtype=torch.float64)
            total.add_((deviation * drawn).to(total))


def check(recipe: Recipe, aggregation: str) -> None:
    """Refuse what would make a recipe's privacy a claim without a proof.

    Raises:
        FedlabError: noise by the server without a bound on uploads, weights that depend on data, sampling with memory,
            negatives that tell how popular items are.
    """
    if not recipe.noise_multiplier:
        return
    why = None
    if recipe.clip is None:
        why = "needs clip, a bound on each client's upload: without one no noise is enough"
    elif aggregation != "equal":
        why = f"needs aggregation='equal': '{aggregation}' weighs a client by how much data it has, which tells it"
    elif recipe.sampling == "rested" and recipe.clients < 1:
        why = (
            "needs sampling='poisson' or 'fixed': under 'rested' a round depends on the last, and nothing is amplified"
        )
    elif recipe.negatives_by != "uniform":
        why = "needs negatives_by='uniform': popularity is counted on all clients' data"
    if why:
        raise FedlabError(f"noise_multiplier={recipe.noise_multiplier} {why}")


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

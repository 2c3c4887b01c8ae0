"""The stages of the channel that protect somebody: what each does, what it protects, and from whom."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedlab_mm.draws import keys, normals, uniforms
from fedlab_mm.errors import FedlabError
from fedlab_mm.federation.channel import Change, Stage, Uploads, like
from fedlab_mm.federation.selection import Sampling
from fedlab_mm.recipe import Recipe
from fedlab_mm.registry import lookup, register
from fedlab_mm.settings import NOT_NEGATIVE, POSITIVE_OR_NONE, Settings, member_of, setting

NOISE, ROWS = 1, 2  # salts


@register("stage", "clip")
class Clip(Stage):
    """Cuts each client's upload, all parts together, to a length: × min(1, clip / length)."""

    order = 10
    lengthens = False
    protects = "nothing by itself; it bounds what a client can move, which noise is then scaled to"

    @dataclass(frozen=True)
    class Params(Settings):
        """
        Attributes:
            clip: the bound on the length of a client's whole upload; None for none.
        """

        clip: float | None = setting(None, POSITIVE_OR_NONE)

    @property
    def idle(self) -> bool:
        return self.recipe.clip is None

    def at_client(self, uploads: Uploads, t: int) -> Uploads:
        real = {n: change.real() for n, change in uploads.changes.items()}
        squares_C = sum(value.double()[:, None].flatten(1).square().sum(dim=1) for value in real.values())
        assert isinstance(squares_C, Tensor)
        length_C = squares_C.sqrt().clamp(min=1e-300)
        # A hair inside, so that rounding the product to single precision cannot carry it over the bound.
        factor_C = (self.recipe.clip * (1 - 1e-6) / length_C).clamp(max=1)
        changes = uploads.changes.items()
        return uploads.with_changes(
            {n: replace(change, value=real[n] * like(factor_C.to(real[n]), real[n])) for n, change in changes}
        )


@register("stage", "rows")
class HideRows(Stage):
    """Sends rows of items that a client did not touch, as unchanged, so that their numbers do not list its items.

    Under "flipped" each single bit is ε-locally private. A client's histories differ in many bits: the whole set is
    not.
    """

    order = 20
    lengthens = False  # rows of zeros
    protects = "which items a client touched, from a server that sees its upload"
    needs = "noise, or zeros stand out among gradients"

    @dataclass(frozen=True)
    class Params(Settings):
        """
        Attributes:
            rows: which rows a client sends: "touched", "all", or "flipped", the truth about each row told with
                probability e^ε / (1 + e^ε) only.
            row_epsilon: that ε.
        """

        rows: str = setting("touched", member_of("row rule"))
        row_epsilon: float | None = setting(None, POSITIVE_OR_NONE)

        def check(self) -> None:
            if lookup("row rule", self.rows).lies != (self.row_epsilon is not None):
                raise FedlabError(
                    f"rows='{self.rows}' and row_epsilon={self.row_epsilon}: 'flipped' needs one, others none"
                )

    @property
    def idle(self) -> bool:
        return self.recipe.rows == "touched"

    def at_client(self, uploads: Uploads, t: int) -> Uploads:
        changes, n_rows_C = dict(uploads.changes), None
        for name, change in uploads.changes.items():
            if change.rows_CN is not None and not change.whole:
                told_CI = self.told_CI(touched_CI(change, len(uploads.sent[name])), uploads.clients, t)
                changes[name] = spread(change, told_CI)
                n_rows_C = told_CI.sum(dim=1).cpu().numpy()
        return uploads.with_changes(changes, n_rows_C)

    def told_CI(self, touched_CI: Tensor, clients: np.ndarray, t: int) -> Tensor:
        """Which rows each client says that it touched, bool [C, I]."""
        return lookup("row rule", self.recipe.rows)().told_CI(touched_CI, self.recipe, clients, t)


class RowRule:
    """Which rows a client says that it touched. A subclass registers as "row rule".

    Class attributes:
        lies: does it need row_epsilon?
    """

    lies: ClassVar[bool] = False

    def told_CI(self, touched_CI: Tensor, recipe: Recipe, clients: np.ndarray, t: int) -> Tensor:
        """bool [C, I] in and out."""
        raise NotImplementedError


@register("row rule", "touched")
class TouchedRows(RowRule):
    """The truth."""

    def told_CI(self, touched_CI: Tensor, recipe: Recipe, clients: np.ndarray, t: int) -> Tensor:
        return touched_CI


@register("row rule", "all")
class AllRows(RowRule):
    """All rows, so that nothing is told."""

    def told_CI(self, touched_CI: Tensor, recipe: Recipe, clients: np.ndarray, t: int) -> Tensor:
        return torch.ones_like(touched_CI)


@register("row rule", "flipped")
class FlippedRows(RowRule):
    """Randomised response (Warner 1965): the truth about each row with probability e^ε / (1 + e^ε), else its
    opposite."""

    lies = True

    def told_CI(self, touched_CI: Tensor, recipe: Recipe, clients: np.ndarray, t: int) -> Tensor:
        lie = 1 / (1 + math.exp(recipe.row_epsilon))
        drawn = uniforms(keys(recipe.seed, t, clients, ROWS)[:, None], np.arange(touched_CI.shape[1]))
        return touched_CI ^ torch.from_numpy(drawn < lie).to(touched_CI.device)


@register("stage", "noise")
class Noise(Stage):
    """The papers' noise: Gaussian, on every number that a client uploads (FedMR, section 5.6.4).

    It proves nothing by itself: without a bound on what it hides there is no ε, so ε = ∞. Which rows are sent still
    tells which items the client touched.
    """

    order = 30
    tasks = ("ranking", "clicks")
    protects = "the values of an upload, from a server that sees it"
    needs = "clip and rows='all', for an ε"
    adds = True

    @dataclass(frozen=True)
    class Params(Settings):
        """
        Attributes:
            noise: variance of the Gaussian noise that a client adds to every number it uploads.
        """

        noise: float = setting(0.0, NOT_NEGATIVE)

    @property
    def idle(self) -> bool:
        return not self.recipe.noise

    def at_client(self, uploads: Uploads, t: int) -> Uploads:
        changes = {}
        for name, change in uploads.changes.items():
            if change.whole:  # what did not move is sent too, and is noisy
                change = spread(change, torch.ones_like(touched_CI(change, len(uploads.sent[name]))))
            noise = self.draw(name, change.value, uploads.clients, t, change.rows_CN)
            if change.there_CN is not None:
                noise = noise * like(change.there_CN, noise)
            changes[name] = replace(change, value=change.value + noise)
        return uploads.with_changes(changes)

    def draw(self, name: str, shaped: Tensor, clients: np.ndarray, t: int, rows_CN: Tensor | None) -> Tensor:
        """Each client's own noise for one part.

        A number's noise depends on the client, the part, and its place in the part (the item, for rows), not on what
        else is sent: so engines agree.

        Args:
            shaped: [C, N, …] for rows, [C, …] for a part as a whole; rows_CN: the items, None for a whole part.
        """
        shape = shaped.shape[1:] if rows_CN is None else shaped.shape[2:]
        width = math.prod(shape)
        # The owner's name counts too: all layers have a "weight", and noise that two of them shared would cancel.
        owner = zlib.crc32(name.rpartition(".")[0].encode())
        salt = NOISE + owner + (int.from_bytes(name.encode()[-6:], "big") << 8)
        key = keys(self.recipe.seed, t, clients, salt)
        if rows_CN is None:
            # A stream for each client is some twelve times faster than numbers that can be had one by one, as of rows.
            drawn, source = np.empty((len(clients), width), dtype=np.float32), torch.Generator()
            for row, seed in zip(drawn, key.tolist(), strict=True):
                source.manual_seed(seed)
                torch.from_numpy(row).normal_(generator=source)
        else:
            places = rows_CN.cpu().numpy()[:, :, None] * width + np.arange(width)
            drawn = normals(key[:, None, None], places)
        return math.sqrt(self.recipe.noise) * torch.from_numpy(drawn).to(shaped).view(shaped.shape)


@register("stage", "server noise")
class ServerNoise(Stage):
    """Client-level differential privacy: Gaussian noise of deviation noise_multiplier · Δ on the sum, rows that nobody
    touched included.

    Δ, the most that a client can move the sum, is its weight times the bound on its upload: α · clip for a client that
    may or may not be there, 2 · α · clip where one stands in for another.
    """

    order = 90
    protects = (
        "the presence of a client, all its interactions at once, from whoever sees the models that the server sends; "
        "from the server itself only with secure aggregation beside"
    )
    needs = "a bound on uploads, weights that do not depend on data, clients drawn without memory"

    @dataclass(frozen=True)
    class Params(Settings):
        """
        Attributes:
            noise_multiplier: of the server's noise, deviation over sensitivity: client-level differential privacy.
        """

        noise_multiplier: float = setting(0.0, NOT_NEGATIVE)

    @property
    def idle(self) -> bool:
        return not self.recipe.noise_multiplier

    def check(self, aggregation: str, others: Sequence[Stage]) -> None:
        """
        Raises:
            FedlabError: noise without a bound on uploads, or with one that a later stage may pass; weights that depend
                on data; sampling with memory; negatives that tell how popular items are.
        """
        r, why = self.recipe, None
        swapped = self._account == "fixed" and r.clients < 1  # then neighbours have the same noise of their own
        after = [s for s in others if s.lengthens and s is not self and not (swapped and isinstance(s, Noise))]
        if r.clip is None:
            why = "needs clip, a bound on each client's upload: without one no noise is enough"
        elif not lookup("aggregation", aggregation).blind:
            why = f"needs aggregation='equal': '{aggregation}' weighs a client by how much data it has, which tells it"
        elif after:
            what = "noise of the clients' own" if isinstance(after[0], Noise) else type(after[0]).__name__
            why = f"bounds a client by clip, and {what} may carry its upload over the bound: leave it out"
        elif self._account is None and r.clients < 1:
            why = (
                f"needs sampling='poisson' or 'fixed': under '{r.sampling}' a round depends on the last, and nothing "
                "is amplified"
            )
        elif r.negatives_by != "uniform":
            why = "needs negatives_by='uniform': popularity is counted on all clients' data"
        if why:
            raise FedlabError(f"noise_multiplier={r.noise_multiplier} {why}")

    def at_server(self, mixed: dict[str, Tensor], greatest: float, t: int) -> None:
        r = self.recipe
        swapped = self._account == "fixed" and r.clients < 1
        deviation = r.noise_multiplier * r.clip * greatest * (2 if swapped else 1)
        key = keys(r.seed, t, np.zeros(1, dtype=np.int64), salt=NOISE)
        generator = torch.Generator().manual_seed(int(key[0] >> np.uint64(1)))
        for name in sorted(mixed):
            total = mixed[name]
            drawn = torch.randn(total.shape, generator=generator, dtype=torch.float64)
            total.add_((deviation * drawn).to(total))

    @property
    def _account(self) -> str | None:
        sampling: type[Sampling] = lookup("sampling", self.recipe.sampling)
        return sampling.account


def touched_CI(change: Change, n_items: int) -> Tensor:
    """Which items the rows of a change are, bool [C, I]."""
    assert change.rows_CN is not None and change.there_CN is not None
    touched = torch.zeros(len(change.rows_CN), n_items, dtype=torch.bool, device=change.rows_CN.device)
    c_P, n_P = change.there_CN.nonzero(as_tuple=True)
    touched[c_P, change.rows_CN[c_P, n_P]] = True
    return touched


def spread(change: Change, told_CI: Tensor) -> Change:
    """The same change as rows of all items, zero where told_CI is False or nothing has moved."""
    assert change.rows_CN is not None and change.there_CN is not None
    n_clients, n_items = told_CI.shape
    c_P, n_P = change.there_CN.nonzero(as_tuple=True)
    value = change.value.new_zeros(n_clients, n_items, *change.value.shape[2:])
    value[c_P, change.rows_CN[c_P, n_P]] = change.value[c_P, n_P]
    every_CI = torch.arange(n_items, device=told_CI.device).expand(n_clients, -1)
    return replace(change, value=value * like(told_CI, value), rows_CN=every_CI, there_CN=told_CI)

"""What can go wrong through no fault of the code: each error is one line that says where, what, and what to do."""

from numbers import Integral
from typing import Any


class FedlabError(ValueError):
    """A wrong name, file, row or argument. Its message is meant to be shown as it is."""


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """An argument that counts something, as an int; also from numpy.

    Raises:
        FedlabError: it is no whole number (1.0 and True are none), or less than `least`.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise FedlabError(f"{name}={value!r}: must be a whole number, at least {least}")
    return int(value)


class MissingExtra(FedlabError, ImportError):
    """Something asked for needs a package that an extra of this one brings, or none does."""

    def __init__(self, what: str, package: str, extra: str | None = None):
        how = f'"fedlab_mm[{extra}]"' if extra else package
        super().__init__(f"{what} needs {package}, which is not installed: pip install {how}")


class AllDivergedError(FedlabError):
    """A search in which no setting stayed within the finite numbers."""


class DivergedError(FedlabError):
    """Training left the finite numbers; `round` and `client` say where, `run` keeps the last good state.

    `client` is None where the server's update diverged. `run` is None only where no engine was built by `train`.
    """

    def __init__(self, round: int, client: int | None, run: Any = None):
        self.round, self.client, self.run = round, client, run
        who = "the server's update" if client is None else f"client {client}"
        super().__init__(
            f"training diverged in round {round} at {who}: lower the learning rates (lr, shared_lr); "
            f"the state after round {round - 1} is kept"
        )

"""Whether this machine may ask the network: one place decides, and every fetch asks it first."""

import os

from fedlab_mm.errors import FedlabError

VARIABLE = "FEDLAB_MM_OFFLINE"
_ON, _OFF = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


def offline() -> str | None:
    """Why nothing may be fetched; None where it may.

    Raises:
        FedlabError: the variable says neither.
    """
    given = os.environ.get(VARIABLE, "")
    if given.strip().lower() in _OFF:
        return None
    if given.strip().lower() in _ON:
        return f"{VARIABLE}={given} keeps this machine offline"
    raise FedlabError(f"{VARIABLE}={given}: must be one of {', '.join(_ON)}, or of {', '.join(_OFF[1:])}")


def ask(what: str) -> None:
    """Go on only where `what` may be fetched.

    Raises:
        FedlabError: it may not; the message gives the reason.
    """
    if reason := offline():
        raise FedlabError(f"{what} cannot be fetched: {reason}; unset it to fetch")

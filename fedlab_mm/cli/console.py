"""What is printed, and how a command ends."""

import signal
import sys
import typing
import unicodedata


def failed(told: str, code: int) -> int:
    say("fedlab-mm: " + " ".join(told.splitlines()), to=sys.stderr)
    return code


def print_anything() -> None:
    """Tables hold ±, – and Greek, and paths anything: what a console cannot show it prints as a question mark, and does
    not end the run."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def say(text: object = "", to: typing.TextIO | None = None) -> None:
    r"""Print, without what a terminal takes as a command: titles, names and messages may come from anybody's files.

    >>> say("a title \x1b[2J that clears the screen")
    a title \x1b[2J that clears the screen
    """
    stream = sys.stdout if to is None else to
    shown = "".join(c if c in "\n\t" or not _commands(c) else f"\\x{ord(c):02x}" for c in str(text))
    try:
        print(shown, file=stream)
    except UnicodeEncodeError:  # a stream that cannot be told to replace
        print(shown.encode("ascii", "replace").decode(), file=stream)


def _commands(character: str) -> bool:
    """Control characters, and those that turn the direction of writing; half characters, which nothing can show."""
    return unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in _TURNING


_TURNING = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")


def as_ctrl_c(number: int) -> typing.Any:
    """Let a polite end from outside keep what Ctrl-C keeps; gives what stood there, None where it cannot be changed."""
    try:
        return signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    except ValueError:  # not in the main thread
        return None

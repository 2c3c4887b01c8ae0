"""This package's version, and those of what a result depends on: what runs, which need not be what was installed."""

import importlib
import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"

_IMPORTED = ("torch", "numpy", "pandas")  # by every run anyway; their own word has the build too, as in 2.13.0+cu130
_BESIDE = ("scikit-learn", "pillow")


def versions() -> dict[str, str]:
    """The versions that a result depends on. It never fails: a package that tells none is "unknown".

    >>> versions()["fedlab_mm"] == __version__
    True
    """
    found = {"python": platform.python_version(), "fedlab_mm": __version__}
    for name in _IMPORTED:
        found[name] = str(getattr(importlib.import_module(name), "__version__", "unknown"))
    return found | {name: installed(name) for name in _BESIDE}


def installed(package: str) -> str:
    """The version of a package's metadata; "unknown" where it has none, as in a checkout that was never installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"

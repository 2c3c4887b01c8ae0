"""The command `fedlab-mm`: train, compare, tune, data (describe, prepare, encode, fetch), demo, notebooks, execute,
figures.

Each part imports what it needs when it is called: the help should not wait for torch.
"""

import argparse
import importlib.util
import os
import signal
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from fedlab_mm.cli import datasets, exhibits, notebooks, training
from fedlab_mm.cli.console import as_ctrl_c, failed, print_anything, say
from fedlab_mm.cli.notebooks import VIEW, without_views
from fedlab_mm.errors import FedlabError
from fedlab_mm.version import __version__, versions

__all__ = ["COMMANDS", "VIEW", "main", "say", "use", "without_views"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; a `FedlabError` becomes one line on standard error and exit code 2."""
    print_anything()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    warnings.showwarning = lambda message, *_, **__: say(f"note: {message}", to=sys.stderr)
    before = as_ctrl_c(signal.SIGTERM)
    try:
        for path in _files_to_use(arguments):  # before the options, for what they register may have some
            use(path)
        options = _parser(arguments).parse_args(arguments, argparse.Namespace(arguments=arguments))
        code = options.run(options)
        sys.stdout.flush()
        return code
    except FedlabError as error:
        return failed(str(error), 2)
    except BrokenPipeError:  # whoever read this, `head` or a pager, has seen enough
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # or Python would complain when it ends
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return failed(f"{where}{error.strerror or error}", 2)
    except KeyboardInterrupt:
        return failed("interrupted", 130)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _files_to_use(arguments: Sequence[str]) -> list[Path]:
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--use", type=Path, action="append", default=[])
    return early.parse_known_args(arguments)[0].use


def use(path: Path | str) -> None:
    """Run a Python file of the user's own, so that what it registers is known."""
    path = Path(path)
    name = f"used by fedlab-mm: {path.stem}"  # hides no other module
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FedlabError(f"--use {path}: there is no such Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except FedlabError as error:
        raise FedlabError(f"--use {path}: {error}") from None
    except Exception as error:
        raise FedlabError(f"--use {path}: {type(error).__name__}: {error}") from error


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser. Of the commands, only one that is asked for gets its options: they follow from what is registered."""
    parser = argparse.ArgumentParser(
        "fedlab-mm", description="Federated multimodal recommendation: train, compare, look at data."
    )
    parser.add_argument("--version", action=_Version)
    parser.add_argument(
        "--use", type=Path, action="append", default=[], metavar="FILE.py", help="run a file of yours that registers"
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (text, add_options) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name in arguments:
            add_options(command)
    return parser


class _Version(argparse.Action):
    """`--version`: ours, and those of what a result depends on, for a report."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: typing.Any):
        super().__init__(option_strings, dest, nargs=0, help="this version, and those of what results depend on")

    def __call__(self, parser: argparse.ArgumentParser, *_: typing.Any) -> None:
        known = versions()
        known.pop("fedlab_mm")
        say(f"fedlab-mm {__version__} ({', '.join(f'{p} {v}' for p, v in known.items())})")
        parser.exit()


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "demo": ("run the quickstart notebook; print its tables, keep its pictures", notebooks.demo_options),
    "notebooks": ("copy all notebooks into a folder of yours", notebooks.notebooks_options),
    "train": ("train one recipe and report it at its best validation round", training.train_options),
    "compare": ("train several recipes over seeds, beside simple baselines", training.compare_options),
    "tune": ("search for the settings of one recipe that validate best", training.tune_options),
    "data": ("describe, prepare, encode or fetch a dataset", datasets.data_options),
    "execute": ("execute a notebook; keep it, its tables and its pictures", notebooks.execute_options),
    "figures": ("make the papers' figures and tables again, as PNG, PDF, CSV and JSON", exhibits.figures_options),
}

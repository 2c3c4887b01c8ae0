"""figures."""

import argparse
import sys
from pathlib import Path

from fedlab_mm.cli.console import failed, say
from fedlab_mm.errors import FedlabError
from fedlab_mm.files import free_file
from fedlab_mm.registry import lookup, names


def _figures(options: argparse.Namespace) -> int:
    """Make figures, draw them anew, or say which are stale."""
    import pandas as pd

    from fedlab_mm import figures

    chosen = options.names or names("figure")
    folder = Path(options.out)
    for name in chosen:
        lookup("figure", name)  # an unknown name is told before the first is made
    if options.check:
        states = {name: figures.state(name, folder) for name in chosen}
        say(pd.Series(states, name="state").rename_axis("figure").to_string())
        return 0 if set(states.values()) == {"fresh"} else 1
    free_file(folder / "figure")  # before the work is done, not after
    if options.cache:
        free_file(Path(options.cache) / "run")
    for name in chosen:
        if options.draw:
            paths = figures.draw(name, folder)
        else:
            try:
                paths = figures.make(name, folder, options.root, options.cache)
            except KeyboardInterrupt:
                hint = "the same command goes on" if options.cache else "with --cache FOLDER the runs would be kept"
                return failed(f"{name}: interrupted; {hint}", 130)
            except FedlabError as error:
                if options.names:
                    raise
                say(f"{name}: left out: {error}", to=sys.stderr)
                continue
        say(f"{name}: {', '.join(str(path) for path in paths)}")
    return 0


def figures_options(figure: argparse.ArgumentParser) -> None:
    figure.add_argument("names", nargs="*", metavar="NAME", help=f"all, or some of: {', '.join(names('figure'))}")
    figure.add_argument("--root", help="the folder that holds the datasets")
    figure.add_argument("--out", default="figures", help="folder of the figures (figures)")
    figure.add_argument("--cache", help="keep runs here, so that an interrupted figure goes on")
    how = figure.add_mutually_exclusive_group()
    how.add_argument("--draw", action="store_true", help="draw them anew from their tables, measuring nothing")
    how.add_argument("--check", action="store_true", help="say which are fresh; exit 1 if any is not")
    figure.set_defaults(run=_figures)

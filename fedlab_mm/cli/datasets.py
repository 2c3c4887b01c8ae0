"""data: describe, prepare, encode, fetch."""

import argparse
import dataclasses
import typing

from fedlab_mm.cli.console import say
from fedlab_mm.cli.options import add_dataset, add_preparation
from fedlab_mm.errors import FedlabError
from fedlab_mm.registry import lookup


def _loaded(options: argparse.Namespace) -> typing.Any:
    from fedlab_mm.data import Preparation
    from fedlab_mm.data.load import load

    given = {f.name: getattr(options, f.name) for f in dataclasses.fields(Preparation) if hasattr(options, f.name)}
    return load(options.name, options.root, **given)


def _describe(options: argparse.Namespace) -> int:
    import pandas as pd

    from fedlab_mm.audit import audit
    from fedlab_mm.records import Dataset

    data = _loaded(options)
    with pd.option_context("display.width", 200, "display.max_rows", None):
        say(data.describe().to_string())
        if isinstance(data, Dataset):
            k = min(options.k, data.n_items)
            say(f"\nwhat the split gives away (test)\n\n{audit(data, k).round(3).to_string()}")
            if len(data.problems):
                say(f"\npictures that cannot be read\n\n{data.problems.to_string(index=False)}")
    say()
    for what, text in data.about.items():
        if text:
            say(f"{what:<15} {text}")
    say(f"{'sha256':<15} {data.fingerprint}")
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from fedlab_mm.data.folder import free_place, save_dataset
    from fedlab_mm.records import Dataset

    free_place(options.out)  # before the work is done, not after
    data = _loaded(options)
    if not isinstance(data, Dataset):
        raise FedlabError(f"{options.name} is a click log, which is read as it is: there is nothing to prepare")
    folder = save_dataset(data, options.out)
    say(data.describe().to_string())
    say(f"\nwritten to {folder}: give it to --dataset, or to fedlab_mm.load")
    return 0


def _encode(options: argparse.Namespace) -> int:
    from fedlab_mm.encoding import cache_folder

    data = _loaded(options)
    told = {w: t for w, t in data.about.items() if w == "encoder" or w.endswith(" encoding")}
    if not any(w.endswith(" encoding") for w in told):
        say(f"{options.name} comes with its features: there is nothing to encode")
        return 0
    for what, text in told.items():
        say(f"{what:<15} {text}")
    say(f"{'kept in':<15} {getattr(options, 'cache', None) or cache_folder()}")
    return 0


def _fetch(options: argparse.Namespace) -> int:
    from fedlab_mm.data.fetch import fetch_pictures

    family, _, part = options.name.partition(":")
    source = lookup("dataset", family)
    source = source.of(part) if part and hasattr(source, "of") else source
    if not hasattr(source, "find"):
        raise FedlabError(f"dataset '{options.name}' has nothing to fetch")
    folder = source.find(options.root)
    say(f"{options.name} is in {folder}")
    say(f"licence         {source.licence}\nplease cite     {source.citation}")
    if options.pictures:
        if not hasattr(source, "pictures"):
            raise FedlabError(f"dataset '{options.name}' names no addresses of pictures")
        problems = fetch_pictures(source.pictures(folder), folder / "images")
        say(f"pictures are in {folder / 'images'}; {len(problems)} could not be had")
        for item, problem in list(problems.items())[:20]:
            say(f"  {item}: {problem}")
    return 0


def data_options(data: argparse.ArgumentParser) -> None:
    tasks = data.add_subparsers(required=True, metavar="task")
    describe = tasks.add_parser("describe", help="what is in it, what was left out, and what its split gives away")
    describe.add_argument("--k", type=int, default=50, help="cut-off of the trivial rules [50]")
    describe.set_defaults(run=_describe)
    prepare = tasks.add_parser("prepare", help="write it as a folder, split and encoded, that --dataset takes")
    prepare.add_argument("--out", required=True, help="the folder to write")
    prepare.set_defaults(run=_prepare)
    encode = tasks.add_parser("encode", help="encode its pictures and texts into the cache")
    encode.set_defaults(run=_encode)
    for task in (describe, prepare, encode):
        add_dataset(task)
        add_preparation(task)
    fetch = tasks.add_parser("fetch", help="bring its files, where the publisher lets anyone")
    add_dataset(fetch)
    fetch.add_argument("--pictures", action="store_true", help="also the items' pictures, where addresses are known")
    fetch.set_defaults(run=_fetch)

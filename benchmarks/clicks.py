"""`python -m benchmarks.clicks`: click prediction on KuaiSAR-R, or on the generated log where that is not at hand. Both
engines take turns on the same rounds, on a machine that should have nothing else to do."""

import argparse
import statistics
import time

import pandas as pd
from tqdm import tqdm

import fedlab_mm as fl
from benchmarks.__main__ import markdown
from fedlab_mm.registry import lookup

CELLS = [(b, m) for b in ("fedsasrec", "fedhstu", "fedllama") for m in ("none", "mrff")]
CELLS += [("fedncf", "none"), ("fedpa", "none")]


def measure(log: fl.ClickLog, backbone: str, method: str, turns: int) -> dict[str, float | str]:
    """Median seconds of a round and of an evaluation in each engine, and the ratios."""
    recipe = fl.Recipe(backbone=backbone, method=method, history="clicks", local_epochs=1, server_optimizer="adam")
    recipe = recipe.but(dataset=log.name, lr=0.01, shared_lr=0.01)
    engines = {name: lookup("click engine", name)(recipe.but(engine=name), log) for name in ("stacked", "loop")}
    engines["stacked"].step()  # warms up, and lays out the chunks that later rounds keep
    engines["loop"].load_state(engines["stacked"].state())
    rounds, evaluations = ({name: [] for name in engines} for _ in range(2))
    for _ in range(turns):
        for name, engine in engines.items():
            rounds[name].append(engine.step().seconds)
            start = time.perf_counter()
            engine.predict("valid")
            evaluations[name].append(time.perf_counter() - start)
    row: dict[str, float | str] = {"backbone": backbone, "method": method}
    for what, seconds in (("round", rounds), ("evaluation", evaluations)):
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        row |= {f"{what}, s": middle["stacked"], f"{what} of loop, s": middle["loop"]}
        row[f"{what}, times faster"] = middle["loop"] / middle["stacked"]
    up, down = engines["stacked"].numbers()
    return {**row, "kB up a client": 4 * up / 1e3, "kB down a client": 4 * down / 1e3}


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.clicks", description=__doc__)
    parser.add_argument("--root", help="the folder above kuaisar-r/")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    try:
        log = fl.load("kuaisar-r", root=options.root)
    except fl.FedlabError as error:
        print(f"{error}\nmeasuring on the generated log instead")
        log = fl.load("toy-clicks")
    rows = [measure(log, *cell, options.turns) for cell in tqdm(CELLS, unit="cell")]
    print(markdown(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()

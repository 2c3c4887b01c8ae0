"""One cell of the benchmark: `python -m benchmarks.cell JSON` prints what it measured as one line of JSON. A process of
its own, so that its peak memory is its own."""

import json
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import fedlab_mm as fl
from benchmarks.shapes import PAPERS, generated
from fedlab_mm.evaluation import evaluate_blocks
from fedlab_mm.federation import Federation
from fedlab_mm.tasks import federation_of

IN_TURNS = 204  # clients of a round in which loop and stacked take turns: KU's


def measure(dataset: Any, recipe: dict[str, Any], root: str | None, turns: int, loop: bool) -> dict[str, Any]:
    """What a recipe costs on a dataset: a name, or users, items and interactions."""
    if isinstance(dataset, str) and dataset not in PAPERS:
        data = fl.load(dataset, root=root)
    else:
        shape = PAPERS[dataset] if isinstance(dataset, str) else dataset
        data = generated(dataset if isinstance(dataset, str) else "generated", *shape)
    r = fl.Recipe(dataset=data.name, **recipe)
    before = peak_memory()
    stacked: Federation = federation_of(r, data)
    seconds, evaluations, rates = [], [], []
    record = stacked.step()  # warms up
    for _ in range(max(1, min(turns, int(20 / record.seconds)))):
        rates.append(matrix_rate())
        record = stacked.step()
        seconds.append(record.seconds)
        if not evaluations or evaluations[-1] < 5:
            start = time.perf_counter()
            evaluate_blocks(stacked.score_blocks(), data, "valid", r.k)
            evaluations.append(time.perf_counter() - start)
    peak = peak_memory()
    counter = Flops()
    with counter:
        stacked.step()
    n_clients, round_s = len(record.clients), statistics.median(seconds)
    rate = counter.total / round_s
    row: dict[str, Any] = {
        "data": data.name,
        "users": data.n_users,
        "items": data.n_items,
        "interactions": len(data.interactions),
        "backbone": r.backbone,
        "method": f"{r.method}, solved" if r.solver == "closed" else r.method,
        "local epochs": r.local_epochs,
        "round, s": round_s,
        "evaluation, s": statistics.median(evaluations),
        "µs a client": 1e6 * round_s / n_clients,
        "peak, GB": peak / 1e9,
        "of it before training": before / 1e9,
        "GFLOP/s": rate / 1e9,
        "% of matrix rate": 100 * rate / statistics.median(rates),
        "kB up a client": record.upload_bytes / n_clients / 1e3,
        "kB down a client": record.download_bytes / n_clients / 1e3,
    }
    del stacked
    return row | (in_turns(r, data, turns) if loop else {})


class Flops(TorchDispatchMode):
    """Counts the operations of matrix products, the only ones that weigh."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket in flop_registry:
            self.total += flop_registry[function.overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def in_turns(recipe: fl.Recipe, data: fl.Dataset, turns: int) -> dict[str, float]:
    """Loop and stacked take turns on the same clients: the machine may be noisy, the ratio is not."""
    share = min(1.0, IN_TURNS / data.n_users)
    engines: dict[str, Federation] = {
        name: federation_of(recipe.but(engine=name, clients=share), data) for name in ("loop", "stacked")
    }
    for engine in engines.values():
        engine.step()  # warms up
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    start = time.perf_counter()
    for turn in range(4 * turns):
        passed = time.perf_counter() - start
        if (turn >= turns and passed > 5) or (turn and passed > 40):  # more turns where they are quick, fewer where not
            break
        for name, engine in engines.items():
            seconds[name].append(engine.step().seconds)
    loop, stacked = (statistics.median(s) for s in seconds.values())
    ratio = statistics.median(a / b for a, b in zip(seconds["loop"], seconds["stacked"], strict=True))
    start = time.perf_counter()
    loop_evaluation = {}
    if data.n_users <= IN_TURNS:
        evaluate_blocks(engines["loop"].score_blocks(), data, "valid", recipe.k)
        loop_evaluation["loop's evaluation, s"] = time.perf_counter() - start
    return {"loop in turns, s": loop, "stacked in turns, s": stacked, "times faster": ratio, **loop_evaluation}


def peak_memory() -> int:
    """The most bytes that this process has had in memory. (On Linux getrusage would count the process that started it
    too.)"""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def matrix_rate() -> float:
    """This machine's FLOP/s in a product of two matrices, now."""
    a = torch.randn(1024, 1024)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * 1024**3 / statistics.median(times[1:])


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))

"""What privacy costs and what it buys: `python -m benchmarks.privacy --root FOLDER`.

Three tables, as CSV in out/bench, a file for each dataset: `privacy_table4` (FedMR with the papers' noise, five
backbones), `privacy_noise` (noise of many sizes, five backbones: utility and what an attacker still learns) and
`privacy_defences` (each defence of FCF: utility, ε, attack). The first takes most of an hour on two cores, the others a quarter of one each.
"""

import argparse
import math
from pathlib import Path

import pandas as pd

import fedlab_mm as fl
from fedlab_mm import privacy, registry

OUT = Path("out/bench")
SEEDS = range(3)
BACKBONES = ("fedavg", "fcf", "fedncf", "pfedrec", "fedrap")
STRENGTHS = (0.0, 1e-8, 1e-6, 1e-4, 1e-2, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0)  # FedMR's 0 … 1, and MRFF's 0 … 0.5 in it
GRID = [{"optimizer": ["adam"], "lr": [0.01, 0.03]}, {"optimizer": ["sgd"], "lr": [None]}]


def table4(data: fl.Dataset) -> pd.DataFrame:
    """FedMR's Table 4: the hit rate and NDCG lost to noise of variance 0.1, at settings tuned without noise.

    The paper adds it "to the gradients of the global components"; FedMR's clients send an item table and sums of
    gradients, so two readings are measured: variance 0.1 on what is sent, and 0.1 · η² on it, what a gradient's noise
    becomes after a step of the learning rate η.
    """
    rows = []
    for backbone in BACKBONES:
        recipe = fl.Recipe(dataset=data.name, backbone=backbone, method="fedmr", patience=20)
        best = fl.tune(recipe, GRID, data, progress=False)
        lr = best.lr or registry.lookup("backbone", backbone).lr
        for reading, noise in (("none", 0.0), ("before the step", 0.1 * lr**2), ("on what is sent", 0.1)):
            for seed in SEEDS:
                result = _test(best.but(noise=noise), data, seed)
                row = {"backbone": backbone, "optimizer": best.optimizer, "lr": lr, "reading": reading, "noise": noise}
                rows.append({**row, "seed": seed, **result})
                print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def noise(data: fl.Dataset) -> pd.DataFrame:
    """Variance of the noise against utility and item inference from five rounds, without fusion."""
    rows = []
    for backbone in BACKBONES:
        recipe = fl.Recipe(dataset=data.name, backbone=backbone, method="none", patience=20)
        best = fl.tune(recipe, GRID, data, progress=False)
        for variance in STRENGTHS:
            noisy = best.but(noise=variance)
            read = fl.attack("items", noisy, data, rounds=5, progress=False).loc["uploads"].to_dict()
            for seed in SEEDS:
                result = _test(noisy, data, seed)
                row = {"data": data.name, "backbone": backbone, "optimizer": best.optimizer, "lr": best.lr}
                rows.append({**row, "noise": variance, "seed": seed, **result, **read})
                print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def defences(data: fl.Dataset) -> pd.DataFrame:
    """Each defence of FCF: utility, ε, and item inference from five rounds."""
    base = fl.Recipe(dataset=data.name, backbone="fcf", method="none", patience=20)
    base = fl.tune(base, GRID, data, progress=False)
    tried: dict[str, tuple[fl.Recipe, bool]] = {
        "none": (base, False),
        "all rows": (base.but(rows="all"), False),
        "noise 1e-6": (base.but(noise=1e-6), False),
        "noise 1e-4": (base.but(noise=1e-4), False),
        "noise 0.1 (the papers')": (base.but(noise=0.1), False),
        "noise 1e-6, all rows": (base.but(noise=1e-6, rows="all"), False),
        "noise 1e-4, all rows": (base.but(noise=1e-4, rows="all"), False),
        "noise 1e-6, rows flipped at ε 1": (base.but(noise=1e-6, rows="flipped", row_epsilon=1.0), False),
        "secure aggregation": (base, True),
    }
    for target in (1000.0, 100.0, 10.0, 1.0):
        tried[f"DP, ε {target:g}, secure aggregation"] = (_private(base, data, target), True)
    rows = []
    for name, (recipe, secure) in tried.items():
        report = fl.attack("items", recipe, data, rounds=5, secure=secure, progress=False).loc["uploads"]
        proven = privacy.of_recipe(recipe, data.n_users)
        for seed in SEEDS:
            result = _test(recipe, data, seed)
            rows.append(
                {"data": data.name, "defence": name, "seed": seed, **result, **proven, **report.to_dict()}
                | {"clip": recipe.clip, "z": recipe.noise_multiplier}
            )
        print(rows[-1], flush=True)
    popularity = fl.attack("items", base, data, rounds=1, progress=False).loc["popularity alone"]
    rows.append({"data": data.name, "defence": "popularity alone", **popularity.to_dict()})
    return pd.DataFrame(rows)


def _private(base: fl.Recipe, data: fl.Dataset, target: float) -> fl.Recipe:
    """Client-level DP at ε after 60 rounds, the clip that validates best."""
    multiplier = fl.noise_multiplier(target, sampling_rate=1.0, rounds=base.rounds, delta=data.n_users**-1.1)
    recipe = base.but(noise_multiplier=multiplier, clip=1.0, aggregation="equal")
    return fl.tune(recipe, {"clip": [0.03, 0.1, 0.3, 1.0, 3.0]}, data, progress=False)


def _test(recipe: fl.Recipe, data: fl.Dataset, seed: int) -> dict[str, float]:
    try:
        test = fl.train(recipe.but(seed=seed), data, progress=False).test
    except fl.DivergedError:
        return {"hr@50": math.nan, "ndcg@50": math.nan}
    return {m: test.get(m, math.nan) for m in ("hr@50", "ndcg@50", "hr@50/warm", "ndcg@50/warm")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="the folder that holds ku/; only the toy set without it")
    parser.add_argument(
        "--part", choices=("table4", "noise", "defences"), nargs="*", default=["noise", "defences", "table4"]
    )
    parser.add_argument("--data", choices=("ku", "toy"), nargs="*", default=["toy", "ku"])
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    for name in options.data:
        if name == "ku" and not options.root:
            print("KU is left out: --root names the folder that holds ku/")
            continue
        data = fl.load(name, options.root)
        for part in options.part:
            if part != "table4" or name == "ku":
                globals()[part](data).to_csv(OUT / f"privacy_{part}_{name}.csv", index=False)


if __name__ == "__main__":
    main()

"""What the papers report: their tables of figures as CSV, one row a figure, to set beside what is measured here.

- `fedmr_*`: Li, Long, Jiang, Zhang, Personalized Item Representations in Federated Multimodal Recommendation, 2024.
- `fedvlr_*`: Li, Long, Jiang, Zhang, Yang, Federated Vision-Language-Recommendation with Personalized Fusion,
  arXiv:2410.08478.
- `mrff_*`: Zhang et al., Multifaceted User Modeling in Recommendation: A Federated Foundation Models Approach,
  AAAI 2025.

Names are those of this package wherever it has one: `dataset` is what `fl.load` takes, `backbone` and `method` what a
`Recipe` takes ("centralised" stands for no backbone), `variant` says what was taken away or added. `value` is in plain
units: shares as fractions although FedVLR prints per cent, parameters as a number although FedVLR and MRFF print
thousands. `printed` is the figure as the paper shows it, and thereby how many digits it has. `notes` holds significance
where the paper marks it, and what does not fit about a figure; tests/test_reported.py works each of these out again.

Left out, because a figure that is not in the text at hand is not made up:

- FedMR's Tables 1 and 2, whose captions are there and whose bodies are not: its datasets' sizes, and its main results
  on four datasets. On KU, Table 3 has the full model; whether that repeats Table 2 cannot be checked here.
- FedMR's Figures 3 and 4, FedVLR's Figures 2 and 3, MRFF's Figures 2 to 4: pictures.
- FedVLR's Table 2, FedAvg with VBPR on Dance and Movie: failed runs, by the paper.
- GFMFR: only a summary without figures is at hand.
"""

from importlib import resources

import pandas as pd

from fedlab_mm.errors import FedlabError

_TEXT = ("dataset", "backbone", "method", "variant", "metric", "printed", "notes")
_MISSING = {
    "fedmr_table1": "the text at hand has its caption, not its figures",
    "fedmr_table2": "the text at hand has its caption, not its figures; for FedMR on KU see fedmr_table3",
}


def tables() -> list[str]:
    """The names that `reported` takes, sorted.

    >>> tables()  # doctest: +NORMALIZE_WHITESPACE
    ['fedmr_table3', 'fedmr_table4', 'fedmr_table5', 'fedvlr_table1', 'fedvlr_table2', 'fedvlr_table3',
     'fedvlr_table4', 'mrff_table1', 'mrff_table2', 'mrff_table3']
    """
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return sorted(name.removesuffix(".csv") for name in files if name.endswith(".csv"))


def reported(name: str) -> pd.DataFrame:
    """One table of a paper, a row for each figure.

    Args:
        name: one of `tables()`.

    Returns:
        dataset, backbone, method, variant, metric, value (float; fractions and plain units), printed, notes. What does
        not apply is an empty string.

    Raises:
        FedlabError: no such table; the message lists the choices.

    >>> table = reported("fedvlr_table2")
    >>> table.query("dataset == 'ku' and backbone == 'fcf' and metric == 'hr@50'")[["method", "value", "printed"]]
         method   value printed
    114    none  0.2255   22.55
    128     mlp  0.3676   36.76
    142  fedvlr  0.5539   55.39
    """
    if name not in tables():
        why = f" ({_MISSING[name]})" if name in _MISSING else ""
        raise FedlabError(f"no table '{name}'{why}: there are: {', '.join(tables())}")
    with resources.files(__name__).joinpath(f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=dict.fromkeys(_TEXT, str) | {"value": float}, keep_default_na=False)

"""Things to turn and slide in JupyterLab. Each shows what a picture shows that stands beside it, for where there is no
kernel."""

import ipywidgets
import pandas as pd
from IPython.display import display

from fedlab_mm import plotting
from fedlab_mm.errors import FedlabError


def noise_slider(table: pd.DataFrame) -> ipywidgets.VBox:
    """A slider over the variances of a noise sweep and a choice of which rows are sent: utility, ε and what an attack
    learns, with the point marked in `plotting.plot_privacy`.

    Args:
        table: columns noise, rows, ndcg, auc, epsilon.

    Raises:
        FedlabError: a column is missing.
    """
    missing = [c for c in ("noise", "rows", "ndcg", "auc", "epsilon") if c not in table]
    if missing:
        raise FedlabError(f"the table of a noise sweep needs a column {missing[0]}")
    variances = sorted(table["noise"].unique())
    noise = ipywidgets.SelectionSlider(
        options=[(f"{v:g}", v) for v in variances], description="variance", continuous_update=False
    )
    rows = ipywidgets.ToggleButtons(options=list(dict.fromkeys(table["rows"])), description="rows")
    told, picture = ipywidgets.HTML(), ipywidgets.Output()

    def show(_: object = None) -> None:
        at = table.index[(table["noise"] == noise.value) & (table["rows"] == rows.value)]
        if not len(at):
            told.value = "not measured"
            return
        row = table.loc[at[0]]
        told.value = (
            f"NDCG@50 <b>{row['ndcg']:.3f}</b> &nbsp; item inference, AUC <b>{row['auc']:.2f}</b> &nbsp; "
            f"proven ε <b>{row['epsilon']:g}</b>"
        )
        with picture:
            picture.clear_output(wait=True)
            display(plotting.plot_privacy(table, list(table.index).index(at[0])))

    noise.observe(show, "value")
    rows.observe(show, "value")
    show()
    return ipywidgets.VBox([noise, rows, told, picture])

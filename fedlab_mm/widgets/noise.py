"""What noise costs and buys, under a slider."""

import ipywidgets
import pandas as pd

from fedlab_mm import plotting
from fedlab_mm.errors import FedlabError
from fedlab_mm.widgets.base import Live, redrawn


def noise_slider(table: pd.DataFrame) -> Live:
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
        options=[(f"{v:g}", v) for v in variances],
        description="variance",
        tooltip="of the noise that each client adds",
        continuous_update=False,
    )
    rows = ipywidgets.RadioButtons(  # JupyterLab takes the keys of a Dropdown for its own
        options=list(dict.fromkeys(table["rows"])),
        description="rows",
        tooltip="which rows are sent",
        orientation="horizontal",
    )
    told = ipywidgets.HTML()

    def chosen() -> int | None:
        at = ((table["noise"] == noise.value) & (table["rows"] == rows.value)).to_numpy().nonzero()[0]
        return int(at[0]) if len(at) else None

    def tell(_: object = None) -> None:
        at = chosen()
        if at is None:
            told.value = '<div role="status">not measured</div>'
            return
        row = table.iloc[at]
        told.value = (
            f'<div role="status">NDCG@50 <b>{row["ndcg"]:.3f}</b> &nbsp; item inference, AUC <b>{row["auc"]:.2f}</b> '
            f"&nbsp; proven ε <b>{row['epsilon']:g}</b></div>"
        )

    for control in (noise, rows):
        control.observe(tell, "value")
    tell()
    picture = redrawn(lambda: plotting.plot_privacy(table, chosen()), (noise, rows))
    return Live(ipywidgets.VBox([ipywidgets.HBox([noise, rows]), told, picture]), plotting.plot_privacy(table, 0))

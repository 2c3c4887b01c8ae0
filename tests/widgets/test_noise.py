"""Widgets, moved by hand: what they show follows."""

import pandas as pd
import pytest

import fedlab_mm as fl
from fedlab_mm.widgets import noise_slider

SWEEP = pd.DataFrame(
    {
        "noise": [0.0, 1.0, 0.0, 1.0],
        "rows": ["touched", "touched", "all", "all"],
        "ndcg": [0.2, 0.1, 0.2, 0.05],
        "auc": [1.0, 0.9, 1.0, 0.5],
        "epsilon": float("inf"),
    }
)


def test_the_noise_slider_tells_what_was_measured_there():
    controls, told, picture = noise_slider(SWEEP).box.children
    slider, rows = controls.children
    assert "0.200" in told.value and "1.00" in told.value and "inf" in told.value
    slider.value = 1.0
    assert "0.100" in told.value and "0.90" in told.value and "; variance 1; rows touched" in picture.value
    rows.value = "all"
    assert "0.050" in told.value and "0.50" in told.value


def test_a_table_that_is_no_sweep():
    with pytest.raises(fl.FedlabError, match="needs a column auc"):
        noise_slider(SWEEP.drop(columns="auc"))

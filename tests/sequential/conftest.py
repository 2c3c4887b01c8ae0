import numpy as np
import pandas as pd
import pytest

import fedlab_mm as fl
from fedlab_mm.data.clicks import click_log
from tests.conftest import SHARED


def small_log(n_users=7, n_items=12, seed=0, last=1):
    """Users with 3, 4, 5, … showings, two attributes each way."""
    rng = np.random.default_rng(seed)
    rows = [
        (u, int(rng.integers(n_items)), 10 * t, int(rng.random() < 0.5)) for u in range(n_users) for t in range(3 + u)
    ]
    log = pd.DataFrame(rows, columns=["user", "item", "timestamp", "click"])
    users = pd.DataFrame({"id": range(n_users), "age": rng.integers(0, 3, n_users), "sex": rng.integers(0, 2, n_users)})
    items = pd.DataFrame(
        {"id": range(n_items), "kind": rng.integers(0, 4, n_items), "tag": rng.integers(0, 5, n_items)}
    )
    return click_log("small", log, users, items, "small", 3, {}, last)


@pytest.fixture(scope="session")
def log():
    return small_log()


@pytest.fixture
def recipe():
    return fl.Recipe(
        dataset="small",
        backbone="fedsasrec",
        method="mrff",
        max_length=4,
        attribute_dim=2,
        groups=3,
        history="clicks",
        precision="float64",
        local_epochs=1,
        rounds=3,
        lr=0.1,
        chunk=3,
    )


@pytest.fixture(scope="session")
def kuaisar():
    if not (SHARED / "kuaisar-r").is_dir():
        pytest.skip(f"KuaiSAR-R's files are not in {SHARED / 'kuaisar-r'}")
    return fl.load("kuaisar-r", root=SHARED)

"""Runs saved by the version before settings moved beside their classes (commit 3af44b3) load, and go on to the numbers
that a whole run has today."""

from pathlib import Path

import pytest
import torch

import fedlab_mm as fl
from tests.sequential.conftest import small_log

SAVED = Path(__file__).resolve().parents[1] / "saved"


@pytest.mark.parametrize("name", ["ranking", "groups", "clicks"])
def test_a_run_of_before_goes_on(world, name):
    data = small_log() if name == "clicks" else world
    old = fl.load_run(SAVED / name, data)
    assert old.rounds_done == 2 and old.recipe.rounds == 2
    longer = old.recipe.but(rounds=4)
    resumed, whole = fl.train(longer, data, progress=False, resume=old), fl.train(longer, data, progress=False)
    assert resumed.test == pytest.approx(whole.test, rel=1e-6, nan_ok=True)
    assert resumed.last_state.keys() == whole.last_state.keys()
    for part, value in whole.last_state.items():
        torch.testing.assert_close(resumed.last_state[part], value, rtol=1e-6, atol=1e-6, msg=part)

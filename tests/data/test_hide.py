"""Gaps made on purpose."""

import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.data.hide import hide


def test_the_mean_of_the_others_stands_in_the_gaps(world):
    hidden = hide(world, {"image": 0.4}, seed=3)
    changed = (hidden.features["image"] != world.features["image"]).any(dim=1)
    assert int(changed.sum()) == round(0.4 * world.n_items) == hidden.missing["image"]
    mean = world.features["image"][~changed].mean(dim=0)
    torch.testing.assert_close(hidden.features["image"][changed], mean.expand(int(changed.sum()), -1))
    assert torch.equal(hidden.features["text"], world.features["text"]) and "text" not in hidden.missing
    assert hidden.fingerprint != world.fingerprint


def test_a_larger_share_takes_the_same_and_more(world):
    small, large = (hide(world, {"text": s}).features["text"] != world.features["text"] for s in (0.2, 0.6))
    assert (large[small.any(dim=1)]).any(dim=1).all()
    both = hide(world, {"image": 0.5, "text": 0.5})
    gone = [(both.features[m] != world.features[m]).any(dim=1) for m in ("image", "text")]
    assert not torch.equal(*gone)  # each modality is drawn alone


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"sound": 0.1}, "no modality 'sound'; it has: image, text"),
        ({"image": 1.0}, r"share of 'image' is 1; .*\[0, 1\)"),
    ],
)
def test_what_cannot_be_hidden(world, shares, message):
    with pytest.raises(fl.FedlabError, match=message):
        hide(world, shares)

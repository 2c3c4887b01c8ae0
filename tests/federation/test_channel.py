"""What a channel does to uploads: every stage alike, whoever runs the clients; and who is chosen for a round."""

import numpy as np
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm.federation.channel import Change, Channel, Intake, Stage, Uploads
from fedlab_mm.federation.mechanisms import Clip
from fedlab_mm.federation.selection import select_clients
from fedlab_mm.registry import lookup, names
from tests.conftest import engine_of

AT_WORK = {
    "clip": {"clip": 0.05},
    "rows": {"rows": "flipped", "row_epsilon": 1.0},
    "noise": {"noise": 0.01},
    "server noise": {"clip": 0.05, "noise_multiplier": 1.0, "aggregation": "equal"},
}
STAGES = pytest.mark.parametrize("name", names("stage"))


@STAGES
def test_a_stage_says_what_it_protects_and_is_idle_unless_asked(name):
    stage = lookup("stage", name)
    assert stage.protects and stage.__doc__ and stage.tasks
    assert stage(fl.Recipe()).idle and not stage(fl.Recipe(**AT_WORK[name])).idle
    assert Channel.of(fl.Recipe(), "ranking", "equal").transparent


@STAGES
@pytest.mark.parametrize("method", ["none", "fedvlr", "gfmfr"])
def test_a_stage_does_the_same_to_one_client_and_to_many(world, recipe, name, method):
    if method == "gfmfr" and name != "noise":
        pytest.skip("gfmfr refuses the others, for they do not cover what it shows")
    more = {"groups": 2, "fit_epochs": 2} if method == "gfmfr" else {}
    r = recipe.but(method=method, precision="float64", clients=1.0).but(**more, **AT_WORK[name])
    seen = []
    for engine in ("loop", "stacked"):
        federation = engine_of(engine, r, world)
        uploads = {}
        federation.channel.watch(lambda upload, sent, into=uploads: into.setdefault(upload.client, upload))
        federation.step()
        seen.append((uploads, federation.last_mixed))
    (one, mixed), (many, same) = seen
    assert one.keys() == many.keys() == set(range(world.n_users))
    for client, upload in one.items():
        other = many[client]
        assert other.rows.tolist() == upload.rows.tolist() and other.by_row == upload.by_row
        assert other.n_samples == upload.n_samples and other.values.keys() == upload.values.keys()
        for label, value in upload.values.items():
            torch.testing.assert_close(other.values[label], value, rtol=1e-9, atol=1e-9)
    for part, total in mixed.items():
        torch.testing.assert_close(same[part], total, rtol=1e-9, atol=1e-9)


def test_stages_take_their_turns_in_their_order():
    everything = {k: v for settings in AT_WORK.values() for k, v in settings.items()}
    channel = Channel.of(fl.Recipe(sampling="fixed", clients=0.5, **everything), "ranking", "equal")
    assert [type(stage).__name__ for stage in channel.stages] == ["Clip", "HideRows", "Noise", "ServerNoise"]
    assert not channel.transparent and not channel.adds_only
    assert Channel.of(fl.Recipe(noise=1.0), "ranking", "equal").adds_only


def test_clipping_by_hand():
    """Two clients, a part of two rows and a whole one: (3, 4) and 12 are 13 long; padding does not count."""
    rows = Change(torch.tensor([[[3.0], [4.0]], [[0.3], [99.0]]]), "value", torch.tensor([[0, 2], [1, 0]]),
                  torch.tensor([[True, True], [True, False]]))  # fmt: skip
    whole = Change(torch.tensor([[12.0], [0.4]]), "gradient")
    sent = {"item_table": torch.zeros(3, 1), "layer": torch.zeros(1)}
    uploads = Uploads(np.array([4, 7]), np.array([5, 10]), {"item_table": rows, "layer": whole}, sent)
    clipped = Clip(fl.Recipe(clip=6.5)).at_client(uploads, t=1)
    assert clipped.changes["item_table"].value[0, :, 0].tolist() == pytest.approx([1.5, 2.0], abs=1e-4)
    assert clipped.changes["layer"].value[:, 0].tolist() == pytest.approx([6.0, 0.4], abs=1e-4)
    first, second = clipped.each()
    assert (first.client, first.n_samples, first.by_row) == (4, 5, frozenset({"item_table"}))
    assert first.values.keys() == {"item_table", "∇layer"} and second.rows.tolist() == [1]


def test_sums_by_hand():
    """Σ α_u Δ_u of rows, of a whole part, and of a part by group."""
    rows = Change(torch.tensor([[[1.0], [2.0]], [[4.0], [9.0]]]), "value", torch.tensor([[0, 2], [2, 0]]),
                  torch.tensor([[True, True], [True, False]]))  # fmt: skip
    changes = {"rows": rows, "whole": Change(torch.tensor([[1.0], [3.0]])),
               "group": Change(torch.tensor([[1.0], [3.0]]), group_C=torch.tensor([1, 1])),
               "shown": Change(torch.tensor([[5.0], [5.0]]), "shown")}  # fmt: skip
    mixed = {"rows": torch.zeros(3, 1), "whole": torch.zeros(1), "group": torch.zeros(2, 1)}
    intake = Intake(Channel([]), 1, mixed)
    intake.take(Uploads(np.array([0, 1]), np.array([1, 1]), changes, mixed), torch.tensor([0.25, 0.75]))
    assert mixed["rows"][:, 0].tolist() == [0.25, 0.0, 3.5]
    assert mixed["whole"].tolist() == [2.5] and mixed["group"][:, 0].tolist() == [0.0, 2.5]


class Halved(Stage):
    def at_client(self, uploads, t):
        return uploads.with_changes(
            {n: Change(c.value / 2, c.kind, c.rows_CN, c.there_CN, c.whole) for n, c in uploads.changes.items()}
        )


@pytest.mark.parametrize("engine", names("engine"))
@pytest.mark.parametrize("method", ["none", "fedvlr", "fedmr"])
def test_a_stage_that_a_backend_has_never_heard_of(world, recipe, engine, method):
    r = recipe.but(method=method, precision="float64")
    plain, halved = engine_of(engine, r, world), engine_of(engine, r, world)
    halved.channel.stages = [Halved(r)]
    plain.step()
    halved.step()
    for name, total in plain.last_mixed.items():
        torch.testing.assert_close(halved.last_mixed[name], total / 2, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampling", names("sampling"))
def test_who_is_chosen(sampling):
    r = fl.Recipe(sampling=sampling, clients=0.4)
    last, sizes = np.zeros(0, dtype=np.int64), []
    for t in range(1, 60):
        clients = select_clients(r, 50, t, last)
        assert np.array_equal(clients, np.unique(clients)) and np.array_equal(clients, select_clients(r, 50, t, last))
        sizes.append(len(clients))
        last = clients
    kind = lookup("sampling", sampling)
    assert (kind.account is None) == (sampling == "rested")
    assert (len(set(sizes)) > 1) == kind.number_varies and np.mean(sizes) == pytest.approx(20, abs=2)
    assert len(select_clients(r.but(clients=1.0), 50, 1, last)) == 50

"""The command: what it prints, and that every mistake is one line."""

import nbformat
import pandas as pd
import pytest

from fedlab_mm.cli import main
from tests.conftest import SHARED

FAST = ["--rounds", "2", "--dim", "4", "--id-dim", "4"]


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_train_save_and_resume(capsys, tmp_path):
    code, out, _ = run(capsys, "train", *FAST, "--out", tmp_path / "a")
    assert code == 0 and "hr@50" in out and f"saved in {tmp_path / 'a'}" in out
    code, out, _ = run(capsys, "train", *FAST, "--rounds", 3, "--resume", tmp_path / "a")
    assert code == 0


def test_compare(capsys, tmp_path):
    csv = tmp_path / "t.csv"
    code, out, _ = run(capsys, "compare", *FAST, "--method", "none", "fedvlr", "--seeds", 2, "--csv", csv)
    assert code == 0
    for row in ("popularity", "itemknn", "ease", "fcf + none", "fcf + fedvlr"):
        assert row in out
    assert "26 of them cold" in out and " ± " in out
    assert pd.read_csv(csv).shape == (5, 17)


def test_tune(capsys, tmp_path):
    grid = ["--grid", "optimizer=adam", "lr=0.01,0.1", "--grid", "optimizer=sgd", "id_lr_scale=none,1"]
    code, out, _ = run(capsys, "tune", *FAST, *grid, "--folder", tmp_path / "s")
    assert code == 0 and "best: id_lr_scale=" in out and ", lr=" in out and ", optimizer=" in out
    assert len(pd.read_csv(tmp_path / "s" / "tuning.csv")) == 4


def test_compare_tunes_first_where_a_grid_is_given(capsys, tmp_path):
    options = ["--folder", tmp_path / "s", "--seeds", 2, "--method", "none", "mlp"]
    code, out, _ = run(capsys, "compare", *FAST, *options, "--grid", "weight_decay=1e-5", "shared_lr=none")
    assert code == 0
    chosen = out[out.index("chosen on validation") :]
    assert "1e-05" in chosen and "None" in chosen and "against no fusion, user by user" in out
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["fcf-mlp", "fcf-none"]


def test_data(capsys):
    code, out, _ = run(capsys, "data", "toy")
    assert code == 0 and "8000" in out and "sha256" in out


def test_ku_from_the_command_line(capsys, ku):
    code, out, _ = run(capsys, "compare", *FAST, "--dataset", "ku", "--root", SHARED, "--seeds", 1)
    assert code == 0 and "88 of them cold" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--method", "fedvrl"], "unknown method 'fedvrl': did you mean 'fedvlr'"),
        (["train", "--dataset", "mars"], "unknown dataset 'mars'"),
        (["train", "--rounds", "0"], "rounds=0: must be at least 1"),
        (["train", "--k", "501"], "k=501: toy has only 500 items"),
        (["train", "--dataset", "ku", "--root", "/nowhere"], "dataset 'ku': no inter.csv"),
        (["train", "--resume", "/nowhere"], "/nowhere holds no saved run"),
        (["compare", "--grid", "speed=1"], "--grid speed=1: write a recipe's field and its values, as in lr=0.01,0.1"),
        (["compare", "--grid", "lr"], "--grid lr: write a recipe's field and its values"),
        (["compare", "--grid", "lr=fast"], "--grid lr=fast: lr takes values of type float"),
        (["compare", "--grid", "operators=sum"], "--grid operators=sum: operators can be searched from Python only"),
        (["compare", "--grid", "method=none,mlp"], "--grid method: every method is a row of its own"),
        (["tune", "--grid", "lr=1", "--folder", "/tmp/x", "--search-seeds", "0"], "search_seeds=0: must be at least 1"),
        (["train", "--without", "audio"], "there is no signal 'audio' to leave out; there are: id, image, text"),
        (["train", "--clients", "0"], "clients=0.0: the share of clients in a round lies in (0, 1]"),
        (["compare", "--seeds", "0"], "seeds=0: must be at least 1"),
        (["execute", "nothing.ipynb"], "nothing.ipynb: no such notebook"),
        (["train", *FAST, "--out", __file__], "test_cli.py is a file: choose a folder"),
        (["train", *FAST, "--out", "/proc/nowhere"], "/proc/nowhere cannot be written"),
        (["compare", *FAST, "--csv", "/proc/nowhere/t.csv"], "/proc/nowhere: No such file"),
        (["train", *FAST, "--lr", "1e12", "--shared-lr", "1e12", "--rounds", "30"], "training diverged in round"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, message):
    code, _, err = run(capsys, *arguments)
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("fedlab-mm: ") and message in last


def test_divergence_saves_the_last_good_run(capsys, tmp_path):
    lr = ["--lr", "1e12", "--shared-lr", "1e12"]
    code, out, _ = run(capsys, "train", *FAST, *lr, "--rounds", 30, "--out", tmp_path / "kept")
    assert code == 2 and "the run up to round" in out and (tmp_path / "kept" / "recipe.json").exists()


def test_execute_keeps_the_notebook_and_its_pictures(capsys, tmp_path):
    notebook = nbformat.v4.new_notebook()
    picture = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    notebook.cells = [
        nbformat.v4.new_code_cell("import pandas as pd\npd.DataFrame({'a': [41]}) + 1", metadata={"tags": ["table"]}),
        nbformat.v4.new_code_cell(picture, metadata={"tags": ["picture:line"]}),
    ]
    nbformat.write(notebook, tmp_path / "n.ipynb")
    code, out, _ = run(capsys, "execute", tmp_path / "n.ipynb", "--out", tmp_path / "out")
    assert code == 0 and "42" in out and str(tmp_path / "out" / "line.png") in out
    assert (tmp_path / "out" / "line.png").read_bytes().startswith(b"\x89PNG")
    notebook.cells = [nbformat.v4.new_code_cell("1 / 0")]
    nbformat.write(notebook, tmp_path / "n.ipynb")
    code, _, err = run(capsys, "execute", tmp_path / "n.ipynb", "--out", tmp_path / "out")
    assert code == 2 and "ZeroDivisionError: division by zero" in err

"""The command: what it prints, and that every mistake is one line."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest
from PIL import Image

from fedlab_mm.cli import main
from tests.conftest import SHARED

NOWHERE = str(Path(__file__) / "nowhere")  # below a file nothing can be written, on any system
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
    for row in ("popularity", "itemknn", "ease", "ials", "fcf + none", "fcf + fedvlr"):
        assert row in out
    assert "26 of them cold" in out and " ± " in out
    assert pd.read_csv(csv).shape == (6, 17)


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
    assert "1e-05" in chosen and "None" in chosen and "against none, user by user" in out
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["fcf-mlp", "fcf-none"]


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
        (["data", "describe", "mars"], "unknown dataset 'mars'"),
        (["data", "describe", "/nowhere/at/all"], f"{Path('/nowhere/at/all')} holds no interactions.csv"),
        (["data", "describe", "toy", "--core", "-1"], "core=-1: must be a whole number"),
        (["data", "describe", "toy", "--missing", "guess"], "unknown missing 'guess': there are: papers, zero, drop"),
        (
            ["data", "prepare", "toy", "--core", "99", "--out", "unwritten"],
            "core=99 leaves nothing: no users and items have 99",
        ),
        (["data", "prepare", "toy", "--out", NOWHERE], f"{NOWHERE} cannot be written"),
        (["data", "describe", "toy:part"], "dataset 'toy' has no parts"),
        (["data", "describe", "amazon"], "name a category, as in amazon:All_Beauty"),
        (["data", "describe", "amazon:../x"], "category '../x': write it as the publisher does"),
        (["data", "fetch", "toy"], "dataset 'toy' has nothing to fetch"),
        (["data", "encode", "toy", "--encoder", "clip"], "unknown encoder 'clip'"),
        (["train", "--resume", "/nowhere"], f"{Path('/nowhere')} holds no saved run"),
        (["compare", "--grid", "speed=1"], "--grid speed=1: write a recipe's field and its values, as in lr=0.01,0.1"),
        (["compare", "--grid", "lr"], "--grid lr: write a recipe's field and its values"),
        (["compare", "--grid", "lr=fast"], "--grid lr=fast: lr takes values of type float"),
        (["compare", "--grid", "operators=sum"], "--grid operators=sum: operators can be searched from Python only"),
        (["compare", "--grid", "method=none,mlp"], "--grid method: every method is a row of its own"),
        (
            ["tune", "--grid", "lr=1", "--folder", "unwritten", "--search-seeds", "0"],
            "search_seeds=0: must be at least 1",
        ),
        (["train", "--without", "audio"], "there is no signal 'audio' to leave out; there are: id, image, text"),
        (["train", "--clients", "0"], "clients=0.0: the share of clients in a round lies in (0, 1]"),
        (["compare", "--baselines", "eas"], "unknown baseline 'eas': did you mean 'ease'"),
        (["compare", "--baselines", "ease:many"], "baseline 'ease:many': 'many' is not a number that ease takes"),
        (["compare", "--baselines", "popularity:3"], "'3' is not a number that popularity takes"),
        (["compare", "--baselines", "ease:-1"], "regularisation=-1: must be positive"),
        (["compare", "--seeds", "0"], "seeds=0: must be at least 1"),
        (["execute", "nothing.ipynb"], "nothing.ipynb: no such notebook"),
        (["train", *FAST, "--out", __file__], "test_cli.py is a file: choose a folder"),
        (["train", *FAST, "--out", NOWHERE], f"{NOWHERE} cannot be written"),
        (["compare", *FAST, "--csv", f"{NOWHERE}/t.csv"], str(Path(__file__))),
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


@pytest.mark.slow
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


def test_data_describe_prepare_and_encode(capsys, tmp_path):
    code, out, _ = run(capsys, "data", "describe", "toy", "--split", "temporal", "--k", 20)
    assert code == 0 and "first 20 by popularity" in out and "sha256" in out
    code, out, _ = run(capsys, "data", "prepare", "toy", "--core", 8, "--out", tmp_path / "core")
    assert code == 0 and "items with fewer than 8" in out
    code, out, _ = run(capsys, "compare", *FAST[:4], "--dataset", tmp_path / "core", "--seeds", 1, "--method", "none")
    assert code == 0 and "core: " in out and "popularity" in out
    code, out, _ = run(capsys, "data", "encode", "toy")
    assert code == 0 and "nothing to encode" in out


def test_a_folder_of_ones_own_from_titles_and_pictures_to_a_table(capsys, tmp_path, toy, monkeypatch):
    monkeypatch.setenv("FEDLAB_MM_CACHE", str(tmp_path / "cache"))
    for name, value in (("HF_HUB_OFFLINE", True), ("HF_HUB_CACHE", str(tmp_path / "hub"))):  # OpenCLIP's weights are
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)  # not to be had, with a network neither
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    toy.interactions.head(900)[["user", "item", "timestamp"]].to_csv(folder / "interactions.csv", index=False)
    toy.items[["item", "title"]].to_csv(folder / "items.csv", index=False)
    for item in range(0, 500, 5):
        Image.fromarray(toy.covers[item]).save(folder / "images" / f"{item}.png")
    (folder / "images" / "5.png").write_bytes(b"\x89PNG no more")
    code, out, err = run(capsys, "data", "encode", folder, "--encoder", "offline")
    assert code == 0 and "99 encoded" in out and "1 picture cannot be read" in err
    code, out, _ = run(capsys, "data", "describe", folder, "--encoder", "offline")
    assert code == 0 and "99 from the cache" in out and "image missing, now mean of the others" in out
    code, out, err = run(capsys, "compare", *FAST, "--dataset", folder, "--seeds", 1, "--method", "fedvlr")
    assert code == 0 and "Going on with the offline encoder" in err and "fcf + fedvlr" in out


def test_a_file_of_your_own_is_used(tmp_path, capsys):
    own = tmp_path / "own_operator.py"
    own.write_text(
        "from fedlab_mm.fusion import Sum\nfrom fedlab_mm.registry import register\n\n\n"
        "@register('operator', 'test of a file')\nclass Own(Sum):\n    pass\n",
        encoding="utf-8",
        newline="\n",
    )
    asked = ["train", "--operators", "test of a file", "--rounds", "1", "--dim", "4"]
    assert main(["--use", str(own), *asked]) == 0
    assert main(["--use", str(tmp_path / "nowhere.py"), *asked]) == 2
    assert "nowhere.py: there is no such Python file" in capsys.readouterr().err
    own.write_text("import torch\n\n1 / 0\n", encoding="utf-8", newline="\n")
    assert main(["--use", str(own), *asked]) == 2
    assert capsys.readouterr().err == f"fedlab-mm: --use {own}: ZeroDivisionError: division by zero\n"

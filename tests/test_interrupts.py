"""What was done is kept: by Ctrl-C, by a console that cannot show it, by a kernel that dies."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch

import fedlab_mm as fl
from fedlab_mm import cli
from fedlab_mm.federation import Federation
from fedlab_mm.interrupts import Interrupted
from tests.test_cli import FAST, NOWHERE, run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def ctrl_c_in(monkeypatch):
    """Ctrl-C comes while a round of this number is under way, counted over all that is trained."""

    def arrange(*rounds):
        step, done = Federation.step, []

        def pressed(engine):
            done.append(engine)
            if len(done) in rounds:
                signal.raise_signal(signal.SIGINT)
            return step(engine)

        monkeypatch.setattr(Federation, "step", pressed)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield arrange
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_keeps_the_whole_rounds_and_the_run_goes_on(world, recipe, ctrl_c_in, capsys):
    whole = fl.train(recipe, world, progress=False)
    ctrl_c_in(3)
    with pytest.raises(KeyboardInterrupt, match="interrupted after round 3 of 4: `run` of this error") as caught:
        fl.train(recipe, world, progress=False)
    assert isinstance(caught.value, Interrupted) and caught.value.run.rounds_done == 3
    assert "stopping after this round; Ctrl-C again stops at once" in capsys.readouterr().err
    rest = fl.train(recipe, world, progress=False, resume=caught.value.run)
    assert dict(rest.test) == dict(whole.test) and torch.equal(rest.scores_UI, whole.scores_UI)


def test_a_second_ctrl_c_ends_at_once(world, recipe, monkeypatch, ctrl_c_in):
    ctrl_c_in(2)
    monkeypatch.setattr("fedlab_mm.experiments.train.metrics_of", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as caught:
        fl.train(recipe.but(evaluate_every=9), world, progress=False)
    assert not isinstance(caught.value, Interrupted)


def test_a_cache_goes_on_with_what_was_interrupted(world, recipe, ctrl_c_in, tmp_path):
    ctrl_c_in(3)
    with pytest.raises(Interrupted):
        fl.train(recipe, world, progress=False, cache=tmp_path)
    assert [p.name.endswith("-begun") for p in tmp_path.iterdir()] == [True]
    run = fl.train(recipe, world, progress=False, cache=tmp_path)
    assert [p.name.endswith("-begun") for p in tmp_path.iterdir()] == [False]
    assert torch.equal(run.scores_UI, fl.train(recipe, world, progress=False).scores_UI)


def test_the_command_says_how_to_go_on_with_a_run(capsys, tmp_path, ctrl_c_in):
    ctrl_c_in(1)
    out = tmp_path / "a run"
    command = ["train", *FAST, "--method", "none", "--out", str(out)]
    code, _, err = run(capsys, *command[:4], *command[6:])
    assert code == 130 and f"the run so far is in {out}; to go on: fedlab-mm train" in err
    assert err.rstrip().endswith(f"--resume '{out}'") and fl.load_run(out).rounds_done == 1
    code, _, _ = run(capsys, *command[:4], *command[6:], "--resume", out)
    assert code == 0 and fl.load_run(out).rounds_done == 2


def test_the_command_keeps_the_rows_of_a_comparison(capsys, tmp_path, ctrl_c_in):
    csv = tmp_path / "t.csv"
    command = ["compare", *FAST[:4], "--method", "none", "mlp", "--seeds", 1, "--csv", csv]
    ctrl_c_in(3)  # in the second recipe's first round
    code, _, err = run(capsys, *command)
    assert code == 130 and f"the rows so far are in {csv}; to go on: fedlab-mm compare" in err
    assert list(pd.read_csv(csv)["recipe"]) == ["popularity", "itemknn", "ease", "ials", "fcf + none"]
    code, _, _ = run(capsys, *command)
    assert code == 0 and len(pd.read_csv(csv)) == 6
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_the_command_says_that_a_search_goes_on(capsys, tmp_path, ctrl_c_in):
    command = ["tune", *FAST, "--grid", "lr=0.1,0.5", "--folder", tmp_path / "s"]
    ctrl_c_in(3)
    code, _, err = run(capsys, *command)
    assert code == 130 and f"tried so far are in {tmp_path / 's'}; to go on: fedlab-mm tune" in err
    assert len(pd.read_csv(tmp_path / "s" / "tuning.csv")) == 1


def shell(*arguments, encoding="ascii", **more):
    command = [sys.executable, "-m", "fedlab_mm.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, env=environment, cwd=ROOT, **more)


@pytest.mark.parametrize("encoding", ["ascii", "cp932"])
def test_a_console_that_knows_few_characters_loses_no_table(tmp_path, encoding):
    csv = tmp_path / "t.csv"
    done = shell("compare", *FAST[:4], "--method", "none", "--seeds", 2, "--csv", csv, encoding=encoding)
    assert done.returncode == 0, done.stderr
    assert " ? " in done.stdout.decode(encoding) or " ± " in done.stdout.decode(encoding)
    assert len(pd.read_csv(csv)) == 5


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    command = f"'{sys.executable}' -m fedlab_mm.cli data describe toy | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, cwd=ROOT, check=False)
    assert done.returncode in (0, 141) and done.stderr == b"" and len(done.stdout.splitlines()) == 1


def test_files_are_written_before_anything_is_printed(tmp_path, monkeypatch):
    def closed(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert cli.main(["train", *FAST, "--out", str(tmp_path / "run")]) == 141
    assert cli.main(["compare", *FAST[:4], "--method", "none", "--seeds", "1", "--csv", str(tmp_path / "t.csv")]) == 141
    assert cli.main(["data", "prepare", "toy", "--out", str(tmp_path / "data")]) == 141
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "run", "t.csv"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "--csv", "{folder}"],
        ["compare", "--csv", f"{NOWHERE}/t.csv"],
        ["compare", "--cache", NOWHERE],
        ["tune", "--grid", "lr=1", "--folder", NOWHERE],
        ["train", "--out", NOWHERE],
        ["data", "prepare", "toy", "--out", NOWHERE],
        ["figures", "audit-ku-power", "--out", NOWHERE],
        ["figures", "audit-ku-power", "--cache", NOWHERE],
        ["execute", "{notebook}", "--out", NOWHERE],
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_any_work(capsys, tmp_path, monkeypatch, arguments):
    def worked(*_, **__):
        raise AssertionError("it began to work")

    for name in ("train", "compare"):
        monkeypatch.setattr(f"fedlab_mm.experiments.{name}.{name}", worked)
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "n.ipynb")
    known = {"folder": str(tmp_path), "notebook": str(tmp_path / "n.ipynb")}
    code, _, err = run(capsys, *(a.format(**known) for a in arguments))
    assert code == 2 and err.count("\n") == 1 and ("cannot be written" in err or "is a folder" in err)


def test_what_files_say_commands_no_terminal(capsys, tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    rows = [f"u{u},i{i},{i}" for u in range(3) for i in range(4)]
    (folder / "interactions.csv").write_text("user,item,timestamp\n" + "\n".join(rows), encoding="utf-8")
    (folder / "items.csv").write_text("item,title\ni0,a\ni\x1b[2J1,b\n", encoding="utf-8")
    code, out, err = run(capsys, "data", "describe", folder)
    assert code == 2 and "\x1b" not in out + err
    cli.say("a\x1b]0;title\x07 b\u202ec\rd\ud800")
    assert capsys.readouterr().out == "a\\x1b]0;title\\x07 b\\x202ec\\x0dd\\xd800\n"


def test_an_error_of_the_system_without_a_file_is_one_line(capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedlab_mm.data.load.load", full)
    code, _, err = run(capsys, "data", "describe", "toy")
    assert (code, err) == (2, "fedlab-mm: No space left on device\n")


def notebook_of(tmp_path, *cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbformat.write(notebook, tmp_path / "n.ipynb")
    return tmp_path / "n.ipynb", tmp_path / "out"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("import os; os._exit(1)", "the kernel died in code cell 2 of 3"),
        ("1 / 0", "ZeroDivisionError: division by zero in code cell 2 of 3"),
        ("import time; time.sleep(60)", "a cell takes more than 0 minutes, in code cell 2 of 3"),
    ],
)
def test_a_notebook_that_fails_is_kept_as_far_as_it_went(capsys, tmp_path, monkeypatch, cell, message):
    monkeypatch.setattr(cli.notebooks, "CELL_SECONDS", 8)
    source, out = notebook_of(tmp_path, "6 * 7", cell, "2")
    code, _, err = run(capsys, "execute", source, "--out", out)
    assert code == 2 and message in err.splitlines()[-1] and str(out / "n.ipynb") in err
    kept = nbformat.read(out / "n.ipynb", as_version=4)
    assert kept.cells[0].outputs[0]["data"]["text/plain"] == "42" and not kept.cells[2].outputs


def test_no_kernel_is_one_line(capsys, tmp_path, monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def none(self, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", none)
    source, out = notebook_of(tmp_path, "1")
    code, _, err = run(capsys, "execute", source, "--out", out)
    assert code == 2 and "there is no kernel 'python3': pip install ipykernel" in err


def test_a_polite_end_from_outside_keeps_what_ctrl_c_keeps(tmp_path):
    """SIGTERM, as a scheduler sends it before it kills."""
    code = (
        "import signal, sys\n"
        "from fedlab_mm import cli\n"
        "from fedlab_mm.federation import Federation\n"
        "import fedlab_mm as fl\n"
        "E = Federation; step = E.step\n"
        "def pressed(self):\n    signal.raise_signal(signal.SIGTERM)\n    return step(self)\n"
        "E.step = pressed\n"
        f"sys.exit(cli.main(['train', '--rounds', '3', '--dim', '4', '--out', {str(tmp_path / 'run')!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, encoding="utf-8")
    assert done.returncode == 130, done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["best_round"] == 1

"""What `pip install` gives: a wheel with all that a user needs, and none of it imported before it is needed."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from fedlab_mm.cli import COMMANDS
from fedlab_mm.data.folder import save_dataset
from fedlab_mm.version import __version__

ROOT = Path(__file__).resolve().parents[1]
# What must wait until somebody asks for it.
SLOW = "IPython ipywidgets matplotlib open_clip sklearn nbformat nbclient seaborn umap torchvision scipy.stats".split()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment outside the repository with the wheel in it: the folder of its programs. What the wheel depends on
    is borrowed from the environment of these tests, or each run would fetch torch."""
    home = tmp_path_factory.mktemp("empty")
    venv.create(home, with_pip=False)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    where = ["--python", str(scripts / "python"), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *where], check=True, capture_output=True)
    (site / "borrowed.pth").write_text(
        sysconfig.get_path("purelib"), encoding="utf-8"
    )  # a path alone: its .pth files are not followed
    return scripts


def run(scripts, *command, cwd):
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    name, *rest = command
    done = subprocess.run([scripts / name, *rest], cwd=cwd, capture_output=True, encoding="utf-8", env=clean)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_wheel_has_notebooks_tables_and_types(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert "fedlab_mm/py.typed" in inside
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"fedlab_mm/notebooks/{path.name}" in inside
    for path in (ROOT / "fedlab_mm" / "reported").glob("*.csv"):
        assert f"fedlab_mm/reported/{path.name}" in inside
    for path in (ROOT / "figures").glob("*.csv"):
        assert f"fedlab_mm/figures/measured/{path.name}" in inside
    assert {name.split("/")[0] for name in inside} == {"fedlab_mm", f"fedlab_mm-{__version__}.dist-info"}


@pytest.mark.slow
def test_it_says_what_it_is(installed, tmp_path):
    assert run(installed, "fedlab-mm", "--version", cwd=tmp_path).startswith(f"fedlab-mm {__version__} (python ")
    where = run(installed, "python", "-c", "import fedlab_mm; print(fedlab_mm.__file__)", cwd=tmp_path)
    assert str(installed.parent) in where


@pytest.mark.slow
def test_demo_runs_outside_the_repository(installed, tmp_path):
    out = run(installed, "fedlab-mm", "demo", cwd=tmp_path)
    assert "popularity" in out and "hr@50" in out
    assert (tmp_path / "fedlab-mm-demo" / "00_quickstart.ipynb").is_file()
    assert (tmp_path / "fedlab-mm-demo" / "router_groups.png").stat().st_size > 10_000


@pytest.mark.slow
def test_notebooks_are_copied_out(installed, tmp_path):
    for _ in range(2):  # again over unchanged ones
        out = run(installed, "fedlab-mm", "notebooks", "mine", cwd=tmp_path)
    mine = sorted((tmp_path / "mine").iterdir())
    assert [p.name for p in mine] == sorted(p.name for p in (ROOT / "notebooks").glob("*.ipynb"))
    assert f"{len(mine)} notebooks are in mine" in out
    mine[3].write_text("my own work", encoding="utf-8", newline="\n")
    done = subprocess.run(
        [installed / "fedlab-mm", "notebooks", "mine"], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 2 and f"mine has a {mine[3].name} that differs" in done.stderr
    assert mine[3].read_text(encoding="utf-8") == "my own work"


@pytest.mark.slow
def test_figures_are_drawn_from_the_tables_that_came_along(installed, tmp_path):
    code = "from fedlab_mm import figures; print(figures.drawn('noise-ku'), len(figures.table_of('noise-ku')))"
    assert "Figure(" in run(installed, "python", "-c", code, cwd=tmp_path)


def imported(code: str, cwd: Path, **env: str) -> set[str]:
    code += "; import sys; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, encoding="utf-8", env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return set(done.stdout.split())


def test_import_and_help_do_not_wait_for_torch(tmp_path):
    heavy = {"torch", "pandas", "numpy", *SLOW}
    assert not heavy & imported("import fedlab_mm", tmp_path)
    assert not heavy & imported("from fedlab_mm.cli import _parser; _parser([]).format_help()", tmp_path)


@pytest.mark.slow
def test_nothing_is_imported_before_it_is_needed(tmp_path, toy):
    save_dataset(toy, tmp_path / "toy")  # with its features: nothing is left to encode
    code = (
        "import fedlab_mm as fl; data = fl.load('./toy'); "
        "run = fl.train(fl.Recipe(dataset='./toy', rounds=1, dim=4, id_dim=4), data, progress=False); "
        "run.save('a'); run.recommend(3); fl.load_run('a', data)"
    )
    needed = {"scipy.stats"}  # coverage of test lists ranks items
    assert not set(SLOW) & imported(code, tmp_path) - needed


@pytest.mark.slow
def test_a_run_is_saved_by_a_package_that_was_never_installed(wheel, tmp_path):
    """From a zip, and with no metadata to ask: hours of training must not end in PackageNotFoundError."""
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(tmp_path / "package.zip", "w") as bare:
        for name in whole.namelist():
            if ".dist-info/" not in name:
                bare.writestr(name, whole.read(name))
    code = """
import importlib.metadata as metadata, sys

def version(name, known=metadata.version):
    if name.startswith("fedlab"):
        raise metadata.PackageNotFoundError(name)
    return known(name)

metadata.version = version
import fedlab_mm as fl
from fedlab_mm import reported
assert ".zip" in fl.__file__, fl.__file__
run = fl.train(fl.Recipe(rounds=1, dim=4, id_dim=4), fl.load("toy"), progress=False, cache="cache")
run.save("a")
fl.load_run("a")
reported.reported("fedmr_table4")
print(open("a/run.json").read())
"""
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "package.zip")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8", env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f'"fedlab_mm": "{__version__}"' in done.stdout and '"torch": ' in done.stdout


def test_every_command_has_help(capsys):
    from fedlab_mm.cli import main

    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0 and name in capsys.readouterr().out

"""demo, notebooks, execute."""

import argparse
import base64
import importlib.util
import typing
import warnings
from importlib.resources.abc import Traversable
from pathlib import Path

from fedlab_mm.cli.console import failed, say
from fedlab_mm.errors import FedlabError
from fedlab_mm.files import free_file, put, shipped

QUICKSTART = "00_quickstart.ipynb"
CELL_SECONDS = 1800
VIEW = "application/vnd.jupyter.widget-view+json"


def _demo(options: argparse.Namespace) -> int:
    """The quickstart, executed."""
    return run_notebook(shipped("notebooks") / QUICKSTART, Path(options.out), Path())


def _notebooks(options: argparse.Namespace) -> int:
    """Copy the notebooks out; a file of the user's that has changed is left alone."""
    folder = Path(options.folder)
    found = sorted((f for f in shipped("notebooks").iterdir() if f.name.endswith(".ipynb")), key=lambda f: f.name)
    others = [f.name for f in found if (folder / f.name).exists() and (folder / f.name).read_bytes() != f.read_bytes()]
    if others:
        raise FedlabError(f"{folder} has a {others[0]} that differs: choose another folder, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in found:
        put(folder / notebook.name, notebook.read_bytes())
    say(f"{len(found)} notebooks are in {folder}; to open them: jupyter lab {folder}")
    if importlib.util.find_spec("jupyterlab") is None:
        say('JupyterLab is not installed: pip install "fedlab_mm[all]"')
    return 0


def _execute(options: argparse.Namespace) -> int:
    source = Path(options.notebook)
    if not source.is_file():
        raise FedlabError(f"{source}: no such notebook")
    return run_notebook(source, Path(options.out), source.parent)


def run_notebook(source: Traversable, out: Path, where: Path) -> int:
    """Execute a notebook in a folder, print its tables (cells tagged "table"), and keep the executed copy and its
    pictures."""
    import nbformat
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from tqdm import tqdm

    try:
        notebook = nbformat.reads(source.read_text(encoding="utf-8"), as_version=4)
    except Exception as error:
        raise FedlabError(f"{source}: not a notebook ({error})") from None
    free_file(out / source.name)  # before the work is done, not after
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    warnings.filterwarnings("ignore", message=".*Proactor event loop")  # of pyzmq on Windows, which works all the same
    begun = 0

    def begins(cell: typing.Any, **_: typing.Any) -> None:
        nonlocal begun
        begun += cell.cell_type == "code"

    trouble: BaseException | None = None
    with tqdm(total=len(code), desc=source.name, unit="cell") as bar:
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": str(where)}},
            on_cell_start=begins,
            on_cell_complete=lambda cell, **_: bar.update() if cell.cell_type == "code" else None,
        )
        try:
            client.execute()
        except NoSuchKernel:
            raise FedlabError(f"{source}: there is no kernel 'python3': pip install ipykernel") from None
        except (CellExecutionError, CellTimeoutError, DeadKernelError, KeyboardInterrupt, AssertionError) as error:
            trouble = error  # an AssertionError is nbclient's, of a kernel that went while it cleaned up
    pictures = []
    tables = []
    for n, cell in enumerate(code):
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            if png:
                name = next((t.removeprefix("picture:") for t in _tags(cell) if t.startswith("picture:")), f"cell{n}")
                pictures.append(out / f"{name}.png")
                put(pictures[-1], base64.b64decode(png))
            elif "table" in _tags(cell) and "data" in output:
                tables.append(output["data"]["text/plain"])
        without_views(cell.get("outputs", []))
    notebook.metadata.pop("widgets", None)  # their state, of use to the kernel that has just gone
    put(out / source.name, nbformat.writes(notebook) + "\n")
    for table in tables:
        say(f"\n{table}")
    if trouble is not None:
        where_to = f"in code cell {begun} of {len(code)}; executed so far: {out / source.name}"
        if isinstance(trouble, KeyboardInterrupt):
            return failed(f"{source}: interrupted {where_to}", 130)
        raise FedlabError(f"{source}: {_why(trouble)} {where_to}")
    say(f"\nexecuted notebook: {out / source.name}")
    for picture in pictures:
        say(f"picture:           {picture}")
    return 0


def _why(failed: BaseException) -> str:
    if isinstance(failed, TimeoutError):
        return f"a cell takes more than {CELL_SECONDS / 60:.0f} minutes,"
    if hasattr(failed, "ename"):
        return f"{failed.ename}: {getattr(failed, 'evalue', '')}"
    return "the kernel died"


def without_views(outputs: list[typing.Any]) -> None:
    """Leave the picture alone where a stored output holds both: a widget's view means nothing without its kernel."""
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            data.pop(VIEW, None)


def _tags(cell: typing.Any) -> list[str]:
    return cell.metadata.get("tags", [])


def demo_options(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("--out", default="fedlab-mm-demo", help="folder for the notebook and its pictures [%(default)s]")
    demo.set_defaults(run=_demo)


def notebooks_options(notebooks: argparse.ArgumentParser) -> None:
    notebooks.add_argument("folder", help="where to; it is made")
    notebooks.set_defaults(run=_notebooks)


def execute_options(execute: argparse.ArgumentParser) -> None:
    execute.add_argument("notebook")
    execute.add_argument("--out", default="out", help="folder for the executed notebook and its pictures")
    execute.set_defaults(run=_execute)

"""A module imports only from those above it, so that the package can be read from top to bottom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "fedlab_mm"
LAYERS = (
    "errors provenance interrupts registry version files network draws threads settings recipe records encoding data "
    "fusion routing grouping losses aggregation backbones methods sequential centralised privacy attacks "
    "federation evaluation tasks geometry audit reported experiments plotting figures widgets cli"
).split()
FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_upwards(path):
    assert layer(path) in LAYERS, "a new module takes its place in LAYERS and in the README's tree"
    own = LAYERS.index(layer(path))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            imported = [node.module or ""]
            if node.module == "fedlab_mm":
                imported = [f"fedlab_mm.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        else:
            continue
        for name in imported:
            if name.startswith("fedlab_mm"):
                assert LAYERS.index(name.split(".")[1]) <= own, f"{path.name} imports {name}, which stands below it"


def test_every_layer_is_there():
    there = {layer(path) for path in FILES}
    assert [name for name in LAYERS if name not in there] == []

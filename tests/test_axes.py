"""Names end with their axes, by the legend in `records.py`; a class has a name of its own."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import fedlab_mm.records

ROOT = Path(__file__).resolve().parents[1] / "fedlab_mm"
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")}
LEGEND = set(re.findall(r"(?:^|  )([A-Za-z1])  \S", fedlab_mm.records.__doc__, re.MULTILINE))


def named(tree):
    for node in ast.walk(tree):
        for field in ("id", "arg", "attr", "name"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield name


def test_axes_are_those_of_the_legend():
    assert {"U", "I", "W", "L", "T", "S", "B", "1"} <= LEGEND
    for path, tree in TREES.items():
        for name in named(tree):
            axes = re.fullmatch(r"_?[a-z][a-z0-9_]*_([A-Z1][A-Z1d]*)", name)
            if axes:
                assert set(axes[1]) <= LEGEND, f"{path.relative_to(ROOT)}: {name}"


def test_no_two_classes_have_one_name():
    where = defaultdict(list)
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name != "Params":
                where[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in where.items() if len(paths) > 1} == {}


def test_a_file_can_be_read_at_one_sitting():
    long = {str(p.relative_to(ROOT)): n for p in TREES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 400}
    assert long == {}

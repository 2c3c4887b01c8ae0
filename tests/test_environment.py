"""One environment, three files: pyproject.toml, constraints.txt and environment.yml say the same."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINES = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
PINS = {
    canonicalize_name(r.name): r for r in (Requirement(line) for line in LINES if line and not line.startswith("#"))
}
WANTED = [Requirement(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]


def test_every_constraint_is_an_exact_version():
    for pin in PINS.values():
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin
    assert str(PINS["torch"].specifier) == "==2.13.0"


def test_every_dependency_is_pinned_to_a_version_that_it_allows():
    for requirement in WANTED:
        pin = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(str(pin.specifier).removeprefix("==")), requirement


def test_what_is_installed_is_what_is_pinned():
    from importlib.metadata import version

    for requirement in WANTED:
        pin = str(PINS[canonicalize_name(requirement.name)].specifier).removeprefix("==")
        assert version(requirement.name).split("+")[0] == pin, requirement


def test_conda_and_binder_install_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    assert conda == ["python=3.11", "pip"]
    assert PROJECT["requires-python"] == ">=3.11"
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert pip == ["-c constraints.txt", "-e .[dev]"]
    assert '-c constraints.txt -e ".[dev]"' in (ROOT / "Makefile").read_text()

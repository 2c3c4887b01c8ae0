"""One environment, four files (pyproject.toml, constraints.txt, environment.yml, binder/), one licence, one version."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fedlab_mm.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = [line.strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
PINS = {
    canonicalize_name(r.name): r for r in (Requirement(line) for line in LINES if line and not line.startswith("#"))
}
EXTRAS = PROJECT["optional-dependencies"]


def wanted(extra: str) -> list[Requirement]:
    """What an extra brings, by way of others too."""
    found = []
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == PROJECT["name"]:
            found += [r for other in sorted(requirement.extras) for r in wanted(other)]
        else:
            found.append(requirement)
    return found


WANTED = [Requirement(r) for r in PROJECT["dependencies"]] + wanted("dev")


def test_every_constraint_is_an_exact_version():
    for pin in PINS.values():
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin
    assert str(PINS["torch"].specifier) == "==2.13.0"


def test_every_dependency_is_pinned_to_a_version_that_it_allows():
    for requirement in WANTED + wanted("browser"):
        pin = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(str(pin.specifier).removeprefix("==")), requirement


def test_what_is_installed_is_what_is_pinned():
    from importlib.metadata import version

    for requirement in WANTED:
        pin = str(PINS[canonicalize_name(requirement.name)].specifier).removeprefix("==")
        assert version(requirement.name).split("+")[0] == pin, requirement


def pip_of(environment: dict) -> list[str]:
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    return pip


def test_all_is_every_extra_that_a_user_may_want():
    users = {name for name in EXTRAS if name not in ("all", "dev", "browser")}
    (everything,) = map(Requirement, EXTRAS["all"])
    assert everything.extras == users


def test_conda_installs_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    assert conda == ["python=3.11", "pip"]
    assert PROJECT["requires-python"] == ">=3.11"
    assert pip_of(environment) == ["-c constraints.txt", "-e .[dev]"]
    assert '-c constraints.txt -e ".[dev]"' in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_binder_installs_the_same_with_the_small_torch():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    binder = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text(encoding="utf-8"))
    index, *pip = pip_of(binder)
    assert index.startswith("--extra-index-url ") and index.split()[1] in (ROOT / "README.md").read_text(
        encoding="utf-8"
    )
    assert pip == ["-c ../constraints.txt", "-e ..[dev]"]  # pip runs in binder/, by conda's rules and by mamba's
    binder["dependencies"][-1]["pip"] = pip_of(environment)
    assert binder == environment


def test_repo2docker_copies_the_repository_before_it_installs(monkeypatch):
    """An environment that needs no file of the repository is installed before the rest is copied; ours needs some."""
    buildpacks = pytest.importorskip("repo2docker.buildpacks", reason="jupyter-repo2docker is not installed")
    monkeypatch.chdir(ROOT)
    names = (
        "DockerBuildPack JuliaProjectTomlBuildPack JuliaRequireBuildPack NixBuildPack RBuildPack CondaBuildPack".split()
    )
    (chosen, *_) = [pack for pack in (getattr(buildpacks, name)("ubuntu:22.04") for name in names) if pack.detect()]
    assert type(chosen).__name__ == "CondaBuildPack"
    assert chosen.environment_yaml_path == "binder/environment.yml" and chosen.python_version == "3.11"
    assert "environment.yml" not in "".join(chosen.get_preassemble_script_files())
    assert any('--file "binder/environment.yml"' in script for _, script in chosen.get_assemble_scripts())


def test_the_licence_and_the_version_are_told_alike():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert licence.split()[:4] == ["Apache", "License", "Version", "2.0,"] and "END OF TERMS AND CONDITIONS" in licence
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])

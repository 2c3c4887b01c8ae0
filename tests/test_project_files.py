"""What a visitor of the repository finds beside the code agrees with the code."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

import fedlab_mm as fl
from fedlab_mm import registry
from fedlab_mm.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
FAMILIES = sorted({*fl.available(), *registry._FAMILIES})


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def workflow(name):
    """A workflow, its key "on", which YAML 1.1 takes for true, by its name."""
    told = yaml.safe_load(read(f".github/workflows/{name}.yml"))
    return {("on" if key is True else key): value for key, value in told.items()}


def steps(name):
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_are_whole(path):
    told = workflow(path.stem)
    assert told["on"] and told["permissions"] == {"contents": "read"}
    for job in told["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"]
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/checkout@v1"))
    used = {step["uses"] for name in WORKFLOWS for step in steps(name.stem) if "uses" in step}
    assert len({name.split("@")[0] for name in used}) == len(used)  # one version of each


def test_every_python_is_tried_on_every_system():
    matrix = workflow("test")["jobs"]["test"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert all(allowed.contains(version) for version in matrix["python"])
    oldest = min(minor for minor in range(99) if allowed.contains(f"3.{minor}"))
    assert [int(version.split(".")[1]) for version in matrix["python"]] == list(range(oldest, oldest + 4))
    told = {c.split(" :: ")[-1] for c in PROJECT.get("classifiers", []) if "Python :: 3." in c}
    assert told <= set(matrix["python"])


def test_workflows_run_what_they_are_for():
    commands = {name: "\n".join(step.get("run", "") for step in steps(name)) for name in ("test", "wheel", "notebooks")}
    for command in ("ruff check .", "mypy", "pytest -n auto"):
        assert f"python -m {command}" in commands["test"]
    for command in ("python -m build", "fedlab-mm --version", "fedlab-mm demo"):
        assert command in commands["wheel"]
    assert "checkout" not in str(workflow("wheel")["jobs"]["install"])  # what is tried there is the wheel
    assert "python -m pytest --nbval --nbval-current-env notebooks" in commands["notebooks"]
    assert "cron" in str(workflow("notebooks")["on"])


@pytest.mark.parametrize("path", FORMS, ids=lambda p: p.stem)
def test_forms_of_issues_are_whole(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert isinstance(form["blank_issues_enabled"], bool)
        return
    assert form["name"] and form["description"]
    for element in form["body"]:
        assert element["type"] in ("textarea", "input", "checkboxes") and element["attributes"]["label"]
    ids = [element["id"] for element in form["body"]]
    assert len(set(ids)) == len(ids)
    if path.stem in ("bug", "wrong_number"):
        assert {"recipe", "version"} <= set(ids) and "fedlab-mm --version" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("family", FAMILIES)
def test_contributing_says_how_to_add_to_every_family(family):
    rows = [line.split("|")[1] for line in read("CONTRIBUTING.md").splitlines() if line.startswith("| `")]
    assert any(f"`{family}`" in row for row in rows)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_what_a_page_names_is_there(name):
    text = read(name)
    for link in re.findall(r"\]\((?!https?:)([^)#]*)#?([\w-]*)\)", text):
        page, anchor = link
        assert (ROOT / (page or name)).is_file(), page
        if anchor:
            heads = re.findall(r"^#+ (.+)$", read(page or name), re.M)
            assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads], anchor
    for path in re.findall(r"`((?:tests|fedlab_mm|notebooks|\.devcontainer)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`(test_\w+\.py)`", text):
        assert list((ROOT / "tests").rglob(path)), path
    for target in re.findall(r"^\$ make ([\w-]+)", text, re.M):
        assert re.search(rf"^{target}:", read("Makefile"), re.M), target


def test_the_changelog_knows_this_version():
    sections = re.findall(r"^## \[?([\w.]+)\]?", read("CHANGELOG.md"), re.M)
    assert sections[0] == "Unreleased" or sections[0] == __version__
    assert "Unreleased" in sections or __version__ in sections


def test_the_linter_before_a_commit_is_the_one_of_make():
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    (ruff,) = [repo["rev"] for repo in hooks if repo["repo"].endswith("ruff-pre-commit")]
    assert f"ruff=={ruff.removeprefix('v')}\n" in read("constraints.txt")


def test_the_dev_container_has_the_python_of_make():
    container = json.loads(read(".devcontainer/devcontainer.json"))
    assert container["image"].endswith("python:3.11") and container["postCreateCommand"] == "make"
    assert 8888 in container["forwardPorts"]

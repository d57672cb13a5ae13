"""The files around the package agree with it: lowest versions, the workflow, forms, hooks, citation."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from recbole_siger.options.keys import keys_of

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def yaml_of(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def requirements() -> list[Requirement]:
    """Every requirement of the package and its extras, without the package itself."""
    extras = PROJECT["optional-dependencies"].values()
    specs = [*PROJECT["dependencies"], *(spec for extra in extras for spec in extra)]
    return [one for one in map(Requirement, specs) if one.name != PROJECT["name"]]


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    bounds = {
        (one.name, part.version) for one in requirements() for part in one.specifier if part.operator == ">="
    }
    lines = (ROOT / ".ci/lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert sorted(pins) == sorted(f"{name}=={version}" for name, version in bounds)
    assert {name for name, _ in bounds} == {one.name for one in requirements()}


def test_the_workflow_runs_every_python_and_the_lowest_versions() -> None:
    (job,) = yaml_of(".github/workflows/ci.yml")["jobs"].values()
    matrix = job["strategy"]["matrix"]
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert matrix["python"] == [f"3.{minor}" for minor in range(5, 30) if f"3.{minor}" in allowed]
    assert matrix["include"] == [{"python": matrix["python"][0], "constraints": ".ci/lowest.txt"}]
    step = job["steps"][-1]
    assert step["run"] == ".ci/run"
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert {name for name in step["env"] if f"${{{name}:-" in script} == {"PYTHON", "CONSTRAINTS"}


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_a_form_asks_for_what_a_maintainer_needs(form: str) -> None:
    fields = {one["id"]: one for one in yaml_of(f".github/ISSUE_TEMPLATE/{form}.yml")["body"]}
    assert "recbole-siger doctor --json" in fields["doctor"]["attributes"]["label"]
    assert "config.yaml" in fields["config"]["attributes"]["label"]
    asked = {name for name, one in fields.items() if one.get("validations", {}).get("required")}
    assert asked >= {"bug": {"command", "output", "doctor", "config"}, "feature": {"task"}}[form]


def test_the_hooks_are_the_checks_of_contributing() -> None:
    (repository,) = yaml_of(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"].replace(" --force-exclude", "") for hook in repository["hooks"]]
    assert entries == ["ruff check", "ruff format --check", "mypy"]
    assert all(f"\n{entry}\n" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8") for entry in entries)


def test_the_citation_has_the_version_and_the_papers() -> None:
    citation = yaml_of("CITATION.cff")
    for key in ("version", "license", "keywords"):
        assert citation[key] == PROJECT[key]
    assert [person["name"] for person in citation["authors"]] == [one["name"] for one in PROJECT["authors"]]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (bibtex,) = re.findall(r"```bibtex\n(.*?)```", readme, flags=re.S)
    siger = citation["references"][0]
    assert f"{{{siger['title']}}}" in bibtex
    names = " and ".join(f"{one['family-names']}, {one['given-names']}" for one in siger["authors"])
    assert f"{{{names}}}" in bibtex


def test_the_policy_names_every_refused_option() -> None:
    policy = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in policy for key in keys_of("pickle"))

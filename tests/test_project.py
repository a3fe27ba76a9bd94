"""What the files around the package say about it, held to what it is."""

import tomllib
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    Requirement(line)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in group
]


def test_ci_runs_the_test_line_that_the_readme_shows() -> None:
    line = "pip install nox && nox -s tests"
    assert line in (ROOT / "README.md").read_text()
    assert line in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("name", sorted({r.name for r in REQUIREMENTS} - {"anybatch"}))
def test_every_dependency_is_explained_to_contributors(name: str) -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Dependencies")[2]
    cells = [cell for row in section.splitlines() if row[:1] == "|" for cell in row.split("|")[1:3]]
    assert any(name in cell.replace(",", " ").split() for cell in cells)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=[str(r) for r in REQUIREMENTS])
def test_every_dependency_has_a_lower_bound_and_no_upper_one(requirement: Requirement) -> None:
    if requirement.name != "anybatch":
        assert [s.operator for s in requirement.specifier] == [">="]


def test_the_installed_package_is_the_version_of_this_checkout_and_typed() -> None:
    assert metadata.version("anybatch") == PROJECT["version"]
    assert resources.files("anybatch").joinpath("py.typed").is_file()


def test_the_changelog_has_a_section_for_this_version_or_for_what_is_unreleased() -> None:
    headings = [
        line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line[:3] == "## "
    ]
    assert headings[0].startswith(("## [Unreleased]", f"## [{PROJECT['version']}]"))

"""Everything that is run on a change: ``nox`` runs it all, ``nox -s tests -- -k name`` a part."""

from __future__ import annotations

import platform
from pathlib import Path

import nox

PYPROJECT = nox.project.load_toml("pyproject.toml")
# Coverage is measured, and the tools run, on the Python that nox itself runs on.
MAIN = ".".join(platform.python_version_tuple()[:2])
# Were the main one left out, a machine without any supported Python would pass by running nothing.
PYTHONS = sorted({*nox.project.python_versions(PYPROJECT), MAIN}, key=lambda v: int(v[2:]))

nox.needs_version = ">=2025.11"
nox.options.sessions = ["tests", "lint", "typing", "docs"]
nox.options.error_on_external_run = True
# Each session starts from an empty environment: what lies about cannot make it pass.
nox.options.reuse_venv = "no"
# A Python that this machine lacks is passed over, on CI too, and never downloaded.
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"


def install(session: nox.Session, *groups: str, extras: str = "cli,trio") -> None:
    """Install the package as a user would, together with what the groups need."""
    session.install(f".[{extras}]", *nox.project.dependency_groups(PYPROJECT, *groups))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the suite on every Python there is, and measure branch coverage on the main one."""
    install(session, "test")
    pytest = ["-m", "pytest", "--numprocesses=auto", "--dist=worksteal", "-m", "not faults"]
    pytest += session.posargs
    if session.python != MAIN:
        session.run("python", *pytest)
        return
    # Data files of an earlier run, or of one beside this one, must not count.
    session.env["COVERAGE_FILE"] = str(Path(session.create_tmp(), "coverage").resolve())
    session.run("coverage", "erase")
    session.run("coverage", "run", *pytest)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format; flake8-async knows rules that ruff lacks (101, 102, 119, 120)."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("flake8", *existing("src", "tests", "benchmarks"))


@nox.session
def typing(session: nox.Session) -> None:
    """Check the package in both type checkers, and that its users see a type for every name."""
    install(session, "typing")
    api = existing("tests/typing")
    session.run("mypy", "src", *api)
    session.run("pyright", "src", *api)
    session.run("pyright", "--verifytypes", "anybatch", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into ``docs/_build``; a warning is an error."""
    install(session, "docs")
    session.run("sphinx-build", "-EW", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def faults(session: nox.Session) -> None:
    """Kill, cut off and restart in bulk: minutes; what it finds goes into the documentation."""
    install(session, "test")
    session.run("python", "-m", "pytest", "-m", "faults", "--timeout=900", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what a request costs on each event loop: `nox -s bench -- 9` for nine rounds."""
    install(session, "bench")
    session.run("python", "benchmarks/submit.py", *session.posargs)


def existing(*paths: str) -> list[str]:
    """Those of the paths that this checkout has."""
    return [path for path in paths if Path(path).exists()]

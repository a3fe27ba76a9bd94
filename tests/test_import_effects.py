"""Importing the package changes nothing: not the process, not the disk."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import anybatch

PACKAGE = Path(anybatch.__file__).parent

# Looks at the process before and after, and prints what differs. JSON is there before the import.
LOOK = """
import json, logging, os, signal, sys, threading, warnings

def look():
    root = logging.getLogger()
    return {
        "handlers": [repr(handler) for handler in root.handlers],
        "level": root.level,
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "threads": [thread.name for thread in threading.enumerate()],
        "filters": [repr(filter) for filter in warnings.filters],
        "signals": {s.name: repr(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)},
    }

before = look()
import {module}
after = look()
print(json.dumps({"before": before, "after": after, "modules": sorted(sys.modules),
                  "file": sys.modules["anybatch"].__file__}))
"""

MODULES = [
    "anybatch",
    "anybatch.batch_stores",
    "anybatch.providers",
    "anybatch.request_queues",
    "anybatch.testing.clocks",
]


def import_in_new_process(module: str, site: Path, cwd: Path, **environment: str) -> dict[str, Any]:
    env = os.environ | {"PYTHONPATH": str(site), "HOME": str(cwd), "TMPDIR": str(cwd)} | environment
    # What is imported on a user's machine is not measured, and compiles as it does there.
    for name in ("PYTHONDONTWRITEBYTECODE", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
        env.pop(name, None)
    code = LOOK.replace("{module}", module)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy of the package in a directory of its own, as an installer would make it."""
    site = tmp_path / "site"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, site / "anybatch", ignore=ignored)
    return site


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    (tmp_path / "cwd").mkdir()
    return tmp_path / "cwd"


@pytest.mark.parametrize("module", MODULES)
def test_an_import_leaves_the_process_as_it_was(module: str, site: Path, cwd: Path) -> None:
    found = import_in_new_process(module, site, cwd)
    assert Path(found["file"]).is_relative_to(site)
    assert found["after"] == found["before"]


@pytest.mark.parametrize("module", MODULES)
def test_an_import_writes_nothing_but_bytecode(module: str, site: Path, cwd: Path) -> None:
    before = tree(site)
    cache = cwd.with_name("bytecode")
    import_in_new_process(module, site, cwd, PYTHONPYCACHEPREFIX=str(cache))
    assert cache.exists()
    assert tree(site) == before
    assert tree(cwd) == {}


def test_the_package_works_from_a_read_only_install(site: Path, cwd: Path) -> None:
    """Read-only for whoever runs this, root included: a directory cannot be made in a file."""
    for directory in [site, *filter(Path.is_dir, site.rglob("*"))]:
        (directory / "__pycache__").touch()
        directory.chmod(0o555)
    try:
        before = tree(site)
        import_in_new_process("anybatch", site, cwd)
        assert tree(site) == before
    finally:
        for directory in [site, *filter(Path.is_dir, site.rglob("*"))]:
            directory.chmod(0o755)


@pytest.mark.parametrize("module", MODULES)
def test_what_takes_long_or_is_optional_is_not_imported(module: str, site: Path, cwd: Path) -> None:
    modules = set(import_in_new_process(module, site, cwd)["modules"])
    assert "anybatch" in modules
    assert not modules & {"langbatch", "openai", "redis", "trio", "starlette", "hypercorn", "rich"}


def test_the_clocks_are_there_without_trio(site: Path) -> None:
    code = (
        "import sys; sys.modules['trio'] = None\n"
        "from anybatch.testing.clocks import all_backends, virtual_trio\n"
        "assert {name for name, _ in all_backends()} == {'asyncio'}\n"
        "virtual_trio()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError: No module named 'trio")


def tree(directory: Path) -> dict[str, tuple[int, int]]:
    """Everything below a directory, with size and time of change."""
    stats = {str(path): path.stat() for path in directory.rglob("*")}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}

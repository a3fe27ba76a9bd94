"""What the documentation shows, run."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PRINTED = {
    "ask": ["What is a batch?", "What is a receipt?"],
    "function": ["100 words at once", "50 words at once"],
    "receipts": ["one", "content_filter: Not this one.", "three", "four"],
    "handler": ["100 answered, 0 failed"],
    "resolve": ["nobody knows whether batch", "'content': 'Were you bought?'"],
    "own_queue": ["'content': 'a text'", "7 a partial request that is a int"],
}


@pytest.mark.anyio
@pytest.mark.real_time
@pytest.mark.parametrize("name", PRINTED)
async def test_an_example_prints_what_it_promises_on_every_event_loop(
    name: str, capsys: pytest.CaptureFixture[str], anyio_backend: Any
) -> None:
    await runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()
    printed = capsys.readouterr().out
    assert [text for text in PRINTED[name] if text not in printed] == []


def test_the_example_of_a_test_passes() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_two_hours.py"]
    subprocess.run(command, cwd=EXAMPLES, check=True)


def test_langbatchs_page_runs_with_its_imports_changed(anybatch_home: Path) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "langbatch_page.py")]
    environment = {**os.environ, "ANYBATCH_HOME": str(anybatch_home)}
    run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert sorted(re.findall(r"'(\w+\?)'", run.stdout)) == ["One?", "Two?"]


def test_every_example_is_run_and_shown() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {f"{name}.py" for name in PRINTED} | {
        "langbatch_page.py",
        "test_two_hours.py",
    }
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    shown = {f"{name}.py" for name in re.findall(r"\.\./examples/(\w+)\.py", pages)}
    assert scripts - shown == {"ask.py"}


def test_the_readme_shows_the_first_example() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks[0] == (EXAMPLES / "ask.py").read_text()

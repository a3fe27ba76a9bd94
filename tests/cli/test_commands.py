"""What the commands answer, and what they refuse before anything is done."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("cyclopts")

from anybatch.cli._app import main
from anybatch.cli._place import best_engine
from anybatch.cli._stores import locked, store_in
from anybatch.local_provider import EngineUnavailable

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    logger = logging.getLogger("anybatch")
    before = logger.level, logger.propagate, logger.handlers[:]
    yield
    logger.setLevel(before[0])
    logger.propagate, logger.handlers[:] = before[1:]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--provider", "openai", "--model", "m"], "OPENAI_API_KEY"),
        (["--provider", "local", "--base-url", "http://x/v1"], "leave out --provider local"),
        (["--provider", "local", "--engine", "echo", "--prompt", "{"], "is no template"),
        (["--provider", "local", "--engine", "echo", "--param", "x"], "--param seed=7"),
        (["--provider", "local", "--engine", "echo", "--faults", "nowhere"], "--faults nowhere"),
        (["--base-url", "http://127.0.0.1:9/v1", "--prompt", "{x}"], "no model is named"),
        (["--base-url", "http://127.0.0.1:9/v1", "--format", "text"], "no model is named"),
        (["--provider", "elsewhere"], "elsewhere"),
        (["--provider", "local", "--queue-threshold", "0"], "--queue-threshold"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_done(
    tmp_path: Path, capsys: Captured, options: list[str], complaint: str
) -> None:
    path = tmp_path / "in.txt"
    path.write_text("one\n")
    before = sorted(tmp_path.iterdir())
    assert main(["run", str(path), "-o", str(tmp_path / "out"), *options]) == 2
    assert complaint in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "complaint"), [("nothing.txt", "cannot be read"), ("--tpyo", "no option '--tpyo'")]
)
def test_an_input_that_is_not_there_is_named(
    tmp_path: Path, capsys: Captured, name: str, complaint: str
) -> None:
    path = str(tmp_path / name) if name.endswith("txt") else name
    options = ["-o", str(tmp_path / "out"), "--provider", "local", "--engine", "echo"]
    assert main(["run", path, *options]) == 2
    assert complaint in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_an_engine_that_cannot_run_here_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured
) -> None:
    def choose(name: str) -> None:
        raise EngineUnavailable("pip install it")

    monkeypatch.setattr("anybatch.cli._place.choose_engine", choose)
    assert main(["provider", "--engine", "llama", "--port", "0"]) == 2
    assert "pip install it" in capsys.readouterr().err


def test_the_engine_of_a_name_is_that_engine() -> None:
    assert best_engine("echo").name == "echo"


def test_a_provider_that_cannot_listen_says_so(capsys: Captured) -> None:
    assert main(["provider", "--engine", "echo", "--host", "203.0.113.1", "--port", "0"]) == 2
    assert "cannot be served" in capsys.readouterr().err


def test_paths_show_the_home_and_its_stores(anybatch_home: Path, capsys: Captured) -> None:
    store = store_in(anybatch_home / "handlers" / "x")
    store.open()
    store.close()
    assert main(["paths"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"home: {anybatch_home}",
        f"store: {anybatch_home / 'handlers' / 'x'}",
    ]


def test_batches_of_the_default_handler_are_shown_where_there_are_any(
    anybatch_home: Path, capsys: Captured
) -> None:
    assert main(["batches"]) == 2
    assert "has no store of batches" in capsys.readouterr().err
    store = store_in(anybatch_home / "handlers" / "default")
    store.open()
    store.close()
    assert main(["batches"]) == 0
    assert capsys.readouterr().out.split() == [
        "id",
        "state",
        "requests",
        "accepted",
        "platform",
        "id",
    ]


def test_resolve_wants_one_decision_about_a_batch_that_is_there(
    anybatch_home: Path, capsys: Captured
) -> None:
    store = store_in(anybatch_home / "handlers" / "default")
    store.open()
    store.close()
    for options in ([], ["--platform-id", "p", "--not-created"]):
        assert main(["resolve", "b", *options]) == 2
        assert "one of --platform-id ID and --not-created" in capsys.readouterr().err
    assert main(["resolve", "b", "--not-created"]) == 2
    assert "there is no batch 'b'" in capsys.readouterr().err
    with locked(store):
        assert main(["resolve", "b", "--not-created"]) == 2
    assert "end that process first" in capsys.readouterr().err


def test_version_and_help_are_printed(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip()[0].isdecimal()
    assert main(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "OUTPUT.anybatch" in shown
    assert "--faults" not in shown
    assert "--not-created" not in shown

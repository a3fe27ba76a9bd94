"""The command line's own ends: what is raised becomes an exit status and a sentence."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from msgspec import Raw

from anybatch import StoreInUse
from anybatch.cli import _app
from anybatch.cli._progress import _ScreenHandler
from anybatch.cli._recipe import _lacks_system


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (StoreInUse("process 7 has it"), 1, "process 7 has it; run the same command again"),
        (OSError("the disk is full"), 1, "the disk is full"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_is_raised_becomes_an_exit_status(
    error: BaseException,
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(_app, "app", fail)
    assert _app.main([]) == status
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_record_that_cannot_be_shown_is_handled_as_logging_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Closed:
        def say(self, text: str) -> None:
            raise ValueError("the screen is closed")

    handled: list[logging.LogRecord] = []
    handler = _ScreenHandler(Closed())  # type: ignore[arg-type]
    monkeypatch.setattr(handler, "handleError", handled.append)
    handler.emit(logging.makeLogRecord({"msg": "x"}))
    assert [record.getMessage() for record in handled] == ["x"]


def test_a_system_prompt_is_not_added_to_what_is_no_list_of_messages() -> None:
    assert _lacks_system(Raw(b"[1]")) is False
    assert _lacks_system(Raw(b'[{"role": "user"}]')) is True

"""What a person sees, and how a signal ends it."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from importlib.machinery import ModuleSpec

import anyio
import anyio.lowlevel
import pytest

pytest.importorskip("cyclopts")

from anybatch import cli
from anybatch.cli._progress import Counts, Screen
from anybatch.cli._stopping import Stop

pytestmark = pytest.mark.anyio


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_elsewhere_than_on_a_terminal_counts_are_lines_every_few_seconds_if_they_change() -> (
    None
):
    file = io.StringIO()
    counts = iter([Counts(2, 0, 0, 0), Counts(2, 0, 0, 0), Counts(0, 1_000, 1, 0, 1_001)])
    with anyio.move_on_after(16):
        await Screen(file).watch(lambda: next(counts))
    assert file.getvalue().splitlines() == [
        "queued 2, in batches 0, done 0, failed 0",
        "queued 0, in batches 1,000, done 1, failed 0, of 1,001",
    ]


async def test_on_a_terminal_a_bar_shows_the_last_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    file = Terminal()
    screen = Screen(file)
    counts = Counts(5, 0, 0, 0)
    with anyio.move_on_after(1):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(screen.watch, lambda: counts)
            await anyio.sleep(0.9)
            counts = Counts(0, 0, 4, 1, 5)
            tasks.cancel_scope.cancel()
    assert "queued 5, in batches 0, done 0, failed 0" in file.getvalue()
    assert "queued 0, in batches 0, done 4, failed 1, of 5" in file.getvalue()


def test_a_log_record_has_its_level_and_its_brackets() -> None:
    logger = logging.getLogger("anybatch")
    before = logger.level, logger.propagate, logger.handlers[:]
    file = io.StringIO()
    try:
        Screen(file).take_logs(logging.WARNING)
        logger.warning("batch [%s] is slow", "bold")
        logger.info("nothing")
        assert file.getvalue() == "warning: batch [bold] is slow\n"
    finally:
        logger.setLevel(before[0])
        logger.propagate, logger.handlers[:] = before[1:]


@pytest.mark.real_time
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_cancels_what_runs_and_gives_the_status(number: int, status: int) -> None:
    stop, ended = Stop(), []

    async def main() -> int:
        try:
            os.kill(os.getpid(), number)
            await anyio.sleep_forever()
        finally:
            ended.append(True)
        raise AssertionError

    assert await stop.guard(main, anyio.sleep_forever) is None
    assert (stop.status, ended) == (status, [True])


async def test_without_a_signal_the_result_and_an_exception_come_out_as_they_are() -> None:
    error = ValueError("mine")

    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise error

    async def main() -> int:
        await anyio.lowlevel.checkpoint()
        return 3

    assert await Stop().guard(main, anyio.sleep_forever) == 3
    with pytest.raises(ValueError, match="mine") as caught:
        await Stop().guard(fail, anyio.sleep_forever)
    assert caught.value is error


def test_a_missing_extra_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == "rich" else ModuleSpec(name, None)

    monkeypatch.setattr(cli, "find_spec", find_spec)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == (
        "anybatch: the command line needs rich: pip install 'anybatch[cli]'"
    )


def test_the_script_exits_with_the_command_s_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["anybatch", "resolve", "x"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "--not-created" in capsys.readouterr().err

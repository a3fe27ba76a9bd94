"""What a person sees while a run goes on: on standard error, so that nothing is mixed up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

import anyio
import attrs
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

PLAIN_INTERVAL = 5.0
"""Seconds between two lines where there is no terminal."""
BAR_INTERVAL = 0.25
"""Seconds between two looks of the bar."""


@attrs.frozen
class Counts:
    """Where the lines are that were read so far; blank ones are none.

    Args:
        queued: accepted, in no batch yet.
        in_batches: in batches that have no end yet.
        done: answered, in OUTPUT.
        failed: errors, in OUTPUT.
        total: of all lines; None: INPUT has not been read to its end.
    """

    queued: int
    in_batches: int
    done: int
    failed: int
    total: int | None = None

    def __str__(self) -> str:
        text = (
            f"queued {self.queued:,}, in batches {self.in_batches:,}, "
            f"done {self.done:,}, failed {self.failed:,}"
        )
        return text if self.total is None else f"{text}, of {self.total:,}"


class Screen:
    """Standard error: sentences, log records, and on a terminal a bar below them.

    Args:
        file: elsewhere.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self.console = Console(file=file, stderr=file is None, highlight=False)

    def say(self, text: str) -> None:
        """Print a sentence, above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def take_logs(self, level: int) -> None:
        """Show the package's log records from this level on."""
        logger = logging.getLogger("anybatch")
        logger.setLevel(level)
        logger.propagate = False
        logger.handlers[:] = [_ScreenHandler(self)]

    async def watch(self, counts: Callable[[], Counts]) -> None:
        """Show the counts as they change, until cancelled."""
        if self.console.is_terminal:
            await self._bar(counts)
        else:
            await self._lines(counts)

    async def _bar(self, counts: Callable[[], Counts]) -> None:
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self.console, auto_refresh=False) as bar:
            task = bar.add_task("", total=None)
            try:
                while True:
                    _draw(bar, task, counts())
                    await anyio.sleep(BAR_INTERVAL)
            finally:
                _draw(bar, task, counts())

    async def _lines(self, counts: Callable[[], Counts]) -> None:
        shown = ""
        while True:
            await anyio.sleep(PLAIN_INTERVAL)
            if shown != (shown := str(counts())):
                self.say(shown)


def _draw(bar: Progress, task: TaskID, counts: Counts) -> None:
    ended = counts.done + counts.failed
    with suppress(BrokenPipeError):  # a terminal that was closed ends no run
        bar.update(task, description=str(counts), completed=ended, total=counts.total)
        bar.refresh()


class _ScreenHandler(logging.Handler):
    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._screen.say(f"{record.levelname.lower()}: {record.getMessage()}")
        except Exception:  # noqa: BLE001 - as every logging handler does
            self.handleError(record)

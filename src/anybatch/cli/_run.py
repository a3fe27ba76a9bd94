"""`anybatch run`: from the lines of INPUT to the rows of OUTPUT, in as many lives as it takes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import attrs

from .._dispatcher import BatchDispatcher
from .._exceptions import RequestRejected
from .._handler import BatchHandler
from .._models import RawRequest
from .._threads import run_sync
from ._archive import Archive
from ._batches import HOW_TO_DECIDE
from ._errors import ANSWERED, UNANSWERED, UsageError
from ._input import Source
from ._ledger import Ledger
from ._output import Output
from ._place import Place
from ._progress import Counts, Screen
from ._recipe import Line, Recipe, guess_format
from ._state import RunDirectory
from ._stopping import Stop
from ._stores import settle_creates, store_in

LOOK = 1.0
"""Seconds between two looks for batches that are held: a handler signals those to receipts only."""


@attrs.frozen
class Settings:
    """What the command line says.

    Args:
        input: a file; None: standard input.
        output: OUTPUT.
        place: whose batches.
        recipe: how requests are made of lines, but for the id of the run.
        guess: whether the recipe's format is a guess, to be looked at with the first line.
        queue_threshold: requests that make a batch.
        size_threshold: bytes that make a batch.
        time_threshold: seconds after which the oldest request makes a batch.
        settle: seconds after which a batch that the provider does not show was not created.
    """

    input: Path | None
    output: Path
    place: Place
    recipe: Recipe
    guess: bool = True
    queue_threshold: int | None = None
    size_threshold: int | None = None
    time_threshold: float | None = None
    settle: float | None = None


class Run:
    """One life of a run: `live` it, once.

    Args:
        settings: what is wanted.
        directory: the run's memory.
        output: where rows go.
        screen: where a person looks.
    """

    def __init__(
        self, settings: Settings, directory: RunDirectory, output: Output, screen: Screen
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._screen = screen
        self._recipe = attrs.evolve(settings.recipe, run_id=directory.run_id)
        self._guess = settings.guess
        self._store = store_in(directory.path)
        self._ledger = Ledger(self._recipe, output)
        self._archive = Archive(self._store, self._ledger)
        self._dispatcher: BatchDispatcher[Any, Any] | None = None
        self._read = 0  # lines that are not blank
        self._ended = False

    def counts(self) -> Counts:
        """Where the lines are now."""
        queued = 0
        if self._dispatcher is not None:
            statistics = self._dispatcher.statistics()
            queued = statistics.requests_queued + statistics.requests_leased
        output = self._ledger.output
        return Counts(
            queued=queued,
            in_batches=max(0, len(self._ledger.open) - queued),
            done=len(output) - output.failed,
            failed=output.failed,
            total=self._read if self._ended else None,
        )

    async def live(self) -> int:
        """Send what was not sent, wait for what was, and say how it ended.

        Returns:
            `ANSWERED` or `UNANSWERED`.

        Raises:
            UsageError: before anything is sent, if the input was changed.
        """
        async with Source(self._settings.input) as source:
            unsent = await self._verify(source)
            async with self._handler() as handler:
                await self._archive.find_known()
                await self._dispatch(handler, unsent, source)
                await self._wait(handler)
        return self._report()

    # Reading

    async def _verify(self, source: Source) -> list[Line]:
        """Compare the lines that were read in an earlier life; returns those without a row."""
        unsent: list[Line] = []
        last, known = 0, self._directory.lines.count
        while last < known:
            lines = await self._next_lines(source)
            if lines is None:
                raise UsageError(
                    f"line {last + 1} of the input is not there any more; restore it, or name "
                    "another file with -o"
                )
            for line in lines:
                self._directory.lines.check(line)
                last = line.number
            unsent += [line for line in lines if self._ledger.wanted(line.number)]
        return unsent

    async def _next_lines(self, source: Source) -> list[Line] | None:
        raw = await source.read()
        if raw is None:
            self._ended = True
            return None
        lines = [self._make(number, text) for number, text in raw]
        self._read += sum(not line.blank for line in lines)
        return lines

    def _make(self, number: int, text: bytes) -> Line:
        if self._guess and text.strip():
            self._guess = False
            guess = guess_format(self._settings.input, text)
            self._recipe = attrs.evolve(self._recipe, format=guess)
        line = self._recipe.line(number, text)
        if line.custom_id is not None:
            self._ledger.name(number, line.custom_id)
        return line

    # Sending

    @asynccontextmanager
    async def _handler(self) -> AsyncGenerator[BatchHandler]:
        settle = self._settings.settle
        options: dict[str, Any] = {} if settle is None else {"settle": settle}
        async with self._settings.place.open(self._directory.path) as place:
            if place.find is not None:
                await run_sync(settle_creates, self._store, place.find)
            async with BatchHandler(
                self._ledger.collect,
                place.provider,
                batch_storage=self._store,
                wait_time=place.wait_time,
                **options,
            ) as handler:
                yield handler

    async def _dispatch(self, handler: BatchHandler, unsent: list[Line], source: Source) -> None:
        settings = self._settings
        async with BatchDispatcher(
            handler,
            queue_threshold=settings.queue_threshold,
            time_threshold=settings.time_threshold,
            requests_type="full",
            size_threshold=settings.size_threshold,
        ) as dispatcher:
            self._dispatcher = dispatcher
            await self._send(dispatcher, unsent)
            while (lines := await self._next_lines(source)) is not None:
                await self._send(dispatcher, lines)
            # Leaving has a time limit; this has none.
            await dispatcher.flush()

    async def _send(self, dispatcher: BatchDispatcher[Any, Any], lines: list[Line]) -> None:
        await run_sync(self._directory.lines.append, lines)
        for line in lines:
            if not self._ledger.wanted(line.number):
                continue
            if line.error is not None:
                self._ledger.invalid(line.number, line.error)
            elif line.request is not None:
                await self._submit(dispatcher, line.number, line.request)
        await self._ledger.write_failures()

    async def _submit(
        self, dispatcher: BatchDispatcher[Any, Any], number: int, request: bytes
    ) -> None:
        try:
            receipt = await dispatcher.submit(RawRequest(request))
        except RequestRejected as error:
            self._ledger.invalid(number, str(error))
        else:
            self._ledger.sent(number, receipt)

    # Waiting

    async def _wait(self, handler: BatchHandler) -> None:
        """Return when every line has its row, or cannot get one in this life."""
        ledger, archive = self._ledger, self._archive
        while True:
            await ledger.write_failures()
            await archive.look_for_held(handler.statistics().held)
            if ledger.open <= archive.held_lines | ledger.abandoned.keys():
                return
            with anyio.move_on_after(LOOK):
                await ledger.wait_changed()

    # Ending

    def _report(self) -> int:
        ledger, output, say = self._ledger, self._settings.output, self._screen.say
        say(str(self.counts()))
        for batch_id in self._archive.held:
            say(f"held: {batch_id}")
        if self._archive.held:
            say(f"{HOW_TO_DECIDE}. Here DIRECTORY is {self._directory.path}; then run again.")
        others = (ledger.abandoned.keys() & ledger.open) - self._archive.held_lines
        for message in sorted({ledger.abandoned[number] for number in others})[:3]:
            say(f"lines have no end yet: {message}")
        if ledger.lost:
            say(
                f"{len(ledger.lost):,} lines were answered, and {output} has their rows no more; "
                "to buy them again, begin anew with another file"
            )
        if ledger.output.failed:
            say(f"{ledger.output.failed:,} lines have an error in {output}")
        return UNANSWERED if ledger.open or ledger.lost or ledger.output.failed else ANSWERED


async def run_lines(settings: Settings, screen: Screen) -> int:
    """Live a run once, under signals and with its counts shown; returns the exit status.

    Raises:
        UsageError: nothing was done.
    """
    place = settings.place
    with (
        closing(RunDirectory(settings.output, place.name, place.base_url)) as directory,
        closing(Output(settings.output)) as output,
    ):
        run = Run(settings, directory, output, screen)
        stop = Stop()
        status = await stop.guard(run.live, partial(screen.watch, run.counts))
        if status is not None:
            return status
        screen.say(f"stopped: {run.counts()}. Run the same command again to go on.")
        return stop.status

"""Which lines are where: not sent, sent, ended, and what keeps one from its end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from .._batch_collect import read_outcomes
from .._batch_rows import FinishedBatch
from .._exceptions import ReceiptError, RequestFailed
from .._receipts import Receipt
from .._threads import run_sync
from ._output import Output, Row
from ._recipe import Recipe


class Ledger:
    """The lines of one run, by number; OUTPUT is the part of it that is on disk.

    Args:
        recipe: tells lines by their custom ids.
        output: has the lines that have their end.

    Attributes:
        open: lines in the queue or in a batch, sent in this life or an earlier one.
        lost: lines that were answered, and whose rows nobody has.
        abandoned: lines whose end this life will not see, and why.
    """

    def __init__(self, recipe: Recipe, output: Output) -> None:
        self.output = output
        self.open: set[int] = set()
        self.lost: set[int] = set()
        self.abandoned: dict[int, str] = {}
        self._recipe = recipe
        self._names: dict[int, str] = {}  # the users' own custom ids
        # Leaving a handler waits for the receipts that somebody holds; here they are held.
        self._receipts: dict[int, Receipt[Any]] = {}
        self._failures: list[Row] = []
        self._changed = anyio.Event()

    def wanted(self, number: int) -> bool:
        """Whether the line is still to be sent."""
        return number not in self.output and number not in self.open and number not in self.lost

    def name(self, number: int, custom_id: str) -> None:
        """OUTPUT shall call the line's request so."""
        if number not in self.output:
            self._names[number] = custom_id

    def line_of(self, custom_id: str) -> int | None:
        """The line of a request, unless it has its row, or is none of this run."""
        number = self._recipe.number(custom_id)
        return None if number is None or number in self.output else number

    def sent(self, number: int, receipt: Receipt[Any]) -> None:
        """The line's request is in the queue; its receipt is held until it is settled."""
        self.open.add(number)
        self._receipts[number] = receipt
        receipt.subscribe(partial(self._settled, number))

    def invalid(self, number: int, message: str) -> None:
        """The line cannot be sent."""
        self._failures.append(Row.invalid(number, message))

    def _settled(self, number: int, receipt: Receipt[Any]) -> None:
        # An answer is written by `collect`, from rows that are safe; here it is let go of.
        self._receipts.pop(number, None)
        try:
            receipt.outcome()
        except RequestFailed as error:
            self._failures.append(Row.of(number, self._name(number), error))
        except ReceiptError as error:
            self.abandoned[number] = error.message
        self._changed.set()

    async def collect(self, batch: FinishedBatch) -> None:
        """Write a batch's rows, whichever life sent it: the handler's `batch_process_func`."""
        await self.write_ends(batch.rows_path)

    async def write_ends(self, path: Path) -> None:
        """Write what OUTPUT does not have yet of a file of a provider's rows."""
        ends, offset = await run_sync(read_outcomes, path, 0)
        while ends:
            found = [(self.line_of(end.custom_id or ""), end) for end in ends]
            await self._write([Row.of(n, self._name(n), end) for n, end in found if n is not None])
            ends, offset = await run_sync(read_outcomes, path, offset)

    async def write_failures(self) -> None:
        """Write the rows of lines that failed without a batch's telling so."""
        rows, self._failures = self._failures, []
        await self._write(rows)

    async def _write(self, rows: Sequence[Row]) -> None:
        await self.output.write(rows)
        for row in rows:
            self.open.discard(row.line)
            self._names.pop(row.line, None)
        self._changed.set()

    def _name(self, number: int) -> str:
        return self._names.get(number) or self._recipe.custom_id(number)

    async def wait_changed(self) -> None:
        """Return when a line has changed its place since the last time."""
        await self._changed.wait()
        self._changed = anyio.Event()

"""What earlier lives of a run have handed over, and what is held: the run's store, by lines."""

from __future__ import annotations

from .._batch_states import Record, State
from .._threads import run_sync
from ..batch_stores import SQLiteBatchStore
from ._ledger import Ledger
from ._stores import custom_ids, records


class Archive:
    """Reads a run's store into its ledger.

    Args:
        store: the run's.
        ledger: learns which lines are in it.

    Attributes:
        held: ids of batches of which nobody knows whether they were bought.
        held_lines: the lines without an end that are in them.
    """

    def __init__(self, store: SQLiteBatchStore, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger
        self.held: tuple[str, ...] = ()
        self.held_lines: frozenset[int] = frozenset()

    async def find_known(self) -> None:
        """Note the lines that were handed over: they are waited for, and not sent again."""
        for record in await run_sync(records, self._store):
            if record.state is State.DONE:
                await self._recover(record)
            else:
                self._ledger.open |= await self._lines_of(record)

    async def _recover(self, record: Record) -> None:
        """OUTPUT has the rows of a batch that is done, unless somebody has cut it short."""
        if not await self._lines_of(record):
            return
        rows = self._store.files.rows(record.key)
        if await run_sync(rows.is_file):
            await self._ledger.write_ends(rows)
        self._ledger.lost |= await self._lines_of(record)

    async def look_for_held(self, held: tuple[str, ...]) -> None:
        """Find the lines of the batches that are held now."""
        if held == self.held:
            return
        lines: set[int] = set()
        for record in await run_sync(records, self._store):
            if record.id in held:
                lines |= await self._lines_of(record)
        self.held, self.held_lines = held, frozenset(lines)

    async def _lines_of(self, record: Record) -> set[int]:
        """The lines in a batch that have no row."""
        ids = await run_sync(lambda: list(custom_ids(self._store, record)))
        lines = (self._ledger.line_of(custom_id) for custom_id in ids)
        return {line for line in lines if line is not None}

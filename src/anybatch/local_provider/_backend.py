"""The provider behind its HTTP interface: it owns the tasks that drive batches."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from math import ceil
from secrets import token_hex

from anyio import AsyncContextManagerMixin, current_time
from anyio.abc import TaskGroup

from ._context import Context, background_tasks
from ._life import BatchLife
from .errors import ApiError
from .records import TERMINAL, BatchRecord


class Backend(AsyncContextManagerMixin):
    """Batches and the tasks that drive them; an async context manager, which owns these.

    Entering takes up what an earlier life left unfinished. Leaving stops where it is.

    Args:
        context: settings and state.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._group: TaskGroup | None = None
        self._lives: dict[str, BatchLife] = {}
        self._born: dict[str, float] = {}

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Backend]:
        await self.context.store.open()
        try:
            async with background_tasks() as self._group:
                for record in self.context.store.batches.values():
                    if record.status not in TERMINAL:
                        self._begin(record.id)
                yield self
        finally:
            self.context.store.close()

    def _begin(self, batch_id: str) -> None:
        assert self._group is not None, "the local provider is used before it was entered"
        self._lives[batch_id] = life = BatchLife(self.context, batch_id)
        self._group.start_soon(self._live, life, name=f"batch {batch_id}")

    async def _live(self, life: BatchLife) -> None:
        await life.run()
        del self._lives[life.batch_id]

    async def create(
        self,
        endpoint: str,
        input_file_id: str,
        metadata: dict[str, str] | None,
        output_expires_after: int | None,
    ) -> BatchRecord:
        """Take in a batch and begin its life; returns when it is safe on disk."""
        store, now = self.context.store, int(time.time())
        batch_id = f"batch_{token_hex(16)}"

        def make(number: int) -> BatchRecord:
            return BatchRecord(
                id=batch_id,
                number=number,
                endpoint=endpoint,
                input_file_id=input_file_id,
                created_at=now,
                expires_at=now + ceil(self.context.window),
                metadata=metadata,
                output_expires_after=output_expires_after,
                fault=self.context.faults.for_batch(number),
            )

        store.keep_input(batch_id, input_file_id)
        record = await store.add_batch(make)
        if record.fault.hidden_for or record.fault.unlisted_for:
            self._born[batch_id] = current_time()
        self._begin(batch_id)
        return record

    async def cancel(self, batch_id: str) -> BatchRecord:
        """Ask a batch to stop; again while it is stopping: nothing more happens.

        Raises:
            ApiError: if there is no such batch, or it has ended.
        """
        self.get(batch_id)
        record = await self.context.store.change(batch_id, _cancelling)
        self._lives[batch_id].wake()  # it cannot end between that change and this line
        return record

    def get(self, batch_id: str) -> BatchRecord:
        """Return a batch.

        Raises:
            ApiError: if there is none, or a fault hides it still.
        """
        record = self.context.store.batches.get(batch_id)
        if record is None or self._age(batch_id) < record.fault.hidden_for:
            raise ApiError(404, f"No batch found with id '{batch_id}'.")
        return record

    def listed(self) -> list[BatchRecord]:
        """Return the batches that lists show, oldest first."""
        records = self.context.store.batches.values()
        return [r for r in records if self._age(r.id) >= r.fault.unlisted_for]

    def _age(self, batch_id: str) -> float:
        """Return how many seconds ago a batch was created that a fault hides; others are old."""
        born = self._born.get(batch_id)
        return float("inf") if born is None else current_time() - born


def _cancelling(record: BatchRecord) -> BatchRecord:
    if record.status in TERMINAL:
        message = f"Cannot cancel a batch with status '{record.status}'."
        raise ApiError(409, message)
    return record if record.status == "cancelling" else record.moved("cancelling")

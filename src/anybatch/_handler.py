"""The batch handler: takes batches, has them answered, brings the answers back."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Literal

import orjson

from ._batch_collect import closing, drafted, read_outcomes
from ._batch_rows import outcome_of
from ._batch_states import SAFE, Event, Record, State
from ._exceptions import RequestAbandoned, RequestFailed, UnknownBatch
from ._handler_entering import EnteredHandler
from ._handler_settings import HandlerSettings
from ._models import Accepted, Answer, Part
from ._threads import run_sync
from .abc import BatchQueueLike, BatchStorageLike
from .batch_stores.files import Draft, is_own_id, key_of
from .batch_stores.sqlite import SQLiteBatchStore


class BatchHandler(EnteredHandler):
    """Drives batches at a provider, from accepted to answered; survives a restart on its store.

    `async with handler:` or `handler.run()`; a dispatcher enters one that nobody has. It is used
    once. Left normally it waits until the receipts that somebody still holds are settled and the
    functions of batches whose results are in have been called; left by an error or by
    cancellation it stops looking, the batches go on at the provider, and the next handler on the
    same store takes them up.

    Args:
        batch_process_func: called with each finished batch, in a thread or awaited; at least once,
            again with back-off if it raises.
        batch_type: a provider of ours (an instance), or a langbatch `Batch` class. Required.
        batch_queue: a langbatch `BatchQueue`: read on entering, kept as the list of live ids.
        batch_storage: a `SQLiteBatchStore`, or a langbatch `BatchStorage` for the bytes alone:
            then delivery is at least once.
        wait_time: the longest pause between two looks at a batch, in seconds.
        batch_kwargs: for a langbatch class.
        name: of the store in `<home>/handlers/`; letters, digits, `.`, `_`, `-`; `"default"`.
        max_active_batches: live batches at a time; None: no limit.
        max_enqueued_tokens: tokens of batches without results, estimated from their bytes.
        max_stored_bytes: bytes of batch files.
        max_batch_age: seconds after its purchase at which a batch is cancelled.
        settle: seconds after which a purchase that cannot be found is believed not made.
        lease_time: seconds that a dead life's lease on its batches lasts.
        results_retention: seconds that rows are kept.
        on_exit: `"wait"`, or `"leave"`: leaving waits for nothing.
        on_uncertain: `"hold"`: a person decides; `"resubmit"`: it is bought again, perhaps twice.

    Raises:
        TypeError, ValueError: an argument that cannot be.
    """

    def __init__(  # noqa: PLR0917 - langbatch's names and order
        self,
        batch_process_func: Callable[[Any], Any] | None = None,
        batch_type: Any = None,
        batch_queue: BatchQueueLike | None = None,
        batch_storage: SQLiteBatchStore | BatchStorageLike | None = None,
        wait_time: float = 60,
        batch_kwargs: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        max_active_batches: int | None = None,
        max_enqueued_tokens: int | None = None,
        max_stored_bytes: int | None = None,
        max_batch_age: float | None = None,
        settle: float = 600,
        lease_time: float = 60,
        results_retention: float = 30 * 86_400,
        on_exit: Literal["wait", "leave"] = "wait",
        on_uncertain: Literal["hold", "resubmit"] = "hold",
    ) -> None:
        if batch_type is None:
            raise TypeError(
                "batch_type is required: batch_type=anybatch.providers.OpenAI(), or a langbatch "
                "Batch class"
            )
        settings = HandlerSettings(
            batch_process_func,
            batch_queue,
            batch_storage,
            wait_time,
            name,
            max_active_batches,
            max_enqueued_tokens,
            max_stored_bytes,
            max_batch_age,
            settle,
            lease_time,
            results_retention,
            on_exit,
            on_uncertain,
        )
        settings.check()
        # Here, so that importing the package imports no provider.
        from .providers import as_provider

        super().__init__(settings, as_provider(batch_type, batch_kwargs))
        self.batch_type = batch_type
        self.batch_kwargs = batch_kwargs

    # Ways in.

    async def accept(self, part: Part) -> Accepted:
        """Take a batch from our dispatcher: its bytes, then its record; durable when it returns.

        Nothing that exists is overwritten, so it can be called again. Cancelled before the record
        is written, nothing was accepted; a record that is on its way is waited for.

        Raises:
            RuntimeError, ClosedResourceError: the handler is not entered.
            ValueError: the id is not of our form.
            OSError, sqlite3.OperationalError: the disk refuses it; nothing was accepted.
        """
        lives, store = self._entered(), self._storage()
        if not is_own_id(part.id):
            raise ValueError(f"part id {part.id!r} must be 1 to 63 of [a-z0-9-]")
        async with drafted(store.bytes) as draft:
            await _fill(draft, part)
            await run_sync(store.bytes.keep, part.id, draft)
            record = self._record_of(part, draft.size)
        answer = await lives.enter(record, part.members, part.receipts)
        if answer in {Accepted.VOID, Accepted.OVERLAP}:
            await run_sync(store.bytes.discard, part.id)
        return answer

    def _record_of(self, part: Part, size: int) -> Record:
        return Record(
            id=part.id,
            key=key_of(part.id),
            queue=part.queue,
            interval=part.interval,
            endpoint=part.endpoint,
            count=part.count,
            size=size,
            profile=self._provider.profile,
            time=time.time(),
        )

    async def add_batch(self, batch_id: str) -> None:
        """Take a batch whose bytes the storage holds: before, during or after entering.

        It only records, is idempotent, and durable when it returns.

        Raises:
            UnknownBatch: the storage has no bytes for it.
            StorageDamaged: the bytes are no batch file.
        """
        if self._phase == "entering" and self._ready is not None:
            # Not while the records are read: this one might be read, or not.
            await self._ready.wait()
        record, new = await run_sync(self._storage().add, batch_id, self._provider.profile)
        if record is not None and self._lives is not None and self._phase == "open":
            self._lives.adopt(record, new=new)

    # For people.

    async def cancel_batch(self, batch_id: str) -> None:
        """Cancel a batch at the provider; what was finished is delivered, and billed.

        Returns when the provider has been asked, or the batch has ended without it.

        Raises:
            UnknownBatch: it is not alive here.
            ValueError: it is held.
        """
        life = self._entered().lives.get(batch_id)
        if life is None:
            if (await self._known(batch_id)).state is State.HELD:
                raise ValueError(f"batch {batch_id!r} is held: decide it by resolve() first")
        else:
            life.cancel()
            await life.cancel_noted.wait()

    async def resolve(
        self, batch_id: str, *, platform_id: str | None = None, not_created: bool = False
    ) -> None:
        """Decide about a held batch; durable when it returns.

        Args:
            batch_id: the batch's id.
            platform_id: it was bought, and this is the provider's id for it.
            not_created: it was not bought: the next attempt buys it.

        Raises:
            ValueError: it is not held, or not exactly one of the two is given.
            UnknownBatch: nobody knows it.
        """
        if (platform_id is None) is not not_created:
            raise ValueError("give resolve() either platform_id=... or not_created=True")
        lives, store = self._entered(), self._storage()
        record = await self._known(batch_id)
        if record.state is not State.HELD:
            raise ValueError(f"batch {batch_id!r} is not held but {record.state.value}")
        event = Event.AGAIN if platform_id is None else Event.CREATED
        detail = {"platform_id": platform_id} if platform_id is not None else {}
        try:
            after = await run_sync(store.records.append, record, event, detail)
        except sqlite3.IntegrityError as error:
            raise ValueError(f"batch {batch_id!r} was decided by somebody else") from error
        lives.move(record, after)

    async def results(self, batch_id: str) -> AsyncIterator[Answer | RequestFailed]:
        """The outcomes of a batch's requests, streamed from disk; waits for one that is alive.

        Raises:
            UnknownBatch: nobody knows it, or its rows are not kept any more.
            RequestAbandoned: it is held.
            RuntimeError: it has no results yet, and the handler is not entered.
        """
        record = await self._with_rows(batch_id)
        path, offset = self._storage().records.files.rows(record.key), 0
        while True:
            try:
                outcomes, after = await run_sync(read_outcomes, path, offset)
            except FileNotFoundError as error:
                raise UnknownBatch(f"the rows of batch {batch_id!r} are not kept") from error
            if after == offset:
                return
            offset = after
            for outcome in outcomes:
                yield outcome

    async def _with_rows(self, batch_id: str) -> Record:
        while True:
            rings = self._lives.bell.rings if self._lives is not None else 0
            record = await self._known(batch_id)
            if record.state in SAFE:
                return record
            if record.state is State.HELD:
                raise RequestAbandoned(f"batch {batch_id} is held: decide it by resolve()")
            if record.profile != self._provider.profile:
                raise RuntimeError(
                    f"batch {batch_id!r} has no results yet, and it is {record.profile!r}'s, which "
                    "this handler does not drive"
                )
            await self._entered().wait_rows(batch_id, rings)

    async def lookup(self, custom_id: str) -> Answer | RequestFailed | None:
        """The newest outcome of a request, from the rows on disk; None where there is none."""
        row = await run_sync(self._storage().records.lookup, custom_id)
        return None if row is None else outcome_of(orjson.loads(row))

    async def _known(self, batch_id: str) -> Record:
        record = await run_sync(self._storage().records.record, batch_id)
        if record is None or record.state is State.VOID:
            raise UnknownBatch(f"there is no batch {batch_id!r} in the store of {self!r}")
        return record


async def _fill(draft: Draft, part: Part) -> None:
    async with closing(part.lines()) as chunks:
        async for lines in chunks:
            await run_sync(draft.write, lines)

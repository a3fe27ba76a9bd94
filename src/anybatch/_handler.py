"""The batch handler: takes batches, has them answered, brings the answers back."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal, Self

import anyio
import orjson
from anyio import AsyncContextManagerMixin, ClosedResourceError
from anyio.abc import TaskGroup, TaskStatus

from ._batch_collect import closing, drafted, read_outcomes
from ._batch_life import Creates, Surroundings
from ._batch_lives import BatchLives, Bounds
from ._batch_rows import outcome_of
from ._batch_states import SAFE, Event, Record, State
from ._exceptions import HandlerCrashed, RequestAbandoned, RequestFailed, UnknownBatch
from ._handler_settings import HandlerSettings, checked_name, home
from ._handler_store import HandlerStore
from ._models import Accepted, Answer, HandlerStatistics, Part
from ._receipts import ReceiptBook
from ._threads import run_sync
from .abc import BatchQueueLike, BatchStorageLike, Provider
from .batch_stores.files import Draft, is_own_id, key_of
from .batch_stores.langbatch import LiveList, StorageBytes
from .batch_stores.sqlite import SQLiteBatchStore

logger = logging.getLogger(__name__)

CREATE_GRACE = 120.0
"""Seconds that leaving waits for a create on the wire."""


class BatchHandler(AsyncContextManagerMixin):
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
        on_uncertain: `"hold"`: a person decides.

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
        self._settings = HandlerSettings(
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
        self._settings.check()
        # Here, so that importing the package imports no provider.
        from .providers import as_provider

        self._provider: Provider = as_provider(batch_type, batch_kwargs)
        self.batch_type = batch_type
        self.batch_kwargs = batch_kwargs
        self._home = home()
        self._name = name
        self._phase: Literal["new", "entering", "open", "left"] = "new"
        self._owner: object | None = None
        self._ready: anyio.Event | None = None
        self._store: HandlerStore | None = None
        self._uid: str | None = None
        self._book = ReceiptBook()
        self._creates = Creates()
        self._lives: BatchLives | None = None

    def __repr__(self) -> str:
        return f"<BatchHandler {self.name!r} {self._phase}>"

    # What it is.

    @property
    def name(self) -> str:
        """The name of its store in the home."""
        return self._name or "default"

    def name_default(self, name: str) -> None:
        """Name it, if it was constructed without `name=` and has not been entered.

        Raises:
            ValueError: it cannot be a name.
        """
        if self._name is None and self._phase == "new" and self._store is None:
            self._name = checked_name(name)

    @property
    def provider(self) -> Provider:
        """Who answers."""
        return self._provider

    @property
    def entered(self) -> bool:
        """Whether it is entered now."""
        return self._phase in {"entering", "open"}

    @property
    def store_id(self) -> str:
        """The uid of its store.

        Raises:
            RuntimeError: it has not been entered yet.
        """
        if self._uid is None:
            raise RuntimeError("the store's id is known once the handler has been entered")
        return self._uid

    @property
    def queues(self) -> dict[str, list[str]]:
        """Live batch ids in langbatch's form: `pending` and `processing`."""
        return self._lives.queues if self._lives else {"pending": [], "processing": []}

    @property
    def live_batches(self) -> int:
        """Batches that are neither done nor held."""
        return self._lives.live if self._lives else 0

    def room(self) -> int | None:
        """How many more batches it takes now; None: no limit."""
        return self._entered().room()

    async def wait_room(self) -> None:
        """Return when `room()` is above 0, or unlimited."""
        await self._entered().wait_room()

    def statistics(self) -> HandlerStatistics:
        """Batches by state, held ones by id; empty before it has been entered."""
        return self._lives.statistics() if self._lives else HandlerStatistics(batches={})

    # Entering and leaving.

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._phase != "new":
            raise RuntimeError("a handler is entered once; construct another on the same store")
        self._phase = "entering"
        self._ready = anyio.Event()
        try:
            async with AsyncExitStack() as stack:
                store = await self._open(stack)
                async with self._living(store):
                    yield self
        finally:
            self._phase = "left"
            self._ready.set()

    async def _open(self, stack: AsyncExitStack) -> HandlerStore:
        store = self._storage()
        stack.push_async_callback(_close, store, self._creates)
        self._uid = await run_sync(store.open)
        await stack.enter_async_context(self._provider)
        return store

    @asynccontextmanager
    async def _living(self, store: HandlerStore) -> AsyncGenerator[None]:
        body: BaseException | None = None
        try:
            async with anyio.create_task_group() as group:
                self._lives = await self._take_up(store, group)
                self._open_doors()
                try:
                    yield
                except (anyio.get_cancelled_exc_class(), GeneratorExit):
                    raise
                except BaseException as error:  # noqa: BLE001 - raised bare, after the group
                    body = error
                else:
                    await self._settled()
                group.cancel_scope.cancel()
        except BaseExceptionGroup as crash:
            raise _crashed(crash, body)  # noqa: B904 - its cause is set
        finally:
            self._abandon()
        await self._save_list(store)
        if body is not None:
            raise body

    async def _take_up(self, store: HandlerStore, group: TaskGroup) -> BatchLives:
        profile = self._provider.profile
        records, figures, strangers = await run_sync(store.take_up, profile)
        if strangers:
            logger.warning(
                "%d batches in %s belong to another batch type than %s and stay as they are; give "
                "each program a name= of its own",
                strangers,
                store.records.path,
                profile,
            )
        bounds = Bounds(
            self._settings.max_active_batches,
            self._settings.max_enqueued_tokens,
            self._settings.max_stored_bytes,
            self._settings.results_retention,
        )
        around = self._surroundings(store)
        lives = BatchLives(group, around, bounds, figures, store.listed)
        for record in records:
            lives.start(record)
        await lives.purge()
        return lives

    def _surroundings(self, store: HandlerStore) -> Surroundings:
        return Surroundings(
            store=store.records,
            bytes=store.bytes,
            provider=self._provider,
            book=self._book,
            function=self._settings.batch_process_func,
            wait_time=self._settings.wait_time,
            max_batch_age=self._settings.max_batch_age,
            creates=self._creates,
            moved=_unheard,
        )

    def _open_doors(self) -> None:
        assert self._ready is not None
        self._phase = "open"
        self._ready.set()

    async def _settled(self) -> None:
        if self._settings.on_exit == "wait":
            await self._entered().wait_settled()

    def _abandon(self) -> None:
        """Synchronous, so that nothing comes between: who waits learns that we stopped looking."""
        self._phase = "left"
        for batch_id in self._book.batches():
            for receipt in self._book.open_receipts(batch_id):
                receipt.abandon(
                    f"the handler was left before batch {batch_id} was answered; its requests go "
                    "on at the provider, and a handler on the same store takes them up"
                )
            self._book.close_page(batch_id)

    async def _save_list(self, store: HandlerStore) -> None:
        if store.listed is None or self._lives is None:
            return
        with anyio.move_on_after(5, shield=True):
            await self._lives.save_list(store.listed)

    async def run(self, *, task_status: TaskStatus[Any] = anyio.TASK_STATUS_IGNORED) -> None:
        """Enter, run until cancelled, leave; where a dispatcher has entered it, just wait.

        Raises:
            RuntimeError: it was entered before.
            StoreInUse: another handler has entered its store.
        """
        if self._owner is not None and self.entered:
            await self._wait_ready()
            task_status.started(self)
            await anyio.sleep_forever()
        async with self:
            task_status.started(self)
            await anyio.sleep_forever()

    @asynccontextmanager
    async def entered_for(self, dispatcher: object) -> AsyncGenerator[Self]:
        """Enter it for a dispatcher, unless a user has; leave what was entered here.

        Raises:
            RuntimeError: another dispatcher entered it, or it has been used.
        """
        if self.entered and self._owner is None:
            await self._wait_ready()
            yield self
            return
        if self._owner is not None and self._owner is not dispatcher:
            raise RuntimeError(
                "another dispatcher has entered this handler; enter the handler yourself, around "
                "both: async with handler: ..."
            )
        self._owner = dispatcher
        async with self:
            yield self

    async def _wait_ready(self) -> None:
        assert self._ready is not None
        await self._ready.wait()
        if self._phase != "open":
            raise RuntimeError("the handler could not be entered; see the error of that task")

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
            record = await self._known(batch_id)
            if record.state is State.HELD:
                raise ValueError(f"batch {batch_id!r} is held: decide it by resolve() first")
            return
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
        lives.move(record, await run_sync(store.records.append, record, event, detail))

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
        while (record := await self._known(batch_id)).state not in SAFE:
            if record.state is State.HELD:
                raise RequestAbandoned(f"batch {batch_id} is held: decide it by resolve()")
            lives = self._entered()
            life = lives.lives.get(batch_id)
            if life is not None and life.record.state not in SAFE:
                await lives.bell.wait()
        return record

    async def lookup(self, custom_id: str) -> Answer | RequestFailed | None:
        """The newest outcome of a request, from the rows on disk; None where there is none."""
        row = await run_sync(self._storage().records.lookup, custom_id)
        return None if row is None else outcome_of(orjson.loads(row))

    async def _known(self, batch_id: str) -> Record:
        record = await run_sync(self._storage().records.record, batch_id)
        if record is None or record.state is State.VOID:
            raise UnknownBatch(f"there is no batch {batch_id!r} in the store of {self!r}")
        return record

    def _entered(self) -> BatchLives:
        if self._phase == "left":
            raise ClosedResourceError
        if self._lives is None:
            raise RuntimeError("enter the handler first: async with handler: ...")
        return self._lives

    def _storage(self) -> HandlerStore:
        if self._store is None:
            self._store = self._make_store()
        return self._store

    def _make_store(self) -> HandlerStore:
        storage, queue = self._settings.batch_storage, self._settings.batch_queue
        if isinstance(storage, SQLiteBatchStore):
            return HandlerStore(storage, storage.files)
        records = SQLiteBatchStore(self._home / "handlers" / self.name / "store.db")
        kept = records.files if storage is None else StorageBytes(storage, records.files)
        return HandlerStore(records, kept, None if queue is None else LiveList(queue))


async def _fill(draft: Draft, part: Part) -> None:
    async with closing(part.lines()) as chunks:
        async for lines in chunks:
            await run_sync(draft.write, lines)


async def _close(store: HandlerStore, creates: Creates) -> None:
    """Wait for creates on the wire, so that their outcomes are recorded under the lock."""
    try:
        with anyio.move_on_after(CREATE_GRACE + 10, shield=True):
            await run_sync(creates.wait, CREATE_GRACE)
            await run_sync(store.close)
    finally:
        # A native cancellation breaks through any shield.
        store.close()


def _crashed(crash: BaseExceptionGroup[BaseException], body: BaseException | None) -> BaseException:
    """One error of ours for a task that raised; what is no `Exception` comes out as it is."""
    if not isinstance(crash, Exception):
        return crash
    raised: list[BaseException] = [*crash.exceptions, *([body] if body is not None else [])]
    error = HandlerCrashed(f"a task of the handler raised: {raised[0]!r}")
    error.__cause__ = BaseExceptionGroup(crash.message, raised)
    return error


def _unheard(before: Record, after: Record) -> None:
    """Nobody counts yet."""

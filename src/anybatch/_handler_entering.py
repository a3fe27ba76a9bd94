"""Entering and leaving a handler: its store, its task group, what becomes of its receipts."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal, Self

import anyio
from anyio import AsyncContextManagerMixin, ClosedResourceError
from anyio.abc import TaskGroup, TaskStatus

from ._batch_life import Surroundings
from ._batch_lives import BatchLives, Bounds
from ._batch_purchase import Creates
from ._batch_states import Record
from ._exceptions import HandlerCrashed
from ._handler_settings import HandlerSettings, checked_name, home
from ._handler_store import HandlerStore
from ._models import HandlerStatistics
from ._receipts import ReceiptBook
from ._threads import run_sync
from .abc import Provider
from .batch_stores.langbatch import LiveList, StorageBytes
from .batch_stores.sqlite import SQLiteBatchStore

logger = logging.getLogger(__name__)

CREATE_TIMEOUT = 120.0
"""Seconds that a create may take, where its provider does not say."""

CREATE_GRACE = 120.0
"""Seconds that leaving waits for a create on the wire."""


class EnteredHandler(AsyncContextManagerMixin):
    """What is common to all that a handler does: whether it is entered, and on what store."""

    def __init__(self, settings: HandlerSettings, provider: Provider) -> None:
        self._settings = settings
        self._provider = provider
        settings.warn(getattr(provider, "create_timeout", CREATE_TIMEOUT))
        self._home = home()
        self._name = settings.name
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
                self._lives.close()
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
            resubmit=self._settings.on_uncertain == "resubmit",
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
        if self._lives is not None:
            self._lives.close()
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

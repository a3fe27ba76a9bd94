"""One batch, from its record to its answers, as sequential code.

Each step begins in a state that is on the disk and ends by writing the next, so a batch can be
dropped between any two lines and taken up again where it was. What buys runs in one thread call
together with the records around it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio
import attrs

from ._backoff import Backoff
from ._batch_collect import download, merge, read_outcomes
from ._batch_deliver import call_user, settle
from ._batch_purchase import DISK_ERRORS, Bought, Creates, buy, words
from ._batch_rows import CANCELLED, FinishedBatch
from ._batch_states import ENDS, Event, Record, State, Verdict, remote_to_json, verdict
from ._exceptions import ProviderError, Refused
from ._models import RemoteBatch
from ._receipts import ReceiptBook
from ._threads import run_sync
from .abc import Provider
from .batch_stores.files import BatchBytes
from .batch_stores.sqlite import RowPlace, SQLiteBatchStore

logger = logging.getLogger(__name__)

T = TypeVar("T")


@attrs.frozen(eq=False)
class Surroundings:
    """What the lives of one entered handler share.

    Args:
        function: the user's, called with each finished batch; None: there is none.
        wait_time: the longest pause between two looks, in seconds.
        max_batch_age: seconds after its purchase at which a batch is cancelled; None: never.
        resubmit: whether a batch that may have been bought is bought again.
        moved: told of every change of a record, before and after.
    """

    store: SQLiteBatchStore
    bytes: BatchBytes
    provider: Provider
    book: ReceiptBook
    function: Callable[[Any], Any] | None
    wait_time: float
    max_batch_age: float | None
    creates: Creates
    resubmit: bool
    moved: Callable[[Record, Record], None]


@attrs.define(eq=False)
class BatchLife:
    """Drives one batch until it is done or held.

    Args:
        around: what it shares with the others.
        record: where to begin.
    """

    around: Surroundings
    record: Record
    called: bool = False
    cancel_asked: bool = False
    cancel_noted: anyio.Event = attrs.field(factory=anyio.Event)
    _wake: anyio.Event = attrs.field(factory=anyio.Event)
    _create_backoff: Backoff = attrs.field(factory=Backoff)

    async def run(self) -> None:
        """Go on from the record's state; returns when the batch is done, or held."""
        while (step := self._step()) is not None:
            await step()
        if self.record.state is State.HELD:
            self.say_held()
        self.cancel_noted.set()

    def _step(self) -> Callable[[], Awaitable[None]] | None:
        steps: dict[State, Callable[[], Awaitable[None]]] = {
            State.ACCEPTED: self._upload,
            State.UPLOADING: self._upload,
            State.UPLOADED: self._create,
            State.CREATING: self._find_intent,
            State.CREATED: self._watch,
            State.ENDED: self._collect,
            State.REFUSED: self._collect,
            State.COLLECTED: self._deliver,
        }
        if self.around.resubmit:
            steps[State.HELD] = self._resubmit
        return steps.get(self.record.state)

    def cancel(self) -> None:
        """Ask that the batch be cancelled; `cancel_noted` says when that has been done."""
        self.cancel_asked = True
        self._wake.set()

    # Before the purchase.

    async def _upload(self) -> None:
        await self._write(Event.UPLOAD)
        try:
            file_id = await self._insist("upload", self._send_file, bought=False)
        except ProviderError as error:
            await self._refuse(error)
        else:
            await self._write(Event.UPLOADED, {"file_id": file_id})

    async def _send_file(self) -> str:
        path = await self._requests()
        return await self.around.provider.upload(path, f"{self.record.attempt_id}.jsonl")

    async def _refuse(self, error: ProviderError) -> None:
        logger.error("batch %s was refused: %s", self.record.id, error.code or error.status)
        await self._write(Event.REFUSED, words(error))

    async def _create(self) -> None:
        if self.cancel_asked:
            await self._refuse(_cancelled())
            return
        bought = await self._insist("record of the create", self._buy, bought=False)
        self._move(bought.record)
        if bought.unsaved is not None:
            await self._write(*bought.unsaved)
        if self.record.state is State.UPLOADED and bought.error is not None:
            await self._pause("create", bought.error, self._create_backoff)

    async def _buy(self) -> Bought:
        around = self.around
        return await run_sync(buy, around.store, around.provider, around.creates, self.record)

    async def _find_intent(self) -> None:
        """A create that somebody began and of whose end nothing is written."""
        message = "the process ended while its create was under way"
        await self._write(Event.UNKNOWN, {"message": message})

    async def _resubmit(self) -> None:
        """The user prefers twice to late."""
        logger.warning(
            "batch %s is bought again, perhaps twice (on_uncertain='resubmit')", self.record.id
        )
        await self._write(Event.AGAIN)
        await self._nap(self._create_backoff.next())

    def say_held(self) -> None:
        """Log what a person has to decide, and tell those who wait."""
        batch_id = self.record.id
        remedy = (
            f"look at the provider for a batch with the metadata anybatch={self.record.attempt_id}"
            f", then decide: await handler.resolve({batch_id!r}, platform_id=...) or "
            f"await handler.resolve({batch_id!r}, not_created=True)"
        )
        logger.error("batch %s is held: nobody knows whether it was bought; %s", batch_id, remedy)
        self.abandon(
            f"nobody knows whether batch {batch_id} was bought ({self.record.message}); {remedy}"
        )
        self.around.book.close_page(batch_id)

    # At the provider.

    async def _watch(self) -> None:
        pause = min(1.0, self.around.wait_time)
        while (remote := await self._insist("status", self._look, bought=True)) is None or (
            remote.status not in ENDS
        ):
            if self._to_be_cancelled():
                await self._insist("cancel", self._cancel_remote, bought=True)
                await self._write(Event.CANCEL)
                self.cancel_noted.set()
                pause = min(1.0, self.around.wait_time)
            await self._nap(pause)
            pause = min(pause * 2, self.around.wait_time)
        await self._write(Event.ENDED, {"remote": remote_to_json(remote)})

    async def _look(self) -> RemoteBatch | None:
        """The provider's view; None where it does not know the batch (yet)."""
        found = await self.around.provider.status([self._platform_id()])
        remote = found.get(self._platform_id())
        if remote is None:
            logger.info("batch %s: the provider does not list it yet", self.record.id)
        return remote

    def _to_be_cancelled(self) -> bool:
        if self.record.cancelled:
            return False
        age, bought_at = self.around.max_batch_age, self.record.bought_at
        too_old = age is not None and bought_at is not None and time.time() - bought_at > age
        return self.cancel_asked or too_old

    async def _cancel_remote(self) -> None:
        try:
            await self.around.provider.cancel(self._platform_id())
        except Refused as error:
            # It has ended already, says the provider: the next look will tell how.
            logger.info("batch %s cannot be cancelled: %s", self.record.id, error.status)

    def _platform_id(self) -> str:
        assert self.record.platform_id is not None
        return self.record.platform_id

    # The answers.

    async def _collect(self) -> None:
        if self.record.state is State.ENDED:
            await self._insist("results", self._download, bought=True)
        places = await self._insist("rows", self._merge, bought=True)
        await self._write(Event.COLLECTED, rows=places)
        raw = self.around.store.files.raw_rows(self.record.attempt_id)
        await run_sync(_unlink, raw)

    async def _download(self) -> None:
        await download(self.around.provider, self.record, self.around.store.files)

    async def _merge(self) -> list[RowPlace]:
        return await merge(self.record, await self._requests(), self.around.store.files)

    async def _deliver(self) -> None:
        await self.settle_known()
        if self.around.function is not None:
            await self._call(self.around.function)
        # What has been called should not be called again because we were cancelled just now.
        with anyio.move_on_after(5, shield=True):
            await self._write(Event.PROCESSED)
        if self.record.state is State.COLLECTED:
            await self._write(Event.PROCESSED)

    async def settle(self) -> None:
        """Give the receipts that somebody still holds their outcomes, from the rows on disk."""
        book, batch_id = self.around.book, self.record.id
        # Those of this moment: more may come on the page while the rows are read.
        waiting = {receipt.custom_id: receipt for receipt in book.open_receipts(batch_id)}
        path, offset, end = self.around.store.files.rows(self.record.key), 0, False
        while waiting and not end:
            outcomes, after = await run_sync(read_outcomes, path, offset)
            end, offset = after == offset, after
            for outcome in outcomes:
                settle(waiting.pop(outcome.custom_id or "", None), outcome)
        for receipt in waiting.values():
            receipt.abandon(f"batch {batch_id} has no row for this request")
        if not any(True for _ in book.open_receipts(batch_id)):
            book.close_page(batch_id)
        self.around.moved(self.record, self.record)

    async def settle_known(self) -> None:
        """As `settle`, however long the disk refuses to be read."""
        await self._insist("receipts", self.settle, bought=True)

    async def _call(self, function: Callable[[Any], Any]) -> None:
        backoff = Backoff()
        while True:
            try:
                await call_user(function, await self._finished())
            except Exception:
                logger.exception("batch_process_func raised for batch %s", self.record.id)
            else:
                self.called = True
                return
            self.called = True
            self.around.moved(self.record, self.record)
            await self._nap(backoff.next())

    async def _finished(self) -> object:
        record = self.record
        make: Callable[..., object] = getattr(self.around.provider, "finished", FinishedBatch)
        rows = self.around.store.files.rows(record.key)
        return await run_sync(make, record.id, record.platform_id, await self._requests(), rows)

    # What all steps use.

    async def _requests(self) -> Path:
        path = await run_sync(self.around.bytes.path, self.record.id)
        if path is None:
            raise FileNotFoundError(f"the bytes of batch {self.record.id!r} are gone")
        return path

    async def _insist(self, what: str, call: Callable[[], Awaitable[T]], *, bought: bool) -> T:
        """Call until it succeeds; before the purchase, a refusal is an end too."""
        backoff = Backoff()
        while True:
            try:
                return await call()
            except ProviderError as error:
                if not bought and verdict(error) is Verdict.REFUSED:
                    raise
                failure: Exception = error
            except DISK_ERRORS as error:
                failure = error
            await self._pause(what, failure, backoff)
            if self.cancel_asked and not bought:
                raise _cancelled()

    async def _pause(self, what: str, error: Exception, backoff: Backoff) -> None:
        asked = error.retry_after if isinstance(error, ProviderError) else None
        pause = max(backoff.next(), asked or 0.0)
        logger.warning(
            "batch %s: %s failed, again in %.1f s: %s", self.record.id, what, pause, _brief(error)
        )
        if isinstance(error, ProviderError) and verdict(error) is Verdict.ACCOUNT:
            self.abandon(f"the provider refuses this account, for now: {error.message}")
        await self._nap(pause)

    async def _nap(self, seconds: float) -> None:
        """Sleep, unless somebody has something to say."""
        self.around.moved(self.record, self.record)
        with anyio.move_on_after(seconds):
            await self._wake.wait()
        if self._wake.is_set():
            self._wake = anyio.Event()

    async def _write(
        self,
        event: Event,
        detail: Mapping[str, Any] | None = None,
        rows: Iterable[RowPlace] = (),
    ) -> None:
        """Write the next entry of the story, however long the disk refuses it."""
        backoff = Backoff()
        while True:
            try:
                record = await run_sync(self.around.store.append, self.record, event, detail, rows)
            except DISK_ERRORS as error:
                await self._pause("its record", error, backoff)
            else:
                self._move(record)
                return

    def _move(self, record: Record) -> None:
        before, self.record = self.record, record
        self.around.moved(before, record)

    def abandon(self, message: str) -> None:
        """Tell who waits that nobody here will learn of the answer for now."""
        for receipt in self.around.book.open_receipts(self.record.id):
            receipt.abandon(message)
        self.around.moved(self.record, self.record)


def _brief(error: Exception) -> str:
    """What may be logged: a provider's own words may quote a prompt."""
    if isinstance(error, ProviderError):
        return f"{type(error).__name__} (status {error.status}, code {error.code})"
    return str(error)


def _cancelled() -> Refused:
    return Refused("the batch was cancelled before it was created", code=CANCELLED)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)

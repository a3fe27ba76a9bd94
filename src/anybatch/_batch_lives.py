"""All batches of one entered handler: started, counted, waited for."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.lowlevel
import attrs
from anyio.abc import TaskGroup

from ._batch_life import BatchLife, Surroundings
from ._batch_purchase import DISK_ERRORS
from ._batch_states import FINISHED, PENDING, SAFE, Record, State
from ._models import Accepted, HandlerStatistics, Ranges
from ._receipts import Receipt
from ._threads import run_sync
from .batch_stores.langbatch import LiveList

logger = logging.getLogger(__name__)

PURGE_EVERY = 3600.0
BYTES_PER_TOKEN = 4
"""A rough measure of English text in JSON; it errs to the safe side for others' tokenizers."""


class Bell:
    """Wakes all who wait for a change; each then looks for itself."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None
        self.rings = 0

    def ring(self) -> None:
        """Something changed."""
        self.rings += 1
        event, self._event = self._event, None
        if event is not None:
            event.set()

    async def wait(self) -> None:
        """Return at the next change."""
        self._event = self._event or anyio.Event()
        await self._event.wait()


@attrs.frozen
class Bounds:
    """What a handler holds at most; None: no bound.

    Args:
        batches: live ones.
        tokens: of batches that have not ended, estimated from their bytes.
        stored: bytes of batch files.
        retention: seconds that rows are kept after their batch is done.
    """

    batches: int | None = None
    tokens: int | None = None
    stored: int | None = None
    retention: float = 30 * 86_400


@attrs.define(eq=False)
class Figures:
    """What is counted over the whole store."""

    states: Counter[State] = attrs.field(factory=Counter[State])
    held: list[str] = attrs.field(factory=list[str])
    rows_kept: int = 0
    bytes_kept: int = 0


@attrs.define(eq=False)
class _Entry:
    """A record on its way into the store, made by a task of the handler.

    Cancelling whoever asked for it, even natively, must not part the record from its life.
    """

    record: Record
    members: Ranges
    receipts: Mapping[str, Receipt[Any]]
    done: anyio.Event = attrs.field(factory=anyio.Event)
    answer: Accepted | None = None
    stands: Record | None = None
    error: Exception | None = None


class BatchLives:
    """The batches of one entered handler.

    Args:
        group: where each batch gets its task.
        around: what the lives share; its `moved` is ours.
        bounds: what is held at most.
        figures: what the store held on entering.
        listed: a langbatch queue that is kept as the list of live ids.
    """

    def __init__(
        self,
        group: TaskGroup,
        around: Surroundings,
        bounds: Bounds,
        figures: Figures,
        listed: LiveList | None,
    ) -> None:
        self.lives: dict[str, BatchLife] = {}
        self.bell = Bell()
        self._group = group
        self._around = attrs.evolve(around, moved=self._moved)
        self._bounds = bounds
        self._figures = figures
        self._listed = listed
        self._list_bell = Bell()
        self._purged = 0.0
        self._closed = False
        self._ended: dict[str, Record] = {}
        if listed is not None:
            group.start_soon(self._keep_list, listed, name="anybatch list of live batches")

    @property
    def live(self) -> int:
        """Batches that are neither done nor held."""
        return len(self.lives)

    def move(self, before: Record, after: Record) -> None:
        """A person decided about a held batch: count it, and go on."""
        self._moved(before, after)
        self.start(after)

    @property
    def queues(self) -> dict[str, list[str]]:
        """Live ids in langbatch's form: `pending` before the purchase, `processing` after."""
        queues: dict[str, list[str]] = {"pending": [], "processing": []}
        for life in self.lives.values():
            name = "pending" if life.record.state in PENDING else "processing"
            queues[name].append(life.record.id)
        return queues

    def statistics(self) -> HandlerStatistics:
        """Batches by state, and what a person should know of."""
        figures = self._figures
        states = {state.value: count for state, count in figures.states.items() if count}
        return HandlerStatistics(
            batches=states, held=tuple(figures.held), rows_kept=figures.rows_kept
        )

    def room(self) -> int | None:
        """How many more batches are taken now; None: no limit."""
        bounds = self._bounds
        if bounds.stored is not None and self._figures.bytes_kept >= bounds.stored:
            return 0
        if bounds.tokens is not None and self._tokens() >= bounds.tokens:
            return 0
        return None if bounds.batches is None else max(0, bounds.batches - self.live)

    def _tokens(self) -> int:
        records = (life.record for life in self.lives.values())
        return sum(r.size for r in records if r.state not in SAFE) // BYTES_PER_TOKEN

    async def wait_room(self) -> None:
        """Return when `room()` is above 0, or unlimited.

        Raises:
            ClosedResourceError: the handler is left meanwhile.
        """
        await anyio.lowlevel.checkpoint()
        while self.room() == 0:
            await self._change()

    async def _change(self) -> None:
        await self.bell.wait()
        if self._closed:
            raise anyio.ClosedResourceError

    def close(self) -> None:
        """Nobody looks any more: wake all who wait for a change."""
        self._closed = True
        self._ring()

    def start(self, record: Record) -> None:
        """Drive a batch from where it is, unless it is driven already, or done."""
        record = self._newest(record)
        ours = record.profile == self._around.provider.profile
        if not ours or record.id in self.lives or record.state in FINISHED:
            return
        life = self.lives[record.id] = BatchLife(self._around, record)
        self._group.start_soon(self._run, life, name=f"anybatch batch {record.id}")

    def _newest(self, record: Record) -> Record:
        """The record as it is now: while it was read, its batch may have gone on, or ended."""
        life = self.lives.get(record.id)
        latest = life.record if life is not None else self._ended.get(record.id, record)
        return latest if latest.length > record.length else record

    def adopt(self, record: Record, *, new: bool) -> None:
        """Drive a batch whose record was made beside us, and count it if it is new."""
        if new:
            self._count(record)
        self.start(record)

    def _count(self, record: Record) -> None:
        self._figures.states[record.state] += 1
        self._figures.bytes_kept += record.size
        self._ring()

    async def _run(self, life: BatchLife) -> None:
        try:
            await life.run()
        finally:
            del self.lives[life.record.id]
            self._ended[life.record.id] = life.record
            life.cancel_noted.set()
            self._ring()
        if life.record.state is State.DONE:
            await self.purge()

    async def enter(
        self,
        record: Record,
        members: Ranges = (),
        receipts: Mapping[str, Receipt[Any]] | None = None,
    ) -> Accepted:
        """Create a record if there is none, and drive it; durable when it returns."""
        entry = _Entry(record, members, receipts or {})
        self._group.start_soon(self._enter, entry, name=f"anybatch record {record.id}")
        with anyio.CancelScope(shield=True):
            await entry.done.wait()
        if entry.error is not None:
            raise entry.error
        assert entry.answer is not None
        return entry.answer

    async def _enter(self, entry: _Entry) -> None:
        try:
            with anyio.CancelScope(shield=True):
                accept = self._around.store.accept
                entry.answer, entry.stands = await run_sync(accept, entry.record, entry.members)
        except Exception as error:  # noqa: BLE001 - it is raised where the record was asked for
            entry.error = error
        else:
            if entry.stands is not None:
                self._take(entry, entry.stands)
        finally:
            entry.done.set()

    def _take(self, entry: _Entry, record: Record) -> None:
        """One synchronous step: counted, its receipts ours, its life begun."""
        if entry.answer is Accepted.NEW:
            self._count(record)
        if entry.receipts:
            self._around.book.open_page(record.id, entry.receipts)
        if self._newest(record).state in SAFE:
            self._settle_known(self._newest(record))
        self.start(record)
        self._ring()

    def _settle_known(self, record: Record) -> None:
        life = BatchLife(self._around, record)
        name = f"anybatch receipts {record.id}"
        self._group.start_soon(life.settle_known, name=name)

    async def wait_rows(self, batch_id: str, rings: int) -> None:
        """Return when a batch that is alive may have its rows, or has come to its end.

        :param rings: of the bell, counted before its record was read
        """
        life = self.lives.get(batch_id)
        if life is None:
            if self.bell.rings == rings:
                await self._change()
            return
        while self.lives.get(batch_id) is life and life.record.state not in SAFE:
            await self._change()

    def waited_for(self) -> list[str]:
        """Batches with receipts that somebody holds, or whose function is still to be called."""
        return [life.record.id for life in self.lives.values() if self._waits(life)]

    def _waits(self, life: BatchLife) -> bool:
        if any(True for _ in self._around.book.open_receipts(life.record.id)):
            return True
        uncalled = self._around.function is not None and not life.called
        return uncalled and life.record.state is State.COLLECTED

    async def wait_settled(self) -> None:
        """Return when nothing is waited for any more; says at INFO what it is."""
        said: list[str] = []
        while ids := self.waited_for():
            if ids != said:
                logger.info("leaving waits for %d batches: %s", len(ids), ", ".join(ids[:10]))
                said = ids
            await self.bell.wait()

    async def purge(self) -> None:
        """Forget the rows that are older than they are kept, at most once an hour."""
        now = time.time()
        if now - self._purged < PURGE_EVERY:
            return
        self._purged = now
        try:
            await run_sync(self._purge, now - self._bounds.retention)
        except DISK_ERRORS as error:
            logger.warning("old rows could not be dropped: %s", error)
        self._ring()

    def _purge(self, before: float) -> None:
        store, figures = self._around.store, self._figures
        records = store.purge(before)
        for record in records:
            self._around.bytes.discard(record.id)
        figures.rows_kept, figures.bytes_kept = store.rows_kept(), store.bytes_kept()
        if records and self._around.function is None:
            logger.warning("dropped the rows of %d batches, results_retention old", len(records))

    async def _keep_list(self, listed: LiveList) -> None:
        saved: dict[str, list[str]] | None = None
        while True:
            if (queues := self.queues) == saved:
                await self._list_bell.wait()
            else:
                await self.save_list(listed)
                saved = queues

    async def save_list(self, listed: LiveList) -> None:
        """Write the live ids into the langbatch queue; one that fails is written at the next."""
        try:
            await run_sync(listed.save, self.queues)
        except OSError as error:
            logger.warning("the list of live batches could not be written: %s", error)

    def _moved(self, before: Record, after: Record) -> None:
        figures = self._figures
        if before.state is not after.state:
            figures.states[before.state] -= 1
            figures.states[after.state] += 1
            if after.state is State.COLLECTED:
                figures.rows_kept += after.count
            if after.state is State.HELD:
                figures.held.append(after.id)
            elif before.state is State.HELD:
                figures.held.remove(after.id)
        self._ring()

    def _ring(self) -> None:
        self.bell.ring()
        self._list_bell.ring()

"""A handler's storage: records and rows of ours, bytes and list perhaps langbatch's."""

from __future__ import annotations

import logging
import time
from collections import Counter
from pathlib import Path

import attrs
import orjson

from ._batch_lives import Figures
from ._batch_states import Event, Record, State
from ._exceptions import StorageDamaged, UnknownBatch
from ._models import Accepted
from .batch_stores.files import BatchBytes, StoreLock, key_of
from .batch_stores.langbatch import LiveList
from .batch_stores.sqlite import SQLiteBatchStore

logger = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class HandlerStore:
    """What one handler reads and writes on disk. Every method blocks.

    Args:
        records: stories and index of rows; the rows lie beside it.
        bytes: the batch files.
        listed: a langbatch queue that is kept as the list of live ids.
    """

    records: SQLiteBatchStore
    bytes: BatchBytes
    listed: LiveList | None = None
    lock: StoreLock = attrs.field(
        init=False, default=attrs.Factory(lambda self: _lock_of(self.records), takes_self=True)
    )

    def open(self) -> str:
        """Take the locks and open the records; returns the store's uid.

        Raises:
            StoreInUse: another handler has it.
        """
        self.lock.acquire()
        if self.listed is not None:
            self.listed.acquire()
        uid = self.records.open()
        # What a life that was killed left half written; nobody else writes here under the lock.
        for draft in self.records.files.directory.glob(".draft-*"):
            draft.unlink(missing_ok=True)
        return uid

    def close(self) -> None:
        """Close the records and give the locks back. Again: nothing happens."""
        self.records.close()
        if self.listed is not None:
            self.listed.release()
        self.lock.release()

    def take_up(self, profile: str) -> tuple[list[Record], Figures, int]:
        """Records to go on with, the figures of the store, and how many records are others'."""
        if self.listed is not None:
            self._adopt(self.listed, profile)
        records = self.records.unfinished(profile)
        figures = Figures(
            states=Counter(self.records.counts(profile)),
            held=[record.id for record in records if record.state is State.HELD],
            rows_kept=self.records.rows_kept(),
            bytes_kept=self.records.bytes_kept(),
        )
        return records, figures, self.records.strangers(profile)

    def _adopt(self, listed: LiveList, profile: str) -> None:
        """Take over what langbatch's own handler was at; what it had bought is not bought again."""
        pending, processing = listed.load()
        for batch_id in dict.fromkeys([*pending, *processing]):
            if self.records.record(batch_id) is None:
                try:
                    self._adopt_one(batch_id, profile, bought=batch_id in processing)
                except (UnknownBatch, StorageDamaged) as error:
                    logger.error("a listed batch is passed over: %s", error)  # noqa: TRY400 - the sentence says it all

    def _adopt_one(
        self, batch_id: str, profile: str, *, bought: bool
    ) -> tuple[Record | None, bool]:
        platform_id = self.bytes.platform_id(batch_id)
        answer, record = self.records.accept(self.foreign(batch_id, profile))
        if record is None or answer is not Accepted.NEW:  # pragma: no cover - somebody was faster
            return record, False
        if platform_id is not None:
            record = self.records.append(record, Event.CREATED, {"platform_id": platform_id})
        elif bought:
            message = "it is listed as processing, but no provider's id was stored with it"
            record = self.records.append(record, Event.UNKNOWN, {"message": message})
        return record, True

    def add(self, batch_id: str, profile: str) -> tuple[Record | None, bool]:
        """Record a batch whose bytes are here, unless it is known; durable when it returns.

        Returns:
            Its record, and whether it is new.
        """
        known = self.records.record(batch_id)
        if known is not None:
            return known, False
        return self._adopt_one(batch_id, profile, bought=False)

    def foreign(self, batch_id: str, profile: str) -> Record:
        """The record of a batch whose bytes somebody else put here.

        Raises:
            UnknownBatch: there are none.
            StorageDamaged: they are no lines of a batch file.
        """
        path = self.bytes.path(batch_id)
        if path is None:
            raise UnknownBatch(
                f"the storage has no bytes for batch {batch_id!r}; where langbatch saved it, "
                "construct the handler with batch_storage=FileBatchStorage()"
            )
        endpoint, count = _survey(path, batch_id)
        return Record(
            id=batch_id,
            key=key_of(batch_id),
            queue="",
            interval="",
            endpoint=endpoint,
            count=count,
            size=path.stat().st_size,
            profile=profile,
            time=time.time(),
        )


def _survey(path: Path, batch_id: str) -> tuple[str, int]:
    """The endpoint that a batch file's lines name, and how many they are."""
    endpoint, count = "", 0
    with path.open("rb") as lines:
        for line in filter(bytes.strip, lines):
            count += 1
            try:
                request = orjson.loads(line)
                endpoint = endpoint or request["url"]
                str.encode(request["custom_id"])
            except (orjson.JSONDecodeError, LookupError, TypeError) as error:
                raise StorageDamaged(
                    f"line {count} of batch {batch_id!r} is no request of a batch file"
                ) from error
    if not count:
        raise StorageDamaged(f"batch {batch_id!r} has no lines")
    return endpoint, count


def _lock_of(records: SQLiteBatchStore) -> StoreLock:
    path = records.path
    remedy = "give this handler another name= (or another file)"
    return StoreLock(path.with_name(path.name + ".lock"), remedy)

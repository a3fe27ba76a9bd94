"""What lies in a handler's store: read beside a handler, or with none running. All blocking."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from .._batch_rows import custom_id_of
from .._batch_states import Event, Record, State
from ..batch_stores import SQLiteBatchStore
from ..batch_stores.files import StoreLock
from ._errors import UsageError

FILE = "store.db"
"""The name of a store's file in its directory, as handlers have it by default."""


def store_in(directory: Path) -> SQLiteBatchStore:
    """The store of a directory, made when it is first used."""
    return SQLiteBatchStore(directory / FILE)


def existing_store(directory: Path) -> SQLiteBatchStore:
    """The store of a directory.

    Raises:
        UsageError: there is none.
    """
    store = store_in(directory)
    if not store.path.is_file():
        raise UsageError(
            f"{directory} has no store of batches; name OUTPUT.anybatch of a run, or a directory "
            "that `anybatch paths` shows: --store DIRECTORY"
        )
    return store


def records(store: SQLiteBatchStore) -> list[Record]:
    """All its batches, oldest first."""
    query = "SELECT id FROM batches WHERE state != 'void' ORDER BY number"
    if not store.path.is_file():
        return []
    with closing(sqlite3.connect(f"{store.path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        ids = [batch_id for (batch_id,) in db.execute(query)]
    return [record for batch_id in ids if (record := store.record(batch_id)) is not None]


def custom_ids(store: SQLiteBatchStore, record: Record) -> Iterator[str]:
    """The custom ids of a batch, from its file, as long as that is kept."""
    path = store.files.path(record.id)
    if path is not None:
        with path.open("rb") as lines:
            for line in lines:
                yield custom_id_of(line)


@contextmanager
def locked(store: SQLiteBatchStore) -> Generator[None]:
    """Hold the store as an entered handler does.

    Raises:
        StoreInUse: a handler has entered it.
    """
    path = store.path.with_name(store.path.name + ".lock")
    lock = StoreLock(path, "end that process first")
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def settle_creates(store: SQLiteBatchStore, find: Callable[[str], str | None]) -> None:
    """Decide what became of creates whose outcome a kill has kept from us.

    Args:
        store: entered by nobody.
        find: the provider's id for a trace, or None; it must know for certain.
    """
    with locked(store):
        for record in records(store):
            if record.state not in {State.CREATING, State.HELD}:
                continue
            platform_id = find(record.attempt_id)
            if platform_id is not None:
                store.append(record, Event.CREATED, {"platform_id": platform_id})
            elif record.state is State.HELD:
                store.append(record, Event.AGAIN)
            else:
                message = "the provider does not have it"
                store.append(record, Event.NOT_CREATED, {"message": message})

"""`anybatch batches`, `resolve` and `paths`: a look into stores, with no handler running."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from .._batch_states import Event, Record, State
from .._exceptions import StoreInUse
from .._handler_settings import home
from ..batch_stores import SQLiteBatchStore
from ._errors import ANSWERED, UNANSWERED, UsageError
from ._stores import FILE, existing_store, locked, records

HOW_TO_DECIDE = (
    "Nobody knows whether a held batch was bought. Look for it at the provider, where its metadata "
    "has its id, then decide: anybatch resolve ID --store DIRECTORY --platform-id BATCH, or "
    "--not-created"
)


def default_directory() -> Path:
    """The directory of the handler named `default`."""
    return home() / "handlers" / "default"


def show(directory: Path | None) -> int:
    """Print a store's batches; returns 1 if one is held."""
    found = records(existing_store(directory or default_directory()))
    table = [("id", "state", "requests", "accepted", "platform id"), *map(_cells, found)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        # Not cut to the terminal's width: ids are copied from here.
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    held = sum(record.state is State.HELD for record in found)
    if held:
        print(f"{held} held. {HOW_TO_DECIDE}")
    return UNANSWERED if held else ANSWERED


def _cells(record: Record) -> tuple[str, ...]:
    accepted = datetime.fromtimestamp(record.time, UTC).strftime("%Y-%m-%d %H:%MZ")
    count, platform_id = f"{record.count:,}", record.platform_id or ""
    return record.id, record.state.value, count, accepted, platform_id


def decide(directory: Path | None, batch_id: str, platform_id: str | None) -> int:
    """Record what a person found out about a held batch.

    Args:
        directory: of the store.
        batch_id: the batch.
        platform_id: the provider's id of it; None: it was not created.

    Raises:
        UsageError: the store is in use, or has no such batch, or that one is not held.
    """
    store = existing_store(directory or default_directory())
    try:
        with locked(store):
            _decide(store, batch_id, platform_id)
    except StoreInUse as error:
        raise UsageError(str(error)) from error
    what = f"is {platform_id}" if platform_id else "will be created again"
    print(f"{batch_id} {what}; its program goes on with it when it runs next")
    return ANSWERED


def _decide(store: SQLiteBatchStore, batch_id: str, platform_id: str | None) -> None:
    record = store.record(batch_id)
    if record is None:
        raise UsageError(f"there is no batch {batch_id!r}; `anybatch batches` shows all")
    if record.state is not State.HELD:
        raise UsageError(f"the batch {batch_id} is not held but {record.state.value}")
    if platform_id is None:
        store.append(record, Event.AGAIN)
    else:
        store.append(record, Event.CREATED, {"platform_id": platform_id})


def show_paths() -> int:
    """Print the home and the stores below it."""
    print(f"home: {home()}")
    for file in sorted((home() / "handlers").glob(f"*/{FILE}")):
        print(f"store: {file.parent}")
    return ANSWERED

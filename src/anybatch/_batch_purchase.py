"""The purchase: intent, create, outcome, in one thread call, so that no cancellation parts them."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Mapping
from typing import Any, Final

import attrs

from ._batch_states import Event, Record, Verdict, verdict
from ._exceptions import ProviderError
from .abc import Provider
from .batch_stores.sqlite import SQLiteBatchStore

logger = logging.getLogger(__name__)

DISK_ERRORS: Final = (OSError, sqlite3.OperationalError)
"""What may pass: a full disk, a locked file, a lost mount. Tried again."""

_OUTCOMES: Final[Mapping[Verdict, Event]] = {
    Verdict.AGAIN: Event.NOT_CREATED,
    Verdict.ACCOUNT: Event.NOT_CREATED,
    Verdict.REFUSED: Event.REFUSED,
    Verdict.UNKNOWN: Event.UNKNOWN,
}


class Creates:
    """The creates that are on the wire, counted by their threads: a task may be gone before."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._running = 0

    def __enter__(self) -> None:
        with self._condition:
            self._running += 1

    def __exit__(self, *exc_info: object) -> None:
        with self._condition:
            self._running -= 1
            self._condition.notify_all()

    def wait(self, seconds: float) -> bool:
        """Block until none is on the wire, or that long; returns whether none is."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._running, seconds)


@attrs.frozen
class Bought:
    """What came of a create.

    Args:
        record: as far as it is written.
        unsaved: the outcome, where the disk refused it.
        error: the provider's, where there was one.
    """

    record: Record
    unsaved: tuple[Event, dict[str, Any]] | None
    error: ProviderError | None


def buy(store: SQLiteBatchStore, provider: Provider, creates: Creates, record: Record) -> Bought:
    """Create the batch at the provider, once, between its two records. Blocks.

    Raises:
        OSError, sqlite3.OperationalError: the intent could not be written; nothing was bought.
    """
    with creates:
        intent = {"file_id": record.file_id, "account": provider.account}
        record = store.append(record, Event.CREATE, intent)
        event, detail, error = _ask(provider, record)
        try:
            return Bought(store.append(record, event, detail), None, error)
        except DISK_ERRORS:
            # Bought or not, we know it: it is written as soon as the disk takes it.
            logger.exception("batch %s: the outcome of its create cannot be written", record.id)
            return Bought(record, (event, detail), error)


def _ask(provider: Provider, record: Record) -> tuple[Event, dict[str, Any], ProviderError | None]:
    assert record.file_id is not None
    try:
        remote = provider.create(record.file_id, record.endpoint, record.attempt_id)
    except ProviderError as error:
        return _OUTCOMES[verdict(error)], words(error), error
    except Exception as error:
        # Not one of the three answers a provider gives: so nobody knows.
        logger.exception("batch %s: its create raised", record.id)
        return Event.UNKNOWN, {"message": f"{type(error).__name__}: {error}"}, None
    return Event.CREATED, {"platform_id": remote.id}, None


def words(error: ProviderError) -> dict[str, Any]:
    """The provider's words, cut to what a record should hold."""
    return {"code": error.code, "message": error.message[:2000], "status": error.status}

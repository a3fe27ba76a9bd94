"""What a handler is constructed with, checked at once."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import platformdirs

from .abc import BatchQueueLike, BatchStorageLike
from .batch_stores.sqlite import SQLiteBatchStore

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def home() -> Path:
    """Where handlers keep their stores: `ANYBATCH_HOME`, else the user's state directory."""
    given = os.environ.get("ANYBATCH_HOME")
    return Path(given) if given else platformdirs.user_state_path("anybatch")


def checked_name(name: str) -> str:
    """The name, if it can be one.

    Raises:
        ValueError: it has other characters than `[A-Za-z0-9._-]`, or means a directory above.
    """
    if not _NAME.fullmatch(name) or set(name) <= {"."}:
        raise ValueError(f"name={name!r} must consist of letters, digits, '.', '_' and '-'")
    return name


@attrs.frozen(eq=False)
class HandlerSettings:
    """The arguments of `BatchHandler`, as given. Times in seconds, sizes in bytes."""

    batch_process_func: Callable[[Any], Any] | None
    batch_queue: BatchQueueLike | None
    batch_storage: SQLiteBatchStore | BatchStorageLike | None
    wait_time: float
    name: str | None
    max_active_batches: int | None
    max_enqueued_tokens: int | None
    max_stored_bytes: int | None
    max_batch_age: float | None
    settle: float
    lease_time: float
    results_retention: float
    on_exit: str
    on_uncertain: str

    def check(self) -> None:
        """Raise `ValueError` or `TypeError` for what cannot be."""
        self._check_objects()
        self._check_numbers()
        _one_of("on_exit", self.on_exit, ("wait", "leave"))
        _one_of("on_uncertain", self.on_uncertain, ("hold", "resubmit"))
        if self.name is not None:
            checked_name(self.name)

    def warn(self, create_timeout: float) -> None:
        """Say what is allowed and dear."""
        if self.settle < create_timeout:
            logger.warning(
                "settle=%s s is shorter than a create may take (%s s): a batch may be bought twice",
                self.settle,
                create_timeout,
            )

    def _check_objects(self) -> None:
        function: object = self.batch_process_func
        if function is not None and not callable(function):
            raise TypeError(f"batch_process_func={function!r} must be callable, or None")
        queue: Any = self.batch_queue
        if queue is not None and not isinstance(queue, BatchQueueLike):
            raise TypeError(f"batch_queue={queue!r} must have langbatch's save and load")
        if isinstance(self.batch_storage, SQLiteBatchStore):
            if queue is not None:
                raise ValueError("a SQLiteBatchStore keeps the list itself; drop batch_queue=")
            return
        storage: Any = self.batch_storage
        if storage is not None and not isinstance(storage, BatchStorageLike):
            raise TypeError(
                f"batch_storage={storage!r} must be a SQLiteBatchStore or have langbatch's "
                "save and load"
            )

    def _check_numbers(self) -> None:
        _number("wait_time", self.wait_time, above=0)
        _number("lease_time", self.lease_time, least=1)
        _number("settle", self.settle, least=0)
        _number("results_retention", self.results_retention, least=0)
        if self.max_batch_age is not None:
            _number("max_batch_age", self.max_batch_age, above=0)
        for name in ("max_active_batches", "max_enqueued_tokens", "max_stored_bytes"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name}={value!r} must be a whole number, or None")
            _number(name, value, least=1)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, allowed))}")


def _number(
    name: str, value: object, *, least: float | None = None, above: float | None = None
) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be a number")
    # Written so that NaN, which compares with nothing, is refused.
    if least is not None and not value >= least:
        raise ValueError(f"{name}={value!r} must be at least {least}")
    if above is not None and not value > above:
        raise ValueError(f"{name}={value!r} must be above {above}")

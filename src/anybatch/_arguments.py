"""What a dispatcher is constructed with: turned into what it works with, or refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

from .abc import LeasingQueue, RequestQueueLike
from .request_queues.adapter import AdaptedQueue
from .request_queues.memory import InMemoryRequestQueue


def as_handlers(batch_handler: Any) -> list[Any]:
    """The handlers as a list of ours; empty for a function."""
    if isinstance(batch_handler, (list, tuple)):
        given = cast("Sequence[Any]", batch_handler)
        handlers = [_handler(handler, position) for position, handler in enumerate(given, 1)]
        if not handlers:
            raise ValueError("batch_handler is an empty sequence; give at least one handler")
        _check_alike(handlers)
        for position, handler in enumerate(handlers[1:], 2):
            if hasattr(handler, "name_default"):
                handler.name_default(f"default-{position}")
        return handlers
    if hasattr(batch_handler, "add_batch"):
        return [_handler(batch_handler, 1)]
    if callable(batch_handler):
        return []
    raise TypeError(
        f"batch_handler is {batch_handler!r}; give a BatchHandler, a sequence of them, or an async "
        "function that takes a list of requests"
    )


def _handler(handler: Any, position: int) -> Any:
    if inspect.isclass(handler) or not hasattr(handler, "add_batch"):
        raise TypeError(f"{handler!r} is not a batch handler; give instances of BatchHandler")
    if hasattr(handler, "entered_for"):
        return handler
    from ._langbatch_handler import LangbatchHandler  # late: langbatch and openai take a second

    return LangbatchHandler(handler, position)


def _check_alike(handlers: Sequence[Any]) -> None:
    if len({id(h) for h in handlers}) < len(handlers):
        raise ValueError("the same handler stands twice in the sequence")
    if any(type(handler) is not type(handlers[0]) for handler in handlers):
        raise ValueError("the handlers are not all ours or all langbatch's; do not mix them")
    profiles: set[str] = {handler.provider.profile for handler in handlers}
    if len(profiles) > 1:
        raise ValueError(f"the handlers have different batch types: {', '.join(sorted(profiles))}")


def as_leasing(queue: Any, time_interval: float) -> LeasingQueue:
    """The queue with leases: as it is, or adapted."""
    if queue is None:
        return InMemoryRequestQueue()
    if isinstance(queue, LeasingQueue):
        return queue
    if isinstance(queue, RequestQueueLike) and not inspect.isclass(queue):
        return AdaptedQueue(queue, time_interval=time_interval)
    raise TypeError(
        f"queue is {queue!r}; give one of anybatch.request_queues, a RequestQueue of your own, or "
        "a langbatch one"
    )


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise a `ValueError` that names the argument and what it may be."""
    if value not in choices:
        allowed = " or ".join(repr(choice) for choice in choices if choice is not None)
        raise ValueError(f"{name} is {value!r}; give {allowed}")


def check_counts(**counts: Any) -> None:
    """Raise a `ValueError` for what is neither None nor a whole number from 1 up."""
    for name, value in counts.items():
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{name} is {value!r}; give a whole number from 1 up")


def check_seconds(**seconds: Any) -> None:
    """Raise for what is neither None nor seconds, 0 or more."""
    for name, value in seconds.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} is {value!r}; give seconds")
        if not value >= 0:
            raise ValueError(f"{name} is {value!r}; give seconds, 0 or more")

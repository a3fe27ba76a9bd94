"""What `add_requests` returns on an event loop's thread: something that may be awaited."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio
import anyio.lowlevel

logger = logging.getLogger(__name__)


def running_loop() -> anyio.lowlevel.EventLoopToken | None:
    """The event loop that runs in this thread, if there is one."""
    try:
        return anyio.lowlevel.current_token()
    except RuntimeError:  # also where asyncio.to_thread copied the context of a loop into a thread
        return None


class Added:
    """Everything is in already."""

    def __await__(self) -> Generator[Any, Any, None]:
        return anyio.lowlevel.checkpoint().__await__()


class Adding:
    """Nothing is in before this has been awaited; dropped un-awaited, it says so at ERROR.

    Args:
        count: requests that are not in yet.
        add: starts adding them.
        reason: why they are not in, for the log.
    """

    def __init__(self, count: int, add: Callable[[], Awaitable[None]], reason: str) -> None:
        self._count = count
        self._reason = reason
        self._add: Callable[[], Awaitable[None]] | None = add

    def __await__(self) -> Generator[Any, Any, None]:
        add, self._add = self._add, None
        if add is None:
            raise RuntimeError("these requests were awaited already")
        return add().__await__()

    def __del__(self) -> None:
        if self._add is not None:
            logger.error(
                "%d requests were not added: %s, and what add_requests() returned was never "
                "awaited; write `await queue.add_requests(…)`",
                self._count,
                self._reason,
            )

"""Ctrl-C and SIGTERM end what runs, and say so in the exit status."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio
from anyio import CancelScope

T = TypeVar("T")


class Stop:
    """Runs a function until it returns or a signal comes, whichever is first.

    Attributes:
        status: the exit status of a process that the signal has ended; 0: none came.
    """

    def __init__(self) -> None:
        self.status = 0

    async def guard(
        self, main: Callable[[], Awaitable[T]], beside: Callable[[], Coroutine[Any, Any, None]]
    ) -> T | None:
        """Await `main()`, with `beside()` running until then; None: a signal has cancelled it.

        Raises:
            Exception: what `main` raises, bare.
        """
        result: T | None = None
        failure: Exception | None = None
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with anyio.create_task_group() as group:
                scope = group.cancel_scope
                group.start_soon(self._watch, signals, scope, name="anybatch signals")
                group.start_soon(beside, name="anybatch progress")
                try:
                    result = await main()
                except Exception as error:  # noqa: BLE001 - raised again, out of the group
                    failure = error
                scope.cancel()
        if failure is not None:
            raise failure
        return result

    async def _watch(self, signals: AsyncIterator[signal.Signals], scope: CancelScope) -> None:
        async for number in signals:
            self.status = 128 + number
            scope.cancel()

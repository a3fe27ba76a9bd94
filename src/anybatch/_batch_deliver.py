"""Where outcomes go: to the receipts that somebody holds, and to the user's function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ._exceptions import RequestCancelled, RequestFailed
from ._models import Answer
from ._receipts import Failure, Receipt
from ._threads import run_sync


def settle(receipt: Receipt[Any] | None, outcome: Answer | RequestFailed) -> None:
    """Give a receipt its outcome, if anybody still holds it."""
    if receipt is None:
        return
    if isinstance(outcome, Answer):
        receipt.answer(outcome)
        return
    kind = type(outcome)
    failure = Failure(kind, outcome.message, outcome.code)
    receipt.fail(failure, "cancelled" if kind is RequestCancelled else "failed")


async def call_user(function: Callable[[Any], Any], batch: object) -> None:
    """Call a function with a batch: awaited if it is async, else in a worker thread."""
    if _is_async(function):
        await function(batch)
        return
    # In a tuple: Trio takes a thread's function that returns a coroutine for a mistake.
    (result,) = await run_sync(lambda: (function(batch),))
    if inspect.isawaitable(result):
        await result


def _is_async(function: Callable[[Any], Any]) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
